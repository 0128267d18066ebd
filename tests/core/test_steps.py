"""What scheduling costs, counted in steps: it must not depend on how many kinds of agents there are, nor on how much waits."""

import gc

import pytest
from muster.v1 import common_pb2

from coordinator.core import lazy_heap
from coordinator.core.events import Assigned
from coordinator.core.model import Capability, Now, Settings
from coordinator.core.placement import place
from coordinator.core.policies import ConcurrencyLimitPolicy, RateLimitPolicy, set_policy
from coordinator.core.rates import MAX_EXACT, RateRule
from coordinator.core.ready_queue import Lane
from coordinator.core.reports import Success, finish
from coordinator.core.scheduler import Scheduler
from coordinator.core.sessions import Hello, hello, ready
from coordinator.core.submits import submit
from coordinator.core.ticks import MAX_DATES, tick
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


def finish_one(scheduler, task, now=NOW):
    finish(scheduler, scheduler.load.agents[task.agent], task.spec.task_id, task.fence, DONE, now)
    place(scheduler, now)


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


class Looks:
    """Counts how often a dated task, or its entry in the wheel, is put in or looked at."""

    def __init__(self, monkeypatch, scheduler):
        self.steps = 0
        wheel = scheduler.dates
        for name in ("arm", "disarm", "take_due"):
            monkeypatch.setattr(wheel, name, self.counting(getattr(wheel, name)))

    def counting(self, method):
        def counted(*arguments, **options):
            found = method(*arguments, **options)
            self.steps += 1 + len(found or ())
            return found

        return counted


@pytest.mark.parametrize("options", [{"delay_s": 3600}, {"queue_timeout_s": 3600}, {"deadline_s": 3600, "delay_s": 1800}])
def test_a_hundred_thousand_dates_are_looked_at_by_nobody(counter, monkeypatch, options):
    """Neither by who submits, assigns and finishes, nor by ticks; whether they are all of one moment or of many."""
    scheduler = fleet(1, lambda _: ("shared",), capacity=10)
    for number in range(100_000):
        spread = {name: seconds + number / 50 for name, seconds in options.items()} if number % 2 else options
        submit(scheduler, spec_of(f"later{number}", "other", **spread), NOW)
    looks = Looks(monkeypatch, scheduler)
    for number in range(100):  # its lane has been met
        finish_one(scheduler, submit_one(scheduler, f"warm{number}", "shared"))
    counter.steps = looks.steps = 0
    for number in range(1000):
        finish_one(scheduler, submit_one(scheduler, f"task{number}", "shared"))
        if number % 10 == 0:
            tick(scheduler, Now(NOW.mono_s + number / 1000, NOW.date_ms + number))
            place(scheduler, NOW)
            scheduler.next_due()
    assert counter.steps / 1000 < 8
    assert looks.steps == 100, "the ticks, and nothing in them"


def test_no_tick_does_more_than_a_bounded_part_of_what_is_due_at_once(monkeypatch):
    scheduler = fleet(1, lambda _: ("shared",), capacity=10)
    for number in range(100_000):
        submit(scheduler, spec_of(f"later{number}", "other", delay_s=1, queue_timeout_s=10), NOW)
    looks = Looks(monkeypatch, scheduler)
    worst = ticks = 0
    while scheduler.backoffs:
        before = looks.steps
        tick(scheduler, Now(NOW.mono_s, NOW.date_ms + 1100))
        worst, ticks = max(worst, looks.steps - before), ticks + 1
        assert scheduler.next_due()[1] is not None
    assert ticks == 100_000 / MAX_DATES
    assert worst <= 2 * MAX_DATES + 1
    scheduler.take()


def test_lanes_that_are_over_are_freed_without_the_garbage_collector():
    """It may not see them: they came while the queue was deep."""
    scheduler = fleet(1, lambda _: ("shared",))
    gc.collect()
    gc.disable()
    try:
        before = lanes_in_memory()
        for number in range(1000):
            needs = [common_pb2.LabelSelector(label=f"label{number}", operator=common_pb2.LABEL_OPERATOR_NOT_EXISTS)]
            for key in ("", "a", "b"):
                submit(scheduler, spec_of(f"task{number}{key}", "shared", fairness_key=key, selectors=needs), NOW)
            place(scheduler, NOW)
            for _ in range(3):
                (attempt,) = scheduler.load.agents["agent0"].running.values()
                finish_one(scheduler, attempt.task)
            scheduler.take()
            for task in list(scheduler.state.ended.values()):
                scheduler.state.settle(task)
        assert lanes_in_memory() - before < 150
    finally:
        gc.enable()


def lanes_in_memory():
    return sum(isinstance(one, Lane) for one in gc.get_objects())


# --- limits ---

MANY = 100_000


def limited(policy, tasks, *, offers=("work",), capacity=10):
    """A scheduler with tasks that a limit holds up, and one agent that could take them all; what may begin has begun."""
    scheduler = Scheduler(settings=Settings(ageing_period_s=0), epoch=FIRST_EPOCH, jitter=lambda: 0.5)
    set_policy(scheduler, policy, NOW)
    for spec in tasks:
        submit(scheduler, spec, NOW)
    hello(scheduler, "session", Hello("agent0", "nonce", dict.fromkeys(offers, Capability()), capacity, (), {}), NOW)
    ready(scheduler, scheduler.load.agents["agent0"], capacity)
    place(scheduler, NOW)
    scheduler.take()
    return scheduler


def worst_of(counter, scheduler, count, *, period_ms=0):
    """The most steps that an end, or a date, and what begins then took; the first is left out."""
    worst, date_ms, begun = 0, NOW.date_ms, 0
    for number in range(count):
        counter.steps = 0
        running = list(scheduler.load.agents["agent0"].running.values())
        if running:
            finish_one(scheduler, running[0].task, Now(1000.0, date_ms))
        if period_ms:
            date_ms += period_ms + 10
            tick(scheduler, Now(1000.0, date_ms))
            place(scheduler, Now(1000.0, date_ms))
        worst = max(worst, counter.steps if number else 0)
        begun += sum(isinstance(event, Assigned) for event in scheduler.take()[0])
    assert begun >= count - 1, "each end, or each date, lets the next begin"
    return worst


def test_an_exhausted_key_costs_the_same_whatever_waits_for_it(counter):
    tasks = [spec_of(f"t{number}", concurrency_key="k") for number in range(MANY)]
    scheduler = limited(ConcurrencyLimitPolicy("k", "", 1), tasks)
    assert worst_of(counter, scheduler, 100) < 60
    counter.steps = 0
    submit(scheduler, spec_of("keyless", priority=1), NOW)
    place(scheduler, NOW)
    assert "keyless" in {attempt.task.spec.task_id for attempt in scheduler.load.agents["agent0"].running.values()}
    assert counter.steps < 60, "an exhausted key delays no other"


def test_many_keys_cost_no_more_than_one(counter):
    tasks = [spec_of(f"t{number}", concurrency_key=f"k{number // 2}") for number in range(MANY)]
    scheduler = limited(ConcurrencyLimitPolicy("k*", "", 1), tasks)
    assert worst_of(counter, scheduler, 100) < 60


def test_many_fairness_keys_under_one_rate_cost_no_more_than_one(counter):
    tasks = [spec_of(f"t{number}", fairness_key=f"f{number}", rate_key="r") for number in range(MANY)]
    scheduler = limited(RateLimitPolicy("r", "", 1, 1000), tasks)
    assert worst_of(counter, scheduler, 100, period_ms=1000) < 60


def test_many_types_under_one_rate_cost_no_more_than_one(counter):
    tasks = [spec_of(f"t{number}", f"type{number}", rate_key="r") for number in range(MANY)]
    scheduler = limited(RateLimitPolicy("r", "", 1, 1000), tasks, offers=[f"type{number}" for number in range(MANY)])
    assert worst_of(counter, scheduler, 100, period_ms=1000) < 60


@pytest.mark.parametrize("shared", ["rate_key", "concurrency_key"])
def test_many_keys_of_one_sort_under_one_key_of_the_other_cost_no_more_than_one(counter, shared):
    """Each user has a key of its own, and all share another one that is exhausted."""
    own = {"rate_key": "concurrency_key", "concurrency_key": "rate_key"}[shared]
    tasks = [spec_of(f"t{number}", **{shared: "all", own: f"user{number}"}) for number in range(MANY // 5)]
    policy = RateLimitPolicy("all", "", 1, 1000) if shared == "rate_key" else ConcurrencyLimitPolicy("all", "", 1)
    scheduler = limited(policy, tasks)
    set_policy(scheduler, ConcurrencyLimitPolicy("user*", "", 1), NOW)
    set_policy(scheduler, RateLimitPolicy("user*", "", 1, 1000), NOW)
    assert worst_of(counter, scheduler, 100, period_ms=1000) < 60


@pytest.mark.parametrize("classes", [2, 1000])
def test_limited_tasks_cost_the_same_with_a_thousand_classes(counter, classes):
    scheduler = fleet(classes, lambda number: ("shared", f"private{number}"))
    set_policy(scheduler, ConcurrencyLimitPolicy("k*", "", 1), NOW)
    for number in range(classes + 100):
        finish_one(scheduler, submit_limited(scheduler, number))
    counter.steps = 0
    for number in range(1000):
        finish_one(scheduler, submit_limited(scheduler, 2000 + number))
    assert counter.steps / 1000 < 45


def submit_limited(scheduler, number):
    task = submit(scheduler, spec_of(f"t{number}", "shared", concurrency_key=f"k{number}"), NOW)
    place(scheduler, NOW)
    return task


def test_a_long_log_of_starts_stays_short(counter):
    policy = RateLimitPolicy("r", "", 1_000_000, 60_000)
    rule = RateRule(policy)
    for date_ms in range(0, 200_000, 2):
        rule.note("r", date_ms)
        rule.note("r", date_ms)
    assert len(rule.logs["r"].starts) <= MAX_EXACT + 2
