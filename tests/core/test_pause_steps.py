"""What pauses and cordons cost, counted in calls: only what they name, and never what waits, runs or has ended beside it."""

import sys

import pytest

from coordinator.core import pauses
from coordinator.core.invariants import check, check_placed
from coordinator.core.model import Capability, Now, Settings, TaskState
from coordinator.core.placement import place
from coordinator.core.policies import (
    ConcurrencyLimitPolicy,
    CordonPolicy,
    PausePolicy,
    delete_policy,
    set_policy,
)
from coordinator.core.reports import Success, finish
from coordinator.core.scheduler import Scheduler
from coordinator.core.sessions import Hello, hello, lost, ready
from coordinator.core.submits import cancel, submit
from coordinator.core.ticks import tick
from tests.support.core_world import FIRST_DATE_MS, FIRST_EPOCH, spec_of

NOW = Now(1000.0, FIRST_DATE_MS)
DONE = Success(b"done")
MANY = 100_000
FEWER = 20_000  # of what takes long to build


def calls_of(action):
    """How many functions are called, those in C included: what any scan would show in."""
    counted = 0

    def count(_frame, event, _argument):
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return counted


class Fleet:
    """A scheduler with one agent, which offers these types."""

    def __init__(self, offers=("work", "other"), capacity=1, versions=0):
        self.scheduler = Scheduler(settings=Settings(ageing_period_s=0), epoch=FIRST_EPOCH, jitter=lambda: 0.5)
        self.offers, self.capacity = offers, capacity
        self.join("ann", versions)

    def join(self, name, version=0):
        """An agent comes, or is another from now on."""
        capability = Capability(version=version)
        hello(self.scheduler, name, Hello(name, "nonce", dict.fromkeys(self.offers, capability), self.capacity, (), {}), NOW)
        ready(self.scheduler, self.scheduler.load.agents[name], self.capacity)
        place(self.scheduler, NOW)

    def leave(self, name):
        """An agent's stream breaks, if there is one."""
        lost(self.scheduler, name, NOW)
        place(self.scheduler, NOW)

    def tick(self):
        tick(self.scheduler, NOW)
        place(self.scheduler, NOW)

    def ticks(self):
        """Until pauses are through."""
        while self.scheduler.pauses.moves:
            self.tick()

    @property
    def agent(self):
        return self.scheduler.load.agents["ann"]

    def submit(self, task_id, task_type="work", **options):
        task = submit(self.scheduler, spec_of(task_id, task_type, **options), NOW)
        place(self.scheduler, NOW)
        return task

    def set(self, policy):
        set_policy(self.scheduler, policy, NOW)
        place(self.scheduler, NOW)

    def delete(self, name):
        assert delete_policy(self.scheduler, name, NOW)
        place(self.scheduler, NOW)

    def finish_one(self):
        for agent in self.scheduler.load.agents.values():
            if agent.running:
                (attempt, *_) = agent.running.values()
                finish(self.scheduler, agent, attempt.task.spec.task_id, attempt.task.fence, DONE, NOW)
                place(self.scheduler, NOW)
                return

    def cycle(self, policy):
        """A policy is set, tasks come and go, and it is deleted: the calls of each, after a first time that isn't counted."""
        for number in range(2):
            counts = {
                "set": calls_of(lambda: self.set(policy)),
                "submit": calls_of(lambda number=number: self.submit(f"in pause {number}")),
                "finish": calls_of(self.finish_one) if self.agent.running else 0,
                "tick": calls_of(lambda: tick(self.scheduler, NOW)),
                "delete": calls_of(lambda: self.delete(policy.name)),
            }
            self.scheduler.take()
        return counts


def many_tasks(fleet):
    for number in range(MANY):
        fleet.submit(f"t{number}")


def many_fairness_keys(fleet):
    for number in range(FEWER):
        fleet.submit(f"t{number}", fairness_key=f"key{number}")


def many_lanes_of_others(fleet):
    for number in range(MANY):
        fleet.submit(f"t{number}", f"type{number}")
    fleet.submit("work")


def many_limited_alone(fleet):
    fleet.set(ConcurrencyLimitPolicy("c*", "", 1))
    for number in range(FEWER):
        fleet.submit(f"t{number}", concurrency_key=f"c{number}")


@pytest.mark.parametrize("crowd", [many_tasks, many_fairness_keys, many_lanes_of_others, many_limited_alone])
def test_pauses_and_cordons_cost_the_same_whatever_waits(crowd):
    fleet = Fleet(("work", *(f"type{number}" for number in range(MANY))) if crowd is many_lanes_of_others else ("work", "other"))
    crowd(fleet)
    for policy in (PausePolicy("work"), PausePolicy(""), CordonPolicy("ann")):
        counts = fleet.cycle(policy)
        assert max(counts.values()) < 400, counts
        assert fleet.agent.running, "it went on"


def test_a_pause_of_many_lanes_costs_each_of_them_a_bounded_number_of_calls():
    """They are what is concerned: each is taken out of its rooms, and put back with its rank."""
    fleet = Fleet([f"type{number}" for number in range(2000)])
    for number in range(2000):
        fleet.submit(f"t{number}", f"type{number}")
    pause = PausePolicy("type*")
    for action in (lambda: fleet.set(pause), lambda: fleet.delete(pause.name)):
        assert calls_of(lambda action=action: (action(), fleet.ticks())) < 2000 * 60
    assert fleet.agent.running


def lanes_of_a_type(fleet):
    for number in range(600):
        fleet.submit(f"t{number}", min_version=number)


def limited_lanes(fleet):
    fleet.set(ConcurrencyLimitPolicy("c*", "", 1))
    fleet.submit("runs", "other", concurrency_key="c")
    for number in range(300):
        fleet.submit(f"t{number}", min_version=number, concurrency_key=f"c{number}")
        fleet.submit(f"o{number}", "other", min_version=number, concurrency_key=f"c{number}")


def two_types_in_a_pool(fleet):
    fleet.set(ConcurrencyLimitPolicy("c*", "", 1))
    fleet.submit("runs", "other", concurrency_key="c")
    for number in range(300):
        fleet.submit(f"t{number}", concurrency_key=f"c{number}")
        fleet.submit(f"o{number}", "other", concurrency_key=f"c{number}")


@pytest.mark.parametrize("paused", ["work", "wo*"])
@pytest.mark.parametrize("crowd", [lanes_of_a_type, limited_lanes, two_types_in_a_pool])
def test_no_step_moves_more_than_some_lanes_and_queues(crowd, paused, monkeypatch):
    monkeypatch.setattr(pauses, "MAX_MOVED", 50)
    fleet = Fleet(versions=1000)
    crowd(fleet)
    pause = PausePolicy(paused)
    most, steps = 50 * 150, 0
    for action in (lambda: fleet.set(pause), lambda: fleet.delete(pause.name)):
        assert calls_of(action) < most
        while fleet.scheduler.pauses.moves:
            assert fleet.scheduler.next_due()[1] == 0, "the next step follows at once"
            assert calls_of(lambda: tick(fleet.scheduler, NOW)) < most
            assert calls_of(lambda: place(fleet.scheduler, NOW)) < 400 or not fleet.scheduler.pauses.moves
            steps += 1
        check(fleet.scheduler)
        check_placed(fleet.scheduler)
    assert steps > 4


def test_nothing_begins_before_a_pause_is_through(monkeypatch):
    """Neither what it names, nor what is behind it: whoever looks between two steps would find some of it and not the rest."""
    monkeypatch.setattr(pauses, "MAX_MOVED", 1)
    fleet = Fleet()
    fleet.submit("runs")
    for number in range(3):
        fleet.submit(f"t{number}", min_version=2 - number)
    pause = PausePolicy("work")
    fleet.set(pause)
    fleet.finish_one()
    fleet.submit("other", "other")
    assert fleet.scheduler.pauses.moves
    assert not fleet.agent.running
    fleet.ticks()
    assert [one.task.spec.task_id for one in fleet.agent.running.values()] == ["other"]
    fleet.delete(pause.name)
    fleet.finish_one()
    assert fleet.scheduler.pauses.moves
    assert not fleet.agent.running
    fleet.ticks()
    assert [one.task.spec.task_id for one in fleet.agent.running.values()] == ["t2"], "the others need another version"


def test_agents_limits_and_tasks_may_come_and_go_between_two_steps(monkeypatch, rng):
    """And afterwards everything is where it belongs."""
    monkeypatch.setattr(pauses, "MAX_MOVED", 1)
    for _ in range(20):
        fleet = Fleet(capacity=2, versions=3)
        fleet.set(ConcurrencyLimitPolicy("c*", "", 1))
        for number in range(12):
            _something(fleet, rng, number)
        pause = PausePolicy(rng.choice(["work", "other", "*"]))
        for action in (lambda fleet=fleet, pause=pause: fleet.set(pause), lambda fleet=fleet, pause=pause: fleet.delete(pause.name)):
            action()
            for number in range(100, 112):
                rng.choice([lambda number=number, fleet=fleet: _something(fleet, rng, number), fleet.tick])()
                check(fleet.scheduler)
            fleet.ticks()
            check(fleet.scheduler)
            check_placed(fleet.scheduler)
        while fleet.scheduler.state.tasks:
            fleet.join("bob", 3)
            fleet.finish_one()
            check(fleet.scheduler)


def _something(fleet, rng, number):
    match rng.randrange(8):
        case 0:
            fleet.join(rng.choice(["bob", "cid"]), rng.randrange(4))
        case 1:
            fleet.leave(rng.choice(["bob", "cid"]))
        case 2:
            fleet.set(ConcurrencyLimitPolicy("", rng.choice(["work", "other"]), 1))
        case 3:
            fleet.finish_one()
        case 4 if waiting := [task for task in fleet.scheduler.state.tasks.values() if task.state is TaskState.PENDING]:
            cancel(fleet.scheduler, rng.choice(waiting).spec.task_id, "", NOW)
        case _:
            task_id = f"{number}-{rng.getrandbits(60)}"
            key = rng.choice(["", "c1", "c2"])
            fleet.submit(
                task_id, rng.choice(["work", "other"]), min_version=rng.randrange(4), concurrency_key=key, slots=rng.choice([1, 1, 2])
            )


def test_a_submit_to_a_paused_namespace_is_remembered_by_nobody_else():
    """What wakes up in a pause is forgotten: what ends it wakes whoever has space, however long it was."""
    fleet = Fleet(("work",))
    fleet.set(PausePolicy(""))
    for number in range(1000):
        fleet.submit(f"t{number}", f"type{number}")
    assert not fleet.scheduler.awake
    fleet.submit("work")
    assert calls_of(lambda: fleet.delete(PausePolicy("").name)) < 400
    assert [one.task.spec.task_id for one in fleet.agent.running.values()] == ["work"]


@pytest.mark.parametrize("paused", ["work", "other"])
def test_of_two_types_in_a_pool_the_one_with_fewer_queues_moves(paused):
    fleet = Fleet(("work", "other"))
    fleet.set(ConcurrencyLimitPolicy("c*", "", 1))
    fleet.submit("runs", "other", concurrency_key="c")
    for number in range(2000):
        fleet.submit(f"t{number}", concurrency_key=f"c{number}")
    fleet.submit("few", "other", concurrency_key="d")
    counts = {"set": calls_of(lambda: fleet.set(PausePolicy(paused))), "delete": calls_of(lambda: fleet.delete(PausePolicy(paused).name))}
    assert max(counts.values()) < 400, counts
