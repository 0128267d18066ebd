"""What a breaker that is closed counts: failures in a row, and successes and failures within a sliding window.

Counting begins with a failure, so that an agent whose tasks succeed costs nothing. A task counts once, however often it fails: one bad
task, retried again and again where nothing else runs, says nothing about its agent. So does what is lost in one moment: a process that
dies with ten tasks has failed once.
"""

from collections import deque

from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.model import INFINITY, Failure, FailureKind

SLOTS = 6  # of a window: what is older leaves a sixth of it at a time
MAX_KNOWN_TASKS = 32  # that failed last: each counts once
MAX_TOLD = 200  # characters of the last failure
_LOST = (FailureKind.LEASE_LOST, FailureKind.UNDELIVERED)


class Results:
    """The results of one agent, of all types or of one, since the first failure of late.

    Args:
        rules: when they are too bad.
        of_agent: of all types: they must have failed in two of them, since what fails in one says nothing about the others.
    """

    __slots__ = ("_known", "_last", "_lost_s", "_of_agent", "_rules", "_slots", "_types", "_width_s", "failures", "in_a_row", "successes")

    def __init__(self, rules: BreakerRules, *, of_agent: bool) -> None:
        self._rules = rules
        self._of_agent = of_agent
        self._width_s = rules.window_s / SLOTS
        self._slots: deque[list[int]] = deque()  # [which slot, successes, failures], the oldest first
        self._known: dict[int, None] = {}  # numbers of the tasks that failed last
        self._types: dict[str, float] = {}  # that failed, and when last
        self._lost_s = -INFINITY
        self._last = ""
        self.in_a_row = self.successes = self.failures = 0  # the latter two within the window

    def succeeded(self, now_s: float) -> None:
        """An attempt succeeded."""
        self.in_a_row = 0
        self.successes += 1
        self._slot(now_s)[1] += 1

    def failed(self, now_s: float, number: int, task_type: str, failure: Failure) -> str:
        """An attempt failed. Answers why the breaker opens, or nothing."""
        if number in self._known or (failure.kind in _LOST and self._lost_s == now_s):
            return ""
        if failure.kind in _LOST:
            self._lost_s = now_s
        self._known[number] = None
        if len(self._known) > MAX_KNOWN_TASKS:
            del self._known[next(iter(self._known))]
        self.in_a_row += 1
        self.failures += 1
        self._slot(now_s)[2] += 1
        self._types[task_type] = now_s
        self._last = failure.message[:MAX_TOLD]
        return self._too_bad(now_s)

    def are_old(self, now_s: float) -> bool:
        """Whether nothing has failed within the window, nor at the end."""
        self._slot(now_s)
        return not self.failures and not self.in_a_row

    def _too_bad(self, now_s: float) -> str:
        rules, total = self._rules, self.successes + self.failures
        if rules.consecutive_failures and self.in_a_row >= rules.consecutive_failures:
            why = f"{self.in_a_row} tasks in a row failed there"
        elif rules.failure_rate and total >= rules.min_results and self.failures >= rules.failure_rate * total:
            why = f"{self.failures} of {total} attempts failed there within {rules.window_s:g} s"
        else:
            return ""
        if self._of_agent and sum(last_s > now_s - rules.window_s for last_s in self._types.values()) < 2:
            return ""
        return f"{why}, the last with: {self._last}"

    def _slot(self, now_s: float) -> list[int]:
        """The present slot of the window; what has left the window is no longer counted."""
        slots, present = self._slots, int(now_s / self._width_s)
        if slots and slots[-1][0] == present:
            return slots[-1]
        while slots and slots[0][0] <= present - SLOTS:
            _, successes, failures = slots.popleft()
            self.successes -= successes
            self.failures -= failures
        slots.append([present, 0, 0])
        return slots[-1]
