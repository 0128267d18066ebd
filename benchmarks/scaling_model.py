"""What several coordinators move over one store, by simulation from costs that were measured one by one.

Each coordinator has a core of its own, and more work than it can do: it decides tasks while its last commit is being written, and hands
what it has decided to the next one, as a shard does. The store is one thread: it takes whatever has arrived, does it, writes its log once
for all of it, and answers.
"""

from dataclasses import dataclass

COMMITS_PER_TASK = 2  # one with its submit and assignment, one with its end
WAITING_BELOW = 0.95  # a coordinator whose core is less busy waits for the store
MAX_IN_FLIGHT = 1000  # tasks of a coordinator, as `muster bench dispatch` has them


@dataclass(frozen=True, slots=True)
class StoreCosts:
    """What the store's thread spends, in seconds.

    Attributes:
        task_s: for a task, over both of its commits.
        commit_s: for a commit beside its tasks.
        flush_s: for writing its log to disk once.
    """

    task_s: float
    commit_s: float
    flush_s: float


@dataclass(frozen=True, slots=True)
class Scaled:
    """What so many coordinators would reach.

    Attributes:
        coordinators: how many.
        tasks_per_s: all of them together.
        coordinator_busy: the part of the time that a coordinator's core works. The store's would say nothing: with little to do
            it flushes as often as it can.
    """

    coordinators: int
    tasks_per_s: float
    coordinator_busy: float

    @property
    def first_limit(self) -> str:
        """What is used up first."""
        return "the store's thread" if self.coordinator_busy < WAITING_BELOW else "the coordinators' cores"


def simulate(store: StoreCosts, *, coordinator_task_s: float, coordinators: int, for_s: float = 2.0) -> Scaled:
    """Runs the model for `for_s` seconds of its own time. It draws nothing at random.

    Args:
        store: its costs.
        coordinator_task_s: what a coordinator's core spends on a task.
        coordinators: how many there are.
        for_s: how long.

    Raises ValueError for less than one coordinator.
    """
    if coordinators < 1:
        raise ValueError("there must be at least one coordinator")
    half_s = coordinator_task_s / COMMITS_PER_TASK  # a task is decided in halves: one for each of its commits
    handed_s = [(1 + one / coordinators) * half_s for one in range(coordinators)]  # when each handed over its commit: they begin in turn
    until_s = list(handed_s)  # up to when each one's time went into what it has handed over
    held = [1] * coordinators  # halves in that commit
    now_s = decided_s = 0.0
    done = 0
    while now_s < for_s:
        now_s = max(now_s, min(handed_s))
        taken = [one for one in range(coordinators) if handed_s[one] <= now_s]
        round_s = store.flush_s + sum(store.commit_s + held[one] * store.task_s / COMMITS_PER_TASK for one in taken)
        now_s += round_s
        for one in taken:
            done += held[one]
            decided_s += held[one] * half_s
            until_s[one] = max(until_s[one], now_s - MAX_IN_FLIGHT * half_s)  # with so many decided, it had to wait
            held[one] = max(1, int((now_s - until_s[one]) / half_s))
            until_s[one] += held[one] * half_s
            handed_s[one] = max(now_s, until_s[one])  # one that had nothing decided finishes one first
    return Scaled(
        coordinators=coordinators,
        tasks_per_s=done / COMMITS_PER_TASK / now_s,
        coordinator_busy=decided_s / now_s / coordinators,
    )
