"""Live tasks are gone through in order, some at a time, however many there are and however few of their numbers are still in use."""

from itertools import chain

import pytest

from coordinator.core.model import Task
from coordinator.core.state import State
from coordinator.rpc import live_walk
from coordinator.rpc.live_walk import LOOK, SHOW, LiveWalk
from tests.support.core_world import spec_of


def state_of(numbers, *, next_number=None, payload=b""):
    state = State()
    spec = spec_of("task", payload=payload)
    state.by_number = {number: Task(number, spec, 0) for number in numbers}
    state.next_number = next_number or (max(numbers, default=0) + 1)
    return state


def walked(walk, matches=lambda _: True, *, most=1000):
    slices = []
    while not walk.is_over():
        slices.append([task.number for task in walk.slice(matches, most=most)])
    return slices


def flat(slices):
    return list(chain.from_iterable(slices))


@pytest.mark.parametrize(
    "numbers, start",
    [([], 1), ([1], 1), (range(1, 500), 1), (range(1, 500), 77), (range(1, 500), 900), ([5, 9, 10**9], 1), ([5, 9, 10**9], 6), ([5], 6)],
)
def test_all_from_the_start_on_are_met_once_and_in_order(numbers, start):
    walk = LiveWalk(state_of(numbers), start=start)
    assert flat(walked(walk)) == [number for number in numbers if number >= start]
    assert walk.next_number() == max(numbers, default=0) + 1


def test_a_slice_is_bounded_by_what_is_found_and_by_what_is_looked_at(monkeypatch):
    numbers = range(1, 1001)
    assert {len(one) for one in walked(LiveWalk(state_of(numbers), start=1), most=100)} == {100}
    monkeypatch.setattr(live_walk, "SLICE", 10 * (1 + LOOK))
    looked = []
    assert walked(LiveWalk(state_of(numbers), start=1), lambda task: looked.append(task) or False) == [[]] * 100
    assert len(looked) == 1000
    monkeypatch.setattr(live_walk, "SLICE", 10 * SHOW)
    assert max(map(len, walked(LiveWalk(state_of(numbers), start=1)))) == 10
    large = state_of(range(1, 11), payload=bytes(2**20 - 100))
    assert max(map(len, walked(LiveWalk(large, start=1)))) <= 2, "a filter may read the request"


def test_a_gap_of_any_width_costs_nothing():
    walk = LiveWalk(state_of([1, 10**12]), start=1)
    assert walked(walk) == [[1, 10**12]]


@pytest.mark.parametrize("numbers", [range(1, 101), range(1, 10**6, 10**4)])
def test_tasks_may_come_and_go_between_slices(numbers):
    state = state_of(numbers)
    walk = LiveWalk(state, start=1)
    first = walk.slice(lambda _: True, most=10)
    gone = list(numbers)[10:50]
    for number in gone:
        del state.by_number[number]
    later = Task(state.next_number, spec_of("later"), 0)
    state.by_number[state.next_number] = later
    state.next_number += 1
    assert [task.number for task in first] + flat(walked(walk)) == [number for number in numbers if number not in gone]
    again = LiveWalk(state, start=walk.next_number())
    assert flat(walked(again)) == [later.number]
