"""Which breakers are open, said a second time and naively: every result is kept, and all are counted each time.

What a timer does may come a slot late: until then the scheduler's own word is taken, and never before its time.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.core.breaker_rules import BreakerRules
from coordinator.core.breakers import Breaker, BreakerState
from coordinator.core.events import AnyEvent, PolicyDeleted, PolicySet
from coordinator.core.model import Failure, FailureKind
from coordinator.core.policies import BreakerPolicy, PolicyKind

SLOT_S = 0.25
CLOSED, OPEN, HALF_OPEN, TOLERATED = BreakerState
Said = Mapping[str, Mapping[str, Breaker]]  # the scheduler's breakers, by agent and key
Offers = Callable[[], Mapping[str, Iterable[str]]]


@dataclass(slots=True)
class KnownBreaker:
    """One agent's breaker for a type, or its own (the empty type)."""

    rules: BreakerRules
    since_s: float  # when it came to be, or became half-open
    state: BreakerState = CLOSED
    results: list[tuple[float, str, int]] = field(default_factory=list)  # when, of which type, and a failed task's number, or 0
    until_s: float = 0.0
    failed_probes: int = 0
    probe: int = 0  # the task that is it
    lost_s: float = -1.0
    twin: Breaker | None = None  # the scheduler's

    def lets_through(self) -> bool:
        """Whether the agent may be given a task now."""
        return self.state in (CLOSED, TOLERATED) or (self.state is HALF_OPEN and not self.probe)


@dataclass(slots=True)
class KnownBreakers:
    """The breakers of a fleet.

    Args:
        usual: by which rules they open where no policy says otherwise.
        jitter: what shortens each opening.
        offers: which agents that take work offer which types.
        types_of: which types an agent offered when something failed there.
    """

    usual: BreakerRules
    jitter: float
    offers: Offers
    types_of: Callable[[str], Iterable[str]]
    breakers: dict[tuple[str, str], KnownBreaker] = field(default_factory=dict)
    policies: dict[str, BreakerPolicy] = field(default_factory=dict)

    # --- what happens ---

    def takeover(self) -> None:
        """Another coordinator: all are closed."""
        self.breakers.clear()

    def reset(self, agent: str, task_type: str) -> None:
        """An operator closes them."""
        for name, key in list(self.breakers):
            if name == agent and task_type in ("", key):
                del self.breakers[name, key]

    def observe(self, event: AnyEvent) -> None:
        """A policy may have changed."""
        match event:
            case PolicySet(policy=BreakerPolicy() as policy):
                self.policies[policy.task_type] = policy
            case PolicyDeleted(name=name) if name.kind is PolicyKind.BREAKER:
                del self.policies[name.key]
            case _:
                return
        for (agent, key), breaker in list(self.breakers.items()):
            rules = self.rules(key)
            if rules != breaker.rules:
                breaker.rules = rules
                if breaker.state in (CLOSED, TOLERATED) or not (rules.consecutive_failures or rules.failure_rate):
                    del self.breakers[agent, key]

    def rules(self, key: str) -> BreakerRules:
        """By which one opens."""
        rules = self.policies[""].over(self.usual) if "" in self.policies else self.usual
        matching = [one for one in self.policies if one and key and (one == key or (one[-1] == "*" and key.startswith(one[:-1])))]
        best = max(matching, key=lambda one: (one == key, len(one)), default=None)
        return rules if best is None else self.policies[best].over(rules)

    def let_through(self, agent: str, task_type: str) -> bool:
        """Whether an agent may be given a task of a type now."""
        return all(breaker.lets_through() for _, breaker in self._concerned(agent, task_type))

    def began(self, agent: str, task_type: str, number: int) -> None:
        """An agent was given a task."""
        for key, breaker in self._concerned(agent, task_type):
            assert breaker.lets_through(), f"{agent} is given {task_type}, and its breaker for {key or 'all'} is {breaker.state}"
            if breaker.state is HALF_OPEN:
                breaker.probe = number

    def succeeded(self, agent: str, task_type: str, number: int, now_s: float) -> None:
        """An attempt succeeded."""
        for key, breaker in self._concerned(agent, task_type):
            if breaker.state is CLOSED:
                breaker.results.append((now_s, task_type, 0))
            elif breaker.probe == number:
                del self.breakers[agent, key]

    def told_nothing(self, agent: str, task_type: str, number: int) -> None:
        """An attempt was given back, was cancelled, or failed without a fault of its agent."""
        for _, breaker in self._concerned(agent, task_type):
            if breaker.probe == number:
                breaker.probe = 0

    def failed(self, agent: str, task_type: str, number: int, failure: Failure, now_s: float) -> None:
        """An attempt failed that nobody had cancelled."""
        if failure.non_retryable or failure.kind is FailureKind.CANCELLED:
            self.told_nothing(agent, task_type, number)
            return
        for key in (task_type, ""):
            rules = self.rules(key)
            if (agent, key) not in self.breakers and (rules.consecutive_failures or rules.failure_rate):
                self.breakers[agent, key] = KnownBreaker(rules, now_s)
        of_type, own = self.breakers.get((agent, task_type)), self.breakers.get((agent, ""))
        if of_type is not None:
            was_closed = of_type.state is CLOSED
            self._failed(of_type, agent, task_type, task_type, number, failure, now_s)
            if of_type.state is not CLOSED and own is not None and own.state is CLOSED:
                if was_closed:
                    own.results, own.lost_s = [], -1.0
                return
        if own is not None:
            self._failed(own, agent, "", task_type, number, failure, now_s)

    # --- time, and whether the scheduler agrees ---

    def time_passes(self, now_s: float, said: Said, here: Iterable[str]) -> None:
        """Before what was decided now: what was due has happened, or will within a slot. `here` are the agents that are there."""
        for (agent, key), breaker in list(self.breakers.items()):
            twin = said.get(agent, {}).get(key)
            breaker.twin = breaker.twin or twin
            is_same = twin is breaker.twin
            if breaker.state is OPEN and is_same and twin is not None and now_s >= breaker.until_s and twin.state is HALF_OPEN:
                breaker.state, breaker.since_s = HALF_OPEN, now_s
            elif not is_same and (
                (breaker.state is TOLERATED and now_s >= breaker.until_s)
                or (breaker.state is CLOSED and now_s >= breaker.since_s + breaker.rules.window_s)
                or (breaker.state is HALF_OPEN and now_s >= breaker.since_s + breaker.rules.max_open_s and agent not in here)
            ):
                del self.breakers[agent, key]

    def agree(self, said: Said) -> None:
        """After what was decided: the scheduler has the same."""
        there = {(agent, key): breaker for agent, own in said.items() for key, breaker in own.items()}
        states = {name: breaker.state.name for name, breaker in there.items()}
        known = {name: breaker.state.name for name, breaker in self.breakers.items()}
        assert states == known, f"breakers are {states}, and should be {known}"
        for name, breaker in self.breakers.items():
            breaker.twin = breaker.twin or there[name]
            assert breaker.twin is there[name], f"the breaker {name} was forgotten early"

    def nothing_is_overdue(self, now_s: float) -> None:
        """A probe comes in time."""
        for name, breaker in self.breakers.items():
            if breaker.state in (OPEN, TOLERATED):
                assert now_s < breaker.until_s + SLOT_S, f"the breaker {name} should have been looked at"

    # --- naive answers ---

    def _concerned(self, agent: str, task_type: str) -> list[tuple[str, KnownBreaker]]:
        return [(key, self.breakers[agent, key]) for key in (task_type, "") if (agent, key) in self.breakers]

    def _failed(self, breaker: KnownBreaker, agent: str, key: str, task_type: str, number: int, failure: Failure, now_s: float) -> None:
        if breaker.probe == number:
            breaker.probe, breaker.failed_probes = 0, breaker.failed_probes + 1
            self._open(breaker, now_s)
        elif breaker.state is CLOSED:
            lost = failure.kind in (FailureKind.LEASE_LOST, FailureKind.UNDELIVERED)
            known = [one for _, _, one in breaker.results if one][-32:]
            if number in known or (lost and breaker.lost_s == now_s):
                return
            breaker.lost_s = now_s if lost else breaker.lost_s
            breaker.results.append((now_s, task_type, number))
            if not self._is_too_bad(breaker, key, now_s):
                return
            if self._may_open(breaker, agent, key):
                self._open(breaker, now_s)
            else:
                breaker.state, breaker.until_s = TOLERATED, now_s + breaker.rules.open_s

    def _open(self, breaker: KnownBreaker, now_s: float) -> None:
        rules = breaker.rules
        breaker.state = OPEN
        breaker.until_s = now_s + min(rules.open_s * 2**breaker.failed_probes, rules.max_open_s) * (1 - self.jitter)

    @staticmethod
    def _is_too_bad(breaker: KnownBreaker, key: str, now_s: float) -> bool:
        rules, width_s = breaker.rules, breaker.rules.window_s / 6
        in_a_row = 0
        for _, _, number in reversed(breaker.results):
            if not number:
                break
            in_a_row += 1
        recent = [number for when_s, _, number in breaker.results if int(when_s / width_s) > int(now_s / width_s) - 6]
        failed = sum(number > 0 for number in recent)
        by_rate = rules.failure_rate and len(recent) >= rules.min_results and failed >= rules.failure_rate * len(recent)
        in_a_row_enough = rules.consecutive_failures and in_a_row >= rules.consecutive_failures
        types = {one for when_s, one, number in breaker.results if number and when_s > now_s - rules.window_s}
        return (bool(key) or len(types) > 1) and bool(in_a_row_enough or by_rate)

    def _may_open(self, breaker: KnownBreaker, agent: str, key: str) -> bool:
        offers = self.offers()
        for task_type in [key] if key else self.types_of(agent):
            able = {name for name, those in offers.items() if task_type in those} | {agent}
            shut = {name for name in able if any(one.state in (OPEN, HALF_OPEN) for _, one in self._concerned(name, task_type))} - {agent}
            if len(shut) + 1 > breaker.rules.max_open_share * len(able) + 1e-9:
                return False
        return True
