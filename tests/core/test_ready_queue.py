"""The queue against a naive model: a plain list, sorted whenever somebody asks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core.fairness import Fairness
from coordinator.core.fifo import Ages, Fifo
from coordinator.core.lazy_heap import LazyHeap
from coordinator.core.model import Needs, ShareBy, Task, TaskState
from coordinator.core.ready_queue import Lane, ReadyQueue
from tests.support.core_world import load_map, spec_of


def task(place, *, priority=2, task_type="work"):
    made = Task(place, spec_of(f"t{place}", task_type, priority=priority), 0)
    made.place = place
    return made


def ages(period_ms=60_000):
    return Ages(period_ms, Fairness(ShareBy.COST, {}).races)


def fifo():
    clock = ages()
    return Fifo(Lane(Needs("work"), 1, clock), "", 2, 1, clock)


def head_of(level):
    return None if level.rank() is None else level.top


def cancel(level, waiting):
    waiting.state = TaskState.CANCELLED
    level.forget(waiting)


def test_first_in_first_out():
    level = fifo()
    tasks = [task(place) for place in (1, 2, 3)]
    for one in tasks:
        level.add(one)
    for one in tasks:
        assert head_of(level) is one
        level.pop()
    assert level.rank() is None


def test_a_returned_task_takes_its_old_place_again():
    level = fifo()
    first, second, third = (task(place) for place in (1, 2, 3))
    level.add(second)
    level.add(third)
    assert level.add(first), "it is the new head, and agents must hear of it"
    assert head_of(level) is first


def test_a_returned_task_may_lead_although_nothing_fresh_is_left():
    level = fifo()
    for place in (7, 8):
        level.add(task(place))
    seventh = head_of(level)
    level.pop()
    level.add(seventh)  # behind nothing but in front of the eighth: it stands among the returned
    eighth = next(one for one in level if one is not seventh)
    cancel(level, eighth)
    assert head_of(level) is seventh
    assert level.add(task(3)), "the third goes before the seventh"
    assert head_of(level).place == 3


def test_a_cancelled_head_is_skipped():
    level = fifo()
    first, second = task(1), task(2)
    level.add(first)
    level.add(second)
    cancel(level, first)
    assert head_of(level) is second
    assert level.live == 1


@pytest.mark.parametrize("last", ["cancelled", "taken"])
def test_an_empty_queue_holds_on_to_nothing(last):
    level = fifo()
    tasks = [task(place) for place in (1, 3, 4, 2)]
    for one in tasks:
        level.add(one)
    assert head_of(level) is tasks[0]
    for one in tasks[1:]:
        cancel(level, one)
    if last == "taken":
        level.pop()
    else:
        cancel(level, tasks[0])
    assert not list(level)
    assert not hasattr(level, "top")


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["new", "new", "return", "pop", "cancel", "peek"]), st.integers(0, 10**6)),
    max_size=120,
)


@given(OPERATIONS)
def test_a_level_is_a_sorted_list(operations):
    level, waiting, taken, number = fifo(), [], [], 0
    for operation, pick in operations:
        if operation == "new" or (operation == "return" and taken):
            number += operation == "new"
            one = task(number) if operation == "new" else taken.pop(pick % len(taken))
            may_lead = level.add(one)
            waiting.append(one)
            assert may_lead or min(waiting, key=lambda each: each.place) is not one, "a new head must never be concealed"
        elif operation == "pop" and waiting:
            head = head_of(level)
            level.pop()
            waiting.remove(head)
            taken.append(head)
        elif operation == "cancel" and waiting:
            cancel(level, waiting.pop(pick % len(waiting)))
        elif operation == "peek":
            level.rank()
        assert level.live == len(waiting) == len(list(level))
        best = min(waiting, key=lambda each: each.place, default=None)
        if operation in ("pop", "peek"):
            assert head_of(level) is best
    assert sorted(one.place for one in level) == sorted(one.place for one in waiting)


@given(OPERATIONS)
def test_a_level_of_many_chunks_is_a_sorted_list(operations):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coordinator.core.ordered_tasks.CHUNK", 4)
        test_a_level_is_a_sorted_list.hypothesis.inner_test(operations)


def test_a_lane_serves_the_higher_priority_first():
    lane = Lane(Needs("work"), 1, ages())
    for one in (task(1, priority=2), task(2, priority=4), task(3, priority=1), task(4, priority=4)):
        lane.add(one)
    order = []
    while (head := lane.head()) is not None:
        order.append(head.place)
        lane.pop()
    assert order == [2, 4, 1, 3]


def queue_of(lanes_opened, lanes_closed):
    return ReadyQueue(
        ages=ages(), pools=load_map().pools, is_limited=lambda _: False, opened=lanes_opened.append, closed=lanes_closed.append
    )


def add(queue, one):
    lane = queue.lanes.get(one.spec.task_type)
    if lane is None:
        return queue.open(one, spare=0)
    return lane if lane.add(one) else None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "return", "take", "cancel", "best", "take out"]),
            st.integers(0, 4),
            st.integers(1, 4),
            st.integers(0, 10**6),
        ),
        max_size=150,
    )
)
def test_heaps_of_lanes_answer_the_best_head_of_all(operations):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coordinator.core.ready_queue._MIN_STALE", 2)  # compact and sweep all the time
        patch.setattr("coordinator.core.lazy_heap._MIN_STALE", 2)
        heaps, waiting, taken, number = [LazyHeap(), LazyHeap()], [], [], 0
        queue = ReadyQueue(
            ages=ages(),
            pools=load_map().pools,
            is_limited=lambda _: False,
            opened=lambda lane: [heap.tell(lane) for heap in heaps],
            closed=lambda lane: [heap.discard(lane) for heap in heaps],
        )
        for operation, kind, priority, pick in operations:
            if operation == "add" or (operation == "return" and taken):
                number += operation == "add"
                one = task(number, priority=priority, task_type=f"type{kind}") if operation == "add" else taken.pop(pick % len(taken))
                waiting.append(one)
                lane = add(queue, one)
                if lane is not None:
                    lane.improved()
            elif operation == "take" and waiting:
                one = min(waiting, key=lambda each: (each.spec.task_type != f"type{kind}", -each.spec.priority, each.place))
                lane = queue.lanes[one.spec.task_type]
                assert lane.head() is one
                lane.pop()  # the heaps aren't told
                waiting.remove(one)
                taken.append(one)
            elif operation == "cancel" and waiting:
                one = waiting.pop(pick % len(waiting))
                one.state = TaskState.CANCELLED
                queue.forget(one)
            elif operation in ("best", "take out"):
                best = min(waiting, key=lambda each: (-each.spec.priority, each.place), default=None)
                heap = heaps[pick % 2]
                bound = heap.bound()
                found = heap.best() if operation == "best" else heap.take()
                assert (found and found.top.top) is best
                if found is not None:
                    assert bound <= found.rank(), "it must not promise more than there is"
                    if operation == "take out":
                        assert found not in heap
                        heap.put(found, found.rank())


def test_whatever_gets_worse_costs_nothing_and_what_gets_better_costs_those_who_looked():
    queue, heaps = queue_of([], []), [LazyHeap() for _ in range(100)]
    lane = add(queue, task(1000))
    for heap in heaps:
        heap.tell(lane)
    assert heaps[0].best() is lane
    assert list(lane.watchers) == [heaps[0]]
    for place in range(999, 900, -1):
        assert add(queue, task(place)) is lane
        lane.improved()
        assert not lane.watchers, "the others have an entry before all others anyway"
    assert all(len(heap._heap) <= 2 for heap in heaps)


def test_lanes_that_are_empty_are_swept():
    opened, closed = [], []
    queue = queue_of(opened, closed)
    for place in range(1, 1001):
        lane = add(queue, task(place, task_type=f"type{place}"))
        assert lane.head() is not None
        lane.pop()
    assert len(queue.lanes) <= 66
    assert len(opened) - len(closed) == len(queue.lanes)


def test_no_lane_that_comes_sweeps_more_than_some():
    closed = []
    queue = queue_of([], closed)
    lanes = [add(queue, task(place, task_type=f"type{place}")) for place in range(1, 5001)]
    for lane in lanes:
        lane.rank()
        lane.pop()
    for place in range(5001, 6001):
        before = len(closed)
        add(queue, task(place, task_type=f"type{place}"))
        assert len(closed) - before <= 32
    for place in range(6001, 16_001):
        assert len(closed) - before <= 32
        before = len(closed)
        lane = add(queue, task(place, task_type=f"type{place}"))
        lane.rank()
        lane.pop()
    assert len(queue.lanes) < 2500, "those that wait, and the empty ones that came since the last round"


def test_a_returned_task_leads_although_an_ended_one_was_before_it():
    level = fifo()
    first, second, third = task(1), task(2), task(3)
    for one in (first, second, third):
        level.add(one)
    for one in (first, second):
        assert head_of(level) is one
        level.pop()
    level.add(first)
    first.state = TaskState.CANCELLED
    level.forget(first)
    assert level.add(second)
