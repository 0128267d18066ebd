"""What scheduling costs, counted in steps: it must not depend on how many kinds of agents there are, nor on how much waits."""

import pytest

from coordinator.core import lazy_heap
from coordinator.core.model import Capability, Now, Settings
from coordinator.core.placement import place
from coordinator.core.reports import Success, finish
from coordinator.core.scheduler import Scheduler
from coordinator.core.sessions import Hello, hello, ready
from coordinator.core.submits import submit
from tests.support.core_world import FIRST_DATE_MS, FIRST_EPOCH, spec_of

NOW = Now(1000.0, FIRST_DATE_MS)
DONE = Success(b"done")


class Counter:
    """Counts entries put into heaps and looked at."""

    def __init__(self, monkeypatch):
        self.steps = 0
        put, rank_of = lazy_heap.LazyHeap.put, lazy_heap.LazyHeap.best

        def counting_put(heap, item, bound):
            self.steps += 1
            put(heap, item, bound)

        def counting_best(heap):
            before = heap.looks
            found = rank_of(heap)
            self.steps += 1 + heap.looks - before
            return found

        monkeypatch.setattr(lazy_heap.LazyHeap, "put", counting_put)
        monkeypatch.setattr(lazy_heap.LazyHeap, "best", counting_best)


@pytest.fixture
def counter(monkeypatch):
    return Counter(monkeypatch)


def fleet(agents, offers, *, capacity=1):
    scheduler = Scheduler(settings=Settings(), epoch=FIRST_EPOCH, jitter=lambda: 0.5)
    for number in range(agents):
        name = f"agent{number}"
        hello(scheduler, f"session{number}", Hello(name, "nonce", dict.fromkeys(offers(number), Capability()), capacity, (), {}), NOW)
        ready(scheduler, scheduler.load.agents[name], capacity)
    place(scheduler, NOW)
    return scheduler


def submit_one(scheduler, task_id, task_type):
    task = submit(scheduler, spec_of(task_id, task_type), NOW)
    place(scheduler, NOW)
    return task


def finish_one(scheduler, task):
    finish(scheduler, scheduler.load.agents[task.agent], task.spec.task_id, task.fence, DONE, NOW)
    place(scheduler, NOW)


def empty_queue(counter, agents, offers, tasks=1000):
    """Steps per task when each is taken and finished at once."""
    scheduler = fleet(agents, offers)
    for number in range(agents + 100):  # every lane and class has been met once
        finish_one(scheduler, submit_one(scheduler, f"warm{number}", "shared"))
    counter.steps = 0
    for number in range(tasks):
        finish_one(scheduler, submit_one(scheduler, f"task{number}", "shared"))
    return counter.steps / tasks


def saturated(counter, agents, offers, tasks=1000):
    """Steps per task when all agents are busy, and each that gets free takes the next of many that wait."""
    scheduler = fleet(agents, offers)
    running = [submit_one(scheduler, f"first{number}", "shared") for number in range(agents)]
    waiting = [submit_one(scheduler, f"warm{number}", "shared") for number in range(2 * agents)]
    for number in range(agents):
        finish_one(scheduler, running[number])
    running = waiting[:agents]
    waiting = waiting[agents:]
    counter.steps = 0
    for number in range(tasks):
        finish_one(scheduler, running.pop(0))
        running.append(waiting.pop(0))
        waiting.append(submit_one(scheduler, f"task{number}", "shared"))
    return counter.steps / tasks


@pytest.mark.parametrize("work", [empty_queue, saturated])
def test_steps_per_task_are_flat_from_one_class_to_a_thousand(counter, work):
    few = work(counter, 2, lambda number: ("shared", f"private{number}"))
    many = work(counter, 1000, lambda number: ("shared", f"private{number}"))
    assert many <= few + 2, f"{few} steps with 2 classes, {many} with 1,000"
    assert many < 15


@pytest.mark.parametrize("work", [empty_queue, saturated])
def test_private_lanes_in_use_cost_nothing_more(counter, work):
    """A thousand classes, whose every second task is of their own type."""
    scheduler = fleet(1000, lambda number: ("shared", f"private{number}"))
    for number in range(3000):
        finish_one(scheduler, submit_one(scheduler, f"warm{number}", f"private{number % 1000}" if number % 2 else "shared"))
    counter.steps = 0
    for number in range(1000):
        finish_one(scheduler, submit_one(scheduler, f"task{number}", f"private{number}" if number % 2 else "shared"))
    assert counter.steps / 1000 < 15
    assert work(counter, 1, lambda _: ("shared",)) < 8


def test_a_slot_beside_many_lanes_that_nobody_has_looked_at_yet_costs_no_more(counter):
    scheduler = fleet(1, lambda _: (*(f"type{number}" for number in range(2000)),))
    task = submit_one(scheduler, "first", "type0")
    for number in range(2000):
        submit_one(scheduler, f"task{number}", f"type{number}")
    counter.steps = 0
    finish_one(scheduler, task)
    assert counter.steps < 15, "it would look at all of them"


def test_a_head_that_gets_better_again_and_again_tells_only_those_who_have_looked(counter):
    """Each submit is more urgent than all before it, and a thousand classes are full."""
    scheduler = fleet(1000, lambda number: ("shared", f"private{number}"))
    for number in range(1000):
        submit_one(scheduler, f"first{number}", "shared")
    submit_one(scheduler, "waits", "shared")
    counter.steps = 0
    for priority in (2, 3, 4):
        submit(scheduler, spec_of(f"urgent{priority}", "shared", priority=priority), NOW)
        place(scheduler, NOW)
    assert counter.steps < 40, "seven for each, not a thousand"


def test_many_lanes_cost_no_more_than_one(counter):
    scheduler = fleet(1, lambda _: [f"type{number}" for number in range(1000)])
    running = submit_one(scheduler, "running", "type0")
    for number in range(5000):
        submit_one(scheduler, f"task{number}", f"type{number % 1000}")
    counter.steps = 0
    for number in range(2000):
        finish_one(scheduler, running)
        running = scheduler.state.tasks[f"task{number}"]
    assert counter.steps / 2000 < 8


def test_turns_that_move_on_in_many_lanes_at_once_are_put_right_step_by_step(counter):
    """Each of 3,000 lanes has tasks of one of three keys: whenever a key is served, a thousand lanes are out of date."""
    scheduler = fleet(1, lambda _: [f"type{number}" for number in range(3000)])
    for number in range(3000):
        spec = spec_of(f"task{number}", f"type{number}", fairness_key=f"key{number % 3}")
        submit(scheduler, spec, NOW)
    place(scheduler, NOW)
    served, worst = {}, 0
    for number in range(600):
        (attempt,) = scheduler.load.agents["agent0"].running.values()
        key = attempt.task.spec.scheduling.fairness_key
        served[key] = served.get(key, 0) + 1
        counter.steps = 0
        finish_one(scheduler, attempt.task)
        worst = max(worst, counter.steps if number else 0)  # the first look is at every lane that has come
    assert worst < 8 * lazy_heap.MAX_DRIFTED
    assert max(served.values()) - min(served.values()) <= 60, served
