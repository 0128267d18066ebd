"""What agents take tasks from: lanes, and pools of limited tasks. It must not know which of them it is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from coordinator.core.fairness import Starts
from coordinator.core.lazy_heap import LazyHeap, Ranked

if TYPE_CHECKING:
    from coordinator.core.fifo import Fifo
    from coordinator.core.load_map import Room
    from coordinator.core.model import Needs


class LimitKeys(NamedTuple):
    """What limits a task; each is empty where there is none. `task_type` is only given while some limit names the type."""

    concurrency_key: str
    rate_key: str
    task_type: str


NO_LIMITS = LimitKeys("", "", "")


class Line(Ranked):
    """Ready tasks as agents find them. Its rank is its best task's, which is `top.top` then.

    `takers` has the rooms of agents that can take them and have a free slot, by load.
    """

    __slots__ = ("rooms", "starts", "takers", "top")
    top: Fifo

    def __init__(self, serial: int) -> None:
        super().__init__(serial)
        self.starts = Starts()
        self.rooms: dict[Room, None] = {}  # of all that can take its tasks, free or not
        self.takers: LazyHeap[Room] = LazyHeap()

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What the best task needs."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many of an agent's slots each task takes."""

    @abstractmethod
    def pop(self) -> None:
        """Takes out the task that `rank()` has just found."""
