"""Who shares what: one virtual time per fairness key and effective priority, whatever lanes the key's tasks stand in.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): of the keys with ready tasks the one with the lowest virtual time goes first, and
each task served moves its key on by cost over weight. A key that was idle begins where those being served are: it saves nothing up. "Where"
is the latest start that the task's lane, or the class of agents that takes it, has seen: work that other agents do says nothing about it.

All of it is volatile: after a restart everybody begins as equals. It must not know queues or agents.
"""

from collections import OrderedDict
from collections.abc import Mapping

from coordinator.core.model import Priority, ShareBy

MAX_IDLE = 4096  # keys remembered for what they have had, though nothing of theirs waits or runs: per priority


class Share:
    """What one key has had at one effective priority."""

    __slots__ = ("credit", "key", "race", "typical", "users", "virtual", "weight")

    def __init__(self, key: str, race: "Race", weight: float) -> None:
        self.key = key
        self.race = race
        self.weight = weight
        self.virtual = 0.0  # never gets less, so that it is a lower bound of itself
        self.credit = 0.0  # charged before the cost was known, and not yet given back
        self.typical = 1.0  # what its last task took, where that is only known afterwards
        self.users = 0  # queues whose head is its, and attempts whose cost isn't settled

    def charge(self, cost: float) -> None:
        """Moves the key on by a cost."""
        free = min(self.credit, cost)
        self.credit -= free
        self.virtual += (cost - free) / self.weight


class Starts:
    """How far a lane, or a class of agents, has come: the latest virtual time that it has served, by effective priority."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = [0.0] * (Priority.CRITICAL + 1)


class Race:
    """The keys of one effective priority."""

    __slots__ = ("_idle", "_weights", "keyless", "level", "shares")

    def __init__(self, level: int, weights: Mapping[str, float]) -> None:
        self.level = level
        self._weights = weights
        self.keyless = Share("", self, weights.get("", 1.0))  # of the tasks without a key: always here
        self.shares: dict[str, Share] = {}  # of the others; while there are none, nothing needs counting
        self._idle: OrderedDict[str, Share] = OrderedDict()

    def join(self, key: str, start: float) -> Share:
        """The share of a key that a queue uses from now on. A key that was idle begins where the queue's lane is, or behind that."""
        if not key:
            return self.keyless
        share = self.shares.get(key)
        if share is None:
            share = self.shares[key] = Share(key, self, self._weights.get(key, 1.0))
        elif not share.users:
            del self._idle[key]
        if not share.users:
            share.virtual = max(share.virtual, start)
        share.users += 1
        return share

    def leave(self, share: Share) -> None:
        """One user less. What a key has had is remembered until the others have had as much, or MAX_IDLE keys are idle."""
        if share is self.keyless:
            return
        share.users -= 1
        if not share.users:
            self._idle[share.key] = share
            if len(self._idle) > MAX_IDLE:
                self._forget()

    def serve(self, share: Share, cost: float, lane: Starts, group: Starts) -> None:
        """A task of the key is served from a lane, by a class of agents."""
        level = self.level
        start = max(share.virtual, lane.at[level], group.at[level])
        lane.at[level] = group.at[level] = share.virtual = start
        share.charge(cost)
        if self._idle and next(iter(self._idle.values())).virtual <= start:
            self._forget()

    def _forget(self) -> None:
        key, _ = self._idle.popitem(last=False)
        del self.shares[key]


class Charge:
    """What a running attempt was charged, before anybody could know what it costs."""

    __slots__ = ("cost", "share", "started_s")

    def __init__(self, share: Share, cost: float, started_s: float) -> None:
        self.share = share
        self.cost = cost
        self.started_s = started_s


class Fairness:
    """The races of a namespace.

    Args:
        share_by: what a task costs its key.
        weights: of keys; 1 for those it doesn't name.
    """

    def __init__(self, share_by: ShareBy, weights: Mapping[str, float]) -> None:
        self.share_by = share_by
        self._weights = dict(weights)
        self.races: dict[int, Race] = {level: Race(level, self._weights) for level in Priority}

    def set_weight(self, key: str, weight: float) -> None:
        """From now on the key gets this much."""
        self._weights[key] = weight
        for race in self.races.values():
            share = race.shares.get(key) if key else race.keyless
            if share is not None:
                share.weight = weight

    def serve(self, share: Share, cost: float, lane: Starts, group: Starts, now_s: float) -> Charge | None:
        """Charges a task to its key as it is assigned; `cost` is 0 where its client gave none. Answers what to settle at its end."""
        if self.share_by is ShareBy.TASKS:
            share.race.serve(share, 1.0, lane, group)
            return None
        estimate = cost or (share.typical if self.share_by is ShareBy.SECONDS else 1.0)
        share.race.serve(share, estimate, lane, group)
        if share.key:
            share.users += 1
        return Charge(share, estimate, now_s)

    def settle(self, charge: Charge, reported: float, now_s: float) -> None:
        """An attempt is over: its key pays what it really cost. `reported` is 0 where its agent said nothing."""
        share = charge.share
        actual = reported
        if self.share_by is ShareBy.SECONDS:
            actual = share.typical = reported or max(now_s - charge.started_s, 0.001)
        if actual > charge.cost:
            share.charge(actual - charge.cost)
        elif actual:
            share.credit += charge.cost - actual
        share.race.leave(share)
