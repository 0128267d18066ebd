"""Where live tasks are found without a look at all of them: by labels, parent, type, state or agent. Derived from the state.

A task without labels and parent costs what its type does: a look at whether its block knows it. The numbers of tasks are cut into blocks,
and a block knows of which types it was ever given one: a search by type skips the others. It must not know filters.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from coordinator.core.load_map import LoadMap
from coordinator.core.model import Task
from coordinator.core.state import State

BLOCK_BITS = 10  # 1,024 numbers
_MIN_BLOCKS = 64  # those of tasks that have ended go only when it pays

Numbers = dict[int, None]  # in the order of their tasks' ages, as long as tasks come in it


class TaskIndex:
    """Of one namespace.

    Args:
        state: whose live tasks.
        load: who runs which.
    """

    def __init__(self, *, state: State, load: LoadMap) -> None:
        self.labels: dict[tuple[str, str], Numbers] = {}
        self.parents: dict[str, Numbers] = {}
        self.tried: Numbers = {}  # what waits and had an attempt: all that is RETRYING, and what was returned
        self._state = state
        self._load = load
        self._blocks: dict[int, dict[str, None]] = {}  # the types of each, by number >> BLOCK_BITS, the oldest first
        self._block = -1  # the youngest,
        self._type = ""  # and the type that it has just been given

    def add(self, task: Task) -> None:
        """A task is live now."""
        spec, number = task.spec, task.number
        if spec.task_type is not self._type or number >> BLOCK_BITS != self._block:
            self._add_type(number >> BLOCK_BITS, spec.task_type)
        if spec.labels:
            for label in spec.labels:
                self.labels.setdefault(label, {})[number] = None
        if spec.parent:
            self.parents.setdefault(spec.parent, {})[number] = None

    def remove(self, task: Task) -> None:
        """A task has ended."""
        spec = task.spec
        if self.tried:
            self.tried.pop(task.number, None)
        if spec.labels:
            for label in spec.labels:
                numbers = self.labels[label]
                del numbers[task.number]
                if not numbers:
                    del self.labels[label]
        if spec.parent:
            numbers = self.parents[spec.parent]
            del numbers[task.number]
            if not numbers:
                del self.parents[spec.parent]

    def _add_type(self, block: int, task_type: str) -> None:
        self._block, self._type = block, task_type
        types = self._blocks.get(block)
        if types is None:
            types = self._blocks[block] = {}
            self._sweep()
        types[task_type] = None

    def _sweep(self) -> None:
        """Looks at the oldest two blocks: one that is dead goes, one that is not becomes the youngest to be looked at."""
        live = len(self._state.by_number) >> BLOCK_BITS
        for _ in range(2):
            if len(self._blocks) <= max(_MIN_BLOCKS, 2 * live):
                return
            block = next(iter(self._blocks))
            types = self._blocks.pop(block)
            if block == self._block or not self._state.by_number.keys().isdisjoint(_numbers_of(block)):
                self._blocks[block] = types

    def of_label(self, name: str, values: Iterable[str]) -> list[int]:
        """The numbers of tasks with the label `name` and one of `values`, the oldest first."""
        return _sorted(self.labels.get((name, value), {}) for value in values)

    def count_of_label(self, name: str, values: Iterable[str]) -> int:
        """How many these are."""
        return sum(len(self.labels.get((name, value), ())) for value in values)

    def of_parents(self, parents: Iterable[str]) -> list[int]:
        """The numbers of the tasks that one of these tasks submitted, the oldest first."""
        return _sorted(self.parents.get(parent, {}) for parent in parents)

    def count_of_parents(self, parents: Iterable[str]) -> int:
        """How many these are."""
        return sum(len(self.parents.get(parent, ())) for parent in parents)

    def of_ids(self, task_ids: Iterable[str]) -> list[int]:
        """The numbers of the live ones among these tasks, the oldest first."""
        found = (self._state.tasks.get(task_id) for task_id in task_ids)
        return sorted(task.number for task in found if task is not None)

    def of_agents(self, names: Iterable[str]) -> list[int]:
        """The numbers of the tasks that may have had their last attempt at one of these agents, the oldest first: no other has."""
        agents = (self._load.agents.get(name) for name in names)
        return _sorted([self.tried, *(agent.running for agent in agents if agent is not None)])

    def count_of_agents(self, names: Iterable[str]) -> int:
        """How many these are."""
        agents = (self._load.agents.get(name) for name in names)
        return len(self.tried) + sum(len(agent.running) for agent in agents if agent is not None)

    def of_running(self) -> list[int]:
        """The numbers of all that run, the oldest first."""
        return _sorted(agent.running for agent in self._load.agents.values())

    def count_of_running(self) -> int:
        """How many these are."""
        return sum(len(agent.running) for agent in self._load.agents.values())

    def of_tried(self) -> list[int]:
        """The numbers of the tasks that wait and had an attempt, the oldest first."""
        return sorted(self.tried)

    def of_types(self, types: frozenset[str], *, start: int) -> Iterator[int]:
        """Numbers from `start` on, the oldest first, among which are those of all live tasks of these types."""
        blocks = sorted(block for block, known in self._blocks.items() if block >= start >> BLOCK_BITS and not types.isdisjoint(known))
        return chain.from_iterable(range(max(start, block << BLOCK_BITS), (block + 1) << BLOCK_BITS) for block in blocks)

    def knows(self, task: Task) -> bool:
        """Whether a live task would be found by all that it has: for tests."""
        spec, number = task.spec, task.number
        return (
            spec.task_type in self._blocks.get(number >> BLOCK_BITS, {})
            and all(number in self.labels.get(label, {}) for label in spec.labels)
            and (not spec.parent or number in self.parents.get(spec.parent, {}))
        )


def _numbers_of(block: int) -> range:
    return range(block << BLOCK_BITS, (block + 1) << BLOCK_BITS)


def _sorted(groups: Iterable[Iterable[int]]) -> list[int]:
    numbers = list(chain.from_iterable(groups))
    numbers.sort()  # nearly free where they are in order already
    return numbers
