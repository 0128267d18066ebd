"""Ready is who can serve or forward; short outages and recoveries are no reason to send calls elsewhere."""

import asyncio
from dataclasses import dataclass

import pytest

from coordinator.cluster.directory import Directory, Owner
from coordinator.cluster.health import Health, ShardState


@dataclass
class SomeShard:
    number: int
    serving: bool = True
    outage_since_s: float | None = None


class SomeClock:
    def __init__(self):
        self.at_s = 100.0

    def now_s(self):
        return self.at_s


class World:
    def __init__(self, shards=3):
        self.clock = SomeClock()
        self.shards = [SomeShard(number) for number in range(shards)]
        self.directory = Directory(me="me", shards=shards, owners={number: Owner("me", "here:1") for number in range(shards)})
        self.health = Health(shards=self.shards, directory=self.directory, clock=self.clock, patience_s=2.0)
        self.health.has_started = True

    def reasons(self):
        return self.health.report().reasons

    def states(self):
        return [one.state for one in self.health.report().shards]


@pytest.fixture
def world():
    return World()


def test_it_is_not_ready_before_it_has_started_nor_while_it_ends(world):
    assert world.health.report().is_ready
    world.health.has_started = False
    assert world.reasons() == ("it is starting: what is its own isn't recovered yet",)
    world.health.is_ending = True
    assert world.reasons() == ("it is ending",)
    world.health.has_started = True
    assert not world.health.report().is_ready


def test_an_outage_counts_once_it_has_lasted(world):
    world.shards[1].outage_since_s = 99.0
    assert world.health.report().is_ready
    assert world.states() == [ShardState.SERVING, ShardState.OUT, ShardState.SERVING]
    world.clock.at_s = 101.5
    assert world.reasons() == ("the store doesn't answer, for 2.5 s now: shard 1",)
    assert world.health.report().shards[1].for_s == 2.5
    world.shards[1].outage_since_s = None
    assert world.health.report().is_ready


def test_a_recovery_counts_once_it_has_lasted_and_anew_each_time(world):
    for _ in range(2):
        for shard in world.shards:
            shard.serving = False
        assert world.states() == [ShardState.RECOVERING] * 3
        assert world.health.report().is_ready
        world.clock.at_s += 2.5
        assert world.reasons() == ("being recovered, for 2.5 s now: shards 0, 1, 2",)
        for shard in world.shards:
            shard.serving = True
        assert world.health.report().is_ready


def test_what_others_own_is_forwarded_and_what_nobody_owns_is_no_reason(world):
    for shard in world.shards[:2]:
        shard.serving = False
    world.directory.set_owner(0, Owner("other", "there:1"))
    world.directory.set_owner(1, None)
    world.clock.at_s += 60
    report = world.health.report()
    assert report.is_ready
    assert [(one.state, one.owner) for one in report.shards] == [
        (ShardState.ELSEWHERE, "other"),
        (ShardState.UNOWNED, ""),
        (ShardState.SERVING, "me"),
    ]


def test_time_elsewhere_is_no_recovery_of_ours(world):
    world.shards[0].serving = False
    world.health.report()
    world.directory.set_owner(0, Owner("other", "there:1"))
    world.health.report()
    world.clock.at_s += 60
    world.directory.set_owner(0, Owner("me", "here:1"))
    assert world.health.report().is_ready


def test_many_shards_are_not_all_named():
    world = World(shards=20)
    for shard in world.shards:
        shard.outage_since_s = 10.0
    assert world.reasons() == ("the store doesn't answer, for 90.0 s now: shards 0, 1, 2, 3, 4, 5, 6, 7 and 12 more",)


async def test_it_is_told_at_once_and_only_when_it_changes(world):
    told = []

    async def tell(is_ready):
        told.append(is_ready)

    running = asyncio.create_task(world.health.run(tell))
    await asyncio.sleep(0)
    assert told == [True]
    await world.health.look()
    world.health.is_ending = True
    await world.health.look()
    await world.health.look()
    assert told == [True, False]
    running.cancel()
