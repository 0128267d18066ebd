"""Tasks by number: against a sorted list, and in chunks that stay small."""

from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import ordered_tasks
from coordinator.core.model import Task
from coordinator.core.ordered_tasks import OrderedTasks
from tests.support.core_world import spec_of

SPEC = spec_of("task")
OPERATIONS = st.lists(st.tuples(st.sampled_from(["add", "add", "add at the end", "pop", "remove"]), st.integers(0, 500)), max_size=200)


def task(number):
    return Task(number, SPEC, 0)


def chunks_of(tasks):
    return [tasks.front, *tasks._behind]


@given(OPERATIONS)
def test_it_is_a_sorted_list_in_chunks(operations):
    tasks, naive = OrderedTasks(attrgetter("number")), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered_tasks, "CHUNK", 4)
        for operation, drawn in operations:
            number = max([*naive, 0]) + 1 if operation == "add at the end" else drawn
            if operation.startswith("add"):
                if number not in naive:
                    naive = sorted([*naive, number])
                    assert tasks.add(task(number), number) == (naive[0] == number)
            elif naive and operation == "pop":
                tasks.pop()
                del naive[0]
            elif naive:
                gone = naive.pop(number % len(naive))
                tasks.remove(next(one for one in tasks if one.number == gone))
            assert [one.number for one in tasks] == naive
            assert all(1 <= len(chunk) <= 4 for chunk in chunks_of(tasks)) or not naive
    assert bool(tasks.front) == bool(naive)


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2, 4)])
def test_whoever_is_not_here_can_not_leave(numbers):
    tasks = OrderedTasks(attrgetter("number"))
    for number in numbers:
        tasks.add(task(number), number)
    for number in (0, 1, 3, 5):
        with pytest.raises(KeyError):
            tasks.remove(task(number))
    assert [one.number for one in tasks] == list(numbers)


def test_whoever_leaves_from_a_long_queue_is_gone_and_so_is_its_chunk():
    tasks = OrderedTasks(attrgetter("number"))
    waiting = [task(number) for number in range(10 * ordered_tasks.CHUNK)]
    for one in waiting:
        tasks.add(one, one.number)
    for one in waiting[1:-1]:
        tasks.remove(one)
    assert list(tasks) == [waiting[0], waiting[-1]]
    assert len(chunks_of(tasks)) == 2
