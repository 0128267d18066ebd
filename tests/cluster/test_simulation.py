"""Several coordinators over one store in memory, on a loop whose time jumps, while they crash, are cut off, and hear of things late.

Two things must hold. By the rule of leases no two serve one shard at the same time: whoever does has recovered it, and by its own clock its
lease isn't over. And when all is quiet again, every shard is served, and the shards are spread evenly.
"""

import asyncio
import copy
import logging
import random
from collections import Counter

import pytest

from coordinator.cluster.cluster import Cluster
from coordinator.cluster.directory import Directory
from coordinator.cluster.lone_registry import LoneRegistry
from coordinator.cluster.ports import IdInUse, Member
from coordinator.core.model import Settings
from coordinator.engine.ownership import ShardLost
from coordinator.engine.shard import Shard
from coordinator.ids import Entropy
from coordinator.journal import codec
from coordinator.journal.memory_registry import MemoryMemberRegistry, MemoryMembers
from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore
from coordinator.ports import Claimant, StoreOutage
from tests.support.virtual_loop import run_virtually

LEASE_S = 3.0
SHARDS = 5
STEP_S = 0.02
SETTINGS = Settings()
QUIET_S = 9 * LEASE_S  # somebody's record ends, a claim is refused for a lease, nobody takes what was given, and shards move one by one


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")


class Clock:
    """A loop's."""

    def __init__(self, loop):
        self.now_s = loop.time


class Node:
    """One coordinator, from its start to its end."""

    def __init__(self, world, name):
        self.world = world
        self.name = name
        self.cut_off = False
        self.slow_s = 0.0  # of answers
        self.alone_since_s = None
        stores = [MemoryShardStore(shard=data, now_ms=world.now_ms, fault=self.fault) for data in world.data]
        for store in stores:
            self.hold_back(store)
        entropy = Entropy(seed=world.rng.getrandbits(32))
        self.shards = [
            Shard(number=number, store=store, codec=codec, settings=SETTINGS, clock=self, entropy=entropy, default_here=number == 0)
            for number, store in enumerate(stores)
        ]
        self.directory = Directory(me=name, shards=SHARDS)
        me = Member(name, f"{name}:1", f"{name}-{world.rng.getrandbits(32)}", host=name, listen="0.0.0.0:1")
        self.cluster = Cluster(
            me=me,
            lease_s=LEASE_S,
            alone=False,
            registry=MemoryMemberRegistry(data=world.members, now_ms=world.now_ms, fault=self.fault_of_registry),
            shards=self.shards,
            directory=self.directory,
            clock=self,
        )
        self.cluster.reached(address=me.address, listen=me.listen)
        self.ready = asyncio.Event()
        self.running = asyncio.create_task(self.cluster.run(self.ready))

    def now_s(self):
        return self.world.loop.time()

    def hold_back(self, store):
        """What is asked is done, and the answer comes late: as if the process had been stopped in between."""
        for name in ("claim", "append", "confirm", "release"):
            method = getattr(store, name)

            async def call(*args, _method=method, **options):
                answer = await _method(*args, **options)
                if self.slow_s:
                    await asyncio.sleep(self.slow_s * self.world.rng.random())
                return answer

            setattr(store, name, call)

    async def fault(self, _call):
        await asyncio.sleep(self.world.rng.choice([0.0005, 0.002]))
        if self.cut_off:
            await asyncio.sleep(self.world.rng.choice([0.0, 0.3]))
            return self.world.rng.choice([Fault.BEFORE, Fault.BEFORE, Fault.AFTER]) if self.slow_s else Fault.BEFORE
        return Fault.NONE

    async def fault_of_registry(self):
        await asyncio.sleep(self.world.rng.choice([0.0005, 0.002]))
        if self.cut_off:
            raise StoreOutage("cut off")
        if self.slow_s:
            await asyncio.sleep(self.slow_s * self.world.rng.random())  # what it then hears is news, what it says is old

    def serves(self, number):
        shard = self.shards[number]
        return shard.serving and not shard.ownership.is_over()

    async def crash(self):
        """kill -9."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def end(self):
        if self.cluster.has_others:
            await self.cluster.leave(within_s=2.0)
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.cluster.gone()


class World:
    """All of them, and the store."""

    def __init__(self, loop, seed):
        self.loop = loop
        self.rng = random.Random(seed)
        self.data = [MemoryShard() for _ in range(SHARDS)]
        self.members = MemoryMembers()
        self.nodes = {}
        self.seen = Counter()

    def now_ms(self):
        return 1_700_000_000_000 + int(self.loop.time() * 1000)

    def start(self, name):
        self.nodes[name] = Node(self, name)

    def check(self):
        for node in self.nodes.values():
            if node.running.done() and not node.running.cancelled():
                node.running.result()
        for number in range(SHARDS):
            serving = [node.name for node in self.nodes.values() if node.serves(number)]
            assert len(serving) <= 1, f"{serving} serve shard {number} at {self.loop.time():.3f} s"

    async def wait(self, seconds):
        for _ in range(round(seconds / STEP_S)):
            await asyncio.sleep(STEP_S)
            self.check()

    def served(self):
        return {number: node.name for number in range(SHARDS) for node in self.nodes.values() if node.serves(number)}

    async def until_served(self, within_s):
        """Answers in how many seconds every shard was served."""
        began_s = self.loop.time()
        while len(self.served()) < SHARDS:
            assert self.loop.time() - began_s < within_s, f"only {self.served()} after {within_s} s"
            await self.wait(STEP_S)
        return self.loop.time() - began_s

    async def settle(self, *, lost=0):
        """All is quiet: every shard is served, they are spread evenly, everybody knows by whom, and nothing is lost but so many entries."""
        for node in self.nodes.values():
            node.cut_off, node.slow_s = False, 0.0
        await self.wait(QUIET_S)
        served = self.served()
        assert len(served) == SHARDS, served
        loads = [list(served.values()).count(name) for name in self.nodes]
        assert max(loads) - min(loads) <= 1, loads
        for node in self.nodes.values():
            assert {number: node.directory.owner_of(number).coordinator_id for number in range(SHARDS)} == served
        assert sum(shard.lost.entries for node in self.nodes.values() for shard in node.shards) == lost

    async def close(self):
        for node in self.nodes.values():
            await node.crash()


def simulate(story, seed=0):
    async def main(loop):
        world = World(loop, seed)
        try:
            await story(world)
        finally:
            await world.close()
        return world.seen

    return run_virtually(main)


async def trouble(world):
    """One thing that goes wrong, or right again."""
    rng, names = world.rng, list(world.nodes)
    kind = rng.choice(["crash", "end", "start", "cut off", "slow", "heal", "heal", "submit"])
    if kind == "start" and len(names) < 4:
        free = sorted({"a", "b", "c", "d"} - set(names))
        world.start(rng.choice(free))
    elif kind in ("crash", "end") and len(names) > 1:
        node = world.nodes[rng.choice(names)]
        if kind == "crash":
            del world.nodes[node.name]
            await node.crash()
        else:
            await asyncio.gather(node.end(), world.wait(1.0))
            del world.nodes[node.name]
    elif kind == "cut off":
        world.nodes[rng.choice(names)].cut_off = True
    elif kind == "slow":
        world.nodes[rng.choice(names)].slow_s = rng.choice([0.5, 2.0, 8.0])
    elif kind == "heal":
        node = world.nodes[rng.choice(names)]
        node.cut_off, node.slow_s = False, 0.0
    else:
        for node in world.nodes.values():
            if node.shards[0].serving:
                node.shards[0].create_namespace(f"made-{rng.getrandbits(16)}")
    world.seen[kind] += 1


@pytest.mark.parametrize("seed", range(12))
def test_no_two_serve_a_shard_and_all_are_served_once_it_is_quiet(seed):
    async def story(world):
        for name in ("a", "b", "c"):
            world.start(name)
        for _ in range(40):
            await trouble(world)
            await world.wait(world.rng.choice([0.1, 0.5, 2.0, 5.0]))
        await world.settle()

    assert sum(simulate(story, seed).values()) == 40


def test_seeds_that_nobody_tried_before_hold_too(rng):
    seed = rng.getrandbits(32)
    print(f"seed {seed}")

    async def story(world):
        for name in ("a", "b", "c"):
            world.start(name)
        for _ in range(60):
            await trouble(world)
            await world.wait(world.rng.choice([0.1, 0.5, 2.0, 5.0]))
        await world.settle()

    simulate(story, seed)


def test_the_same_seed_is_the_same_history():
    async def story(world):
        world.start("a")
        world.start("b")
        for _ in range(20):
            await trouble(world)
            await world.wait(1.0)
        world.seen["epochs"] = tuple(data.epoch for data in world.data)

    assert simulate(story, 7) == simulate(story, 7)


@pytest.mark.parametrize("seed", range(5))
def test_what_a_crashed_coordinator_owned_is_served_within_a_lease_and_a_little(seed):
    async def story(world):
        for name in ("a", "b", "c"):
            world.start(name)
        await world.settle()
        await world.wait(world.rng.random())
        node = world.nodes.pop(world.rng.choice("abc"))
        await node.crash()
        assert await world.until_served(within_s=2 * LEASE_S) <= LEASE_S + 0.1

    simulate(story, seed)


def test_what_is_lost_together_with_its_owner_the_others_know():
    async def story(world):
        world.start("a")
        world.start("b")
        await world.settle()
        owner = world.served()[0]
        shard = world.nodes[owner].shards[0]
        earlier = copy.deepcopy(world.data[0])
        for name in ("one", "two", "three"):
            shard.create_namespace(name)
            await shard.durable()
        await world.wait(LEASE_S)  # it says so each third of it
        await world.nodes.pop(owner).crash()
        for field in earlier.__dataclass_fields__:
            setattr(world.data[0], field, getattr(earlier, field))
        await world.settle(lost=3)

    simulate(story)


def test_a_clean_end_leaves_no_shard_unserved_for_long():
    async def story(world):
        world.start("a")
        world.start("b")
        await world.settle()
        node = world.nodes["a"]
        ending = asyncio.create_task(node.end())
        unserved = 0
        while not ending.done() or len(world.served()) < SHARDS:
            await world.wait(STEP_S)
            unserved += len(world.served()) < SHARDS
        assert unserved * STEP_S <= 0.2
        del world.nodes["a"]
        await world.settle()

    simulate(story)


def test_a_newcomer_gets_its_share_one_at_a_time():
    async def story(world):
        world.start("a")
        await world.settle()
        world.start("b")
        least = SHARDS
        for _ in range(200):
            await world.wait(STEP_S)
            least = min(least, len(world.served()))
        assert least >= SHARDS - 1
        await world.settle()

    simulate(story)


def test_it_is_ready_when_all_that_is_its_own_is_served():
    async def story(world):
        world.start("a")
        first = world.nodes["a"]
        while not first.ready.is_set():
            await asyncio.sleep(0.0005)
        assert len(world.served()) == SHARDS
        world.start("b")
        await world.wait(0.1)
        assert world.nodes["b"].ready.is_set(), "nothing is its own to begin with"

    simulate(story)


def test_what_its_next_owner_does_not_claim_somebody_else_does():
    """It says that it lives, and does nothing: whoever else is there waits for a lease, and no longer."""

    async def story(world):
        idle = MemoryMemberRegistry(data=world.members, now_ms=world.now_ms)
        me = Member("a", "a:1", "idle", host="a", listen="0.0.0.0:1")
        await idle.renew(me, ttl_s=60.0)
        world.start("b")
        assert await world.until_served(within_s=3 * LEASE_S) > LEASE_S / 2
        unserved = 0
        for _ in range(100):
            await world.wait(0.3)
            unserved += len(world.served()) < SHARDS
        assert unserved <= 2 * LEASE_S / 0.3 + 3, "what nobody takes isn't given up again and again"

    simulate(story)


def test_an_id_that_another_has_ends_the_second_and_not_the_first():
    async def story(world):
        world.start("a")
        await world.settle()
        first = world.nodes["a"]
        world.start("a")
        second = world.nodes["a"]
        second.cluster.reached(address="elsewhere:1", listen="0.0.0.0:2")
        with pytest.raises(IdInUse):
            await second.running
        world.nodes["a"] = first
        await world.settle()

    simulate(story)


def test_what_one_loses_to_another_is_not_the_end_of_it():
    """A shard that was taken, whoever did it, is run again by somebody once that one is gone."""

    async def story(world):
        world.start("a")
        await world.settle()
        await MemoryShardStore(shard=world.data[2], now_ms=world.now_ms).claim(Claimant("x", "x:1", round(LEASE_S * 1000)))
        await world.wait(2 * LEASE_S)
        await world.settle()

    simulate(story)


def test_one_that_is_alone_ends_when_somebody_takes_a_shard_all_the_same():
    async def main(loop):
        data = MemoryShard()
        now_ms = lambda: int(loop.time() * 1000)  # noqa: E731 - it is shorter
        shard = Shard(
            number=0,
            store=MemoryShardStore(shard=data, now_ms=now_ms),
            codec=codec,
            settings=SETTINGS,
            clock=Clock(loop),
            entropy=Entropy(seed=1),
        )
        cluster = Cluster(
            me=Member("a", "a:1", "run"),
            lease_s=LEASE_S,
            alone=True,
            registry=LoneRegistry(),
            shards=[shard],
            directory=Directory(me="a", shards=1),
            clock=Clock(loop),
        )
        ready = asyncio.Event()
        running = asyncio.create_task(cluster.run(ready))
        await ready.wait()
        shard.create_namespace("made")
        await MemoryShardStore(shard=data, now_ms=now_ms).claim()
        with pytest.raises(ShardLost):
            await running

    run_virtually(main)
