"""How often attempts begin, by rate key and by task type: durable, written by `evolve` alone, and kept in snapshots.

In every window of a limit's period at most so many attempts begin, by the dates of the journal. What began is kept as a log over a sliding
window (Figueroa and others, "Redis Best Practices", 2018, call it that), but as runs: how many began in each slot of time, each counted as
if at the slot's very end. For counts up to MAX_EXACT a slot is a millisecond, and the log is exact; beyond, a window has MAX_EXACT slots,
so a start is given back later than it could be by at most a 128th of the period, and never earlier. Memory and steps are bounded by that
number, whatever the count. A token bucket of the same rate would let nearly twice the count begin within one period.

Only keys that a limit matches have a log, and only while it has something in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from coordinator.core.patterns import Patterns

if TYPE_CHECKING:
    from coordinator.core.model import Spec
    from coordinator.core.policies import PolicyName, RateLimitPolicy

MAX_EXACT = 128
_SWEPT_PER_START = 2  # logs that are looked at whether they are over: one more than can come to be

Starts = tuple[tuple[int, int], ...]
"""Runs of starts in order: the date in milliseconds that they count from, and how many."""


class Log:
    """What began under one key. `starts` is replaced and never changed, so that a snapshot can hold on to it."""

    __slots__ = ("starts", "used")

    def __init__(self, starts: Starts = ()) -> None:
        self.starts = starts
        self.used = sum(number for _, number in starts)  # not yet given back when something last began

    def note(self, date_ms: int, policy: RateLimitPolicy) -> None:
        """An attempt begins."""
        starts, gone = self.starts, 0
        while gone < len(starts) and starts[gone][0] + policy.period_ms <= date_ms:
            self.used -= starts[gone][1]
            gone += 1
        slot_ms = 1 if policy.count <= MAX_EXACT else max(1, policy.period_ms // MAX_EXACT)
        counts_from_ms = date_ms // slot_ms * slot_ms + slot_ms - 1
        if gone < len(starts) and starts[-1][0] >= counts_from_ms:
            last_ms, number = starts[-1]
            self.starts = (*starts[gone:-1], (last_ms, number + 1))
        else:
            self.starts = (*starts[gone:], (counts_from_ms, 1))
        self.used += 1

    def used_at(self, date_ms: int, policy: RateLimitPolicy) -> int:
        """How many of the starts count at a date."""
        used = self.used
        for began_ms, number in self.starts:
            if began_ms + policy.period_ms > date_ms:
                break
            used -= number
        return used

    def free_at(self, policy: RateLimitPolicy) -> int | None:
        """When one more may begin, if nothing begins until then; None when none ever may, 0 when one always could have."""
        used = self.used
        if used < policy.count:
            return 0
        for began_ms, number in self.starts:
            used -= number
            if used < policy.count:
                return began_ms + policy.period_ms
        return None

    def postpone(self, since_ms: int, date_ms: int) -> None:
        """What began at `since_ms` or later did so as late as `date_ms`."""
        earlier = tuple(run for run in self.starts if run[0] < since_ms)
        late = sum(number for began_ms, number in self.starts if began_ms >= since_ms)
        if late:
            self.starts = (*earlier, (max(date_ms, self.starts[-1][0]), late))


class RateRule:
    """A limit, and the logs of the keys that it matches: the one in which something began longest ago comes first."""

    __slots__ = ("logs", "policy")

    def __init__(self, policy: RateLimitPolicy) -> None:
        self.policy = policy
        self.logs: OrderedDict[str, Log] = OrderedDict()

    def note(self, key: str, date_ms: int) -> None:
        """An attempt of a key begins."""
        logs = self.logs
        log = logs.get(key)
        if log is None:
            log = logs[key] = Log()
        else:
            logs.move_to_end(key)
        log.note(date_ms, self.policy)
        for _ in range(_SWEPT_PER_START):
            first = next(iter(logs))
            if logs[first].starts[-1][0] + self.policy.period_ms > date_ms:
                break
            del logs[first]

    def postpone(self, since_ms: int, date_ms: int) -> Iterator[str]:
        """Postpones what began at `since_ms` or later, and looks at no other keys. Answers whose it is."""
        for key, log in reversed(self.logs.items()):
            if log.starts[-1][0] < since_ms:
                return
            log.postpone(since_ms, date_ms)
            yield key


class RateBook:
    """The rate limits of a namespace, and what began under them."""

    __slots__ = ("in_use", "keys", "types")

    def __init__(self) -> None:
        self.keys: Patterns[RateRule] = Patterns()  # by rate key
        self.types: Patterns[RateRule] = Patterns()  # by task type
        self.in_use = False  # whether there is any: each assignment looks, and asking both costs it 0.1 us

    def set(self, policy: RateLimitPolicy) -> None:
        """A limit holds from now on. What began under the one before it counts."""
        rule = self._of(policy).get(policy.pattern)
        if rule is None:
            self._of(policy).set(policy.pattern, RateRule(policy))
        else:
            rule.policy = policy
        self.in_use = True

    def delete(self, policy: RateLimitPolicy) -> None:
        """A limit holds no longer, and what began under it is forgotten."""
        self._of(policy).delete(policy.pattern)
        self.in_use = bool(self.keys or self.types)

    def note(self, spec: Spec, date_ms: int) -> None:
        """An attempt of a task begins."""
        rate_key = spec.scheduling.rate_key
        if rate_key and (rule := self.keys.match(rate_key)) is not None:
            rule.note(rate_key, date_ms)
        if (rule := self.types.match(spec.task_type)) is not None:
            rule.note(spec.task_type, date_ms)

    def restore(self, policy: RateLimitPolicy, key: str, starts: Starts) -> None:
        """Takes a log of a snapshot in, in the order of a `RateWalk`, after its limit."""
        self._of(policy)[policy.pattern].logs[key] = Log(starts)

    def postpone(self, since_ms: int, date_ms: int) -> tuple[list[str], list[str]]:
        """What began at `since_ms` or later was sent no earlier than `date_ms`: the store was out. Answers the rate keys, and the types."""
        keys, types = (
            [key for rule in patterns.values() for key in rule.postpone(since_ms, date_ms)] for patterns in (self.keys, self.types)
        )
        return keys, types

    def _of(self, policy: RateLimitPolicy) -> Patterns[RateRule]:
        return self.types if policy.task_type else self.keys


class RateWalk:
    """One walk over what began under a namespace's rate limits, for a snapshot, beside that over its tasks.

    Starts are never changed, so lists of them are what they are now: some milliseconds for a hundred thousand keys.

    Args:
        rates: the namespace's.
        keep: takes the starts of a key, with their limit.
    """

    __slots__ = ("_each", "_keep", "_left")

    def __init__(self, rates: RateBook, keep: Callable[[PolicyName, str, Starts], None]) -> None:
        rules = [rule for patterns in (rates.keys, rates.types) for rule in patterns.values()]
        copied = [(rule.policy.name, list(rule.logs), [log.starts for log in rule.logs.values()]) for rule in rules]
        self._left = sum(len(keys) for _, keys, _ in copied)
        self._each: Iterator[tuple[PolicyName, str, Starts]] = (
            (name, *log) for name, keys, starts in copied for log in zip(keys, starts, strict=True)
        )
        self._keep = keep

    def step(self, limit: int) -> bool:
        """Hands over the next `limit`. Answers whether there are more."""
        for name, key, starts in islice(self._each, limit):
            self._keep(name, key, starts)
        self._left -= limit
        return self._left > 0

    def abandon(self) -> None:
        """Ends the walk before its time."""
        self._each, self._left = iter(()), 0
