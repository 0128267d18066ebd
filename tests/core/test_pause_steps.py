"""What pauses and cordons cost, counted in calls: only what they name, and never what waits, runs or has ended beside it."""

import sys

import pytest

from coordinator.core.model import Capability, Now, Settings
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
from coordinator.core.sessions import Hello, hello, ready
from coordinator.core.submits import submit
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

    def __init__(self, offers=("work", "other"), capacity=1):
        self.scheduler = Scheduler(settings=Settings(ageing_period_s=0), epoch=FIRST_EPOCH, jitter=lambda: 0.5)
        hello(self.scheduler, "session", Hello("ann", "nonce", dict.fromkeys(offers, Capability()), capacity, (), {}), NOW)
        ready(self.scheduler, self.agent, capacity)
        place(self.scheduler, NOW)

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
        (attempt, *_) = self.agent.running.values()
        finish(self.scheduler, self.agent, attempt.task.spec.task_id, attempt.task.fence, DONE, NOW)
        place(self.scheduler, NOW)

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
    counts = fleet.cycle(PausePolicy("type*"))
    assert counts["set"] < 2000 * 60
    assert counts["delete"] < 2000 * 60
    assert fleet.agent.running


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
