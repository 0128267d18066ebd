"""Both stores of shared state do the same: random commands, at times that jump, give equal verdicts and leave equal state."""

import random
from contextlib import AsyncExitStack

import pytest

from coordinator.state.model import (
    AcquireLock,
    Compact,
    Compare,
    CompareTarget,
    ConfirmLock,
    Delete,
    ExpireDue,
    ExtendAll,
    GrantLease,
    KeepLease,
    KeepLock,
    Limits,
    Origin,
    Outcome,
    Put,
    Read,
    ReleaseLock,
    RevokeLease,
    Transaction,
)
from coordinator.state.ports import WriteAnswer
from tests.support.state_backings import MemoryStateBacking

KEYS = ["a", "a/1", "a/2", "a/\x00", "b", "b/ü", "c"]
LOCKS = ["l", "l2", "m\x00"]
BIG = b"B" * 5000
LIMITS = Limits(
    max_keys=6,
    max_bytes=14_000,
    max_prefix_deletes=3,
    max_locks=2,
    max_waiters=3,
    max_leases=3,
    max_lease_keys=2,
    max_read_bytes=9_000,
    max_batch_read_bytes=15_000,
    keep_revisions=60,
    keep_ms=100_000,
    max_kept=40,
)


class World:
    """What there is to refer to: revisions and tokens that were answered."""

    def __init__(self, rng):
        self.rng = rng
        self.numbers = [0, 1]
        self.sequences = dict.fromkeys("xy", 0)
        self.asked = {}
        self.now_ms = 0

    def number(self):
        return self.rng.choice(self.numbers[-8:])

    def origin(self):
        if self.rng.random() < 0.5:
            return Origin(author=self.rng.choice([b"", b"me"]))
        client = self.rng.choice("xy")
        sequence = max(1, self.sequences[client] + self.rng.choice([1, 1, 1, 1, 0, -1, -3, 700]))
        self.sequences[client] = max(sequence, self.sequences[client])
        return Origin(author=b"an author", client_id=client, sequence=sequence)

    def ops(self):
        keys = self.rng.sample(KEYS, self.rng.choice([0, 1, 1, 1, 2, 3]))
        return tuple(self.op(key) for key in keys)

    def op(self, key):
        roll = self.rng.random()
        if roll < 0.65:
            value = self.rng.choice([b"", b"v", b"\x00value\xff", BIG, BIG[:4096], BIG[:4097]])
            ends = self.rng.choice([{}, {}, {"lease_id": self.number()}, {"ttl_ms": self.rng.choice([50, 3000])}, {"keeps_end": True}])
            return Put(key, value, content_type=self.rng.choice(["", "application/json"]), **ends)
        if roll < 0.8:
            return Delete(key)
        if roll < 0.85:
            return Delete("nothing/", prefix=True)
        return Read(tuple(self.rng.sample(KEYS, 3)))

    def compare(self):
        target = self.rng.choice(list(CompareTarget))
        if target is CompareTarget.VALUE:
            return Compare(self.rng.choice(KEYS), target, value=self.rng.choice([b"", b"v", BIG]))
        number = self.number() if target in (CompareTarget.MOD_REVISION, CompareTarget.CREATE_REVISION) else self.rng.choice([0, 1, 1, 2])
        return Compare(self.rng.choice(KEYS), target, number=number)

    def command(self):
        """Mostly a new one; a client's sequence again is the same command again."""
        command = self.new_command()
        origin = getattr(command, "origin", Origin())
        return self.asked.setdefault((origin.client_id, origin.sequence), command) if origin.sequence else command

    def new_command(self):
        rng = self.rng
        lock, waiter, ttl = rng.choice(LOCKS), rng.choice("pqrs"), rng.choice([30, 500, 5000])
        roll = rng.random()
        if roll < 0.5:
            locks = ((lock, self.number()),) if rng.random() < 0.2 else ()
            compares = tuple(self.compare() for _ in range(rng.choice([0, 0, 0, 1, 2])))
            return Transaction(self.ops(), compares=compares, else_ops=self.ops(), locks=locks, origin=self.origin())
        if roll < 0.53:
            return Transaction((Delete(rng.choice(["a", "b/", ""]), prefix=True),), origin=self.origin())
        if roll < 0.58:
            return GrantLease(ttl, origin=self.origin())
        if roll < 0.62:
            return rng.choice([KeepLease(self.number()), RevokeLease(self.number(), origin=self.origin())])
        if roll < 0.78:
            return AcquireLock(lock, waiter, ttl, wait=rng.random() < 0.8, author=waiter.encode())
        if roll < 0.84:
            return rng.choice([ConfirmLock, KeepLock])(lock, self.number())
        if roll < 0.9:
            return rng.choice([ReleaseLock(lock, token=self.number()), ReleaseLock(lock, waiter_id=waiter)])
        if roll < 0.96:
            return ExpireDue(rng.choice([1, 3, 100]), self.now_ms - rng.choice([-50, 0, 0, 0, 20, 300]))
        return rng.choice([ExtendAll(), Compact(0, 20), Compact(0, 3), Compact(self.number(), 5)])


async def whole(store, middle):
    """All that can be read."""
    facts = await store.facts("ns")
    return {
        "facts": facts,
        "get": await store.get("ns", KEYS),
        "first": await store.get("ns", KEYS, max_bytes=5010),
        "list": await store.list("ns", prefix="", after="", limit=100, max_bytes=10**9, keys_only=False),
        "page": await store.list("ns", prefix="a", after="a/", limit=2, max_bytes=10**9, keys_only=True),
        "small": await store.list("ns", prefix="", after="a", limit=9, max_bytes=4200, keys_only=False),
        "events": await store.events("ns", after=facts.compact_revision - 1, limit=10**6, max_bytes=10**9),
        "some": await store.events("ns", after=middle, limit=5, max_bytes=12_000),
        "history": [await store.history("ns", key, after=0, limit=1000, max_bytes=10**9) for key in KEYS],
        "some history": await store.history("ns", "a", after=middle, limit=2, max_bytes=6000),
        "entry": [await store.entry_at("ns", key, middle) for key in KEYS],
        "locks": await store.locks("ns", prefix="", after="", limit=10),
        "some locks": await store.locks("ns", prefix="l", after="l", limit=1),
    }


@pytest.fixture
async def pair(server_state):
    memory = MemoryStateBacking()
    memory.clock = server_state.clock
    async with AsyncExitStack():
        yield await server_state.open(), await memory.open(), server_state.clock


@pytest.mark.parametrize("seed", range(6))
async def test_both_stores_do_the_same(pair, seed):
    server, memory, clock = pair
    rng = random.Random(seed)
    world = World(rng)
    seen = set()
    for step in range(150):
        clock.pass_ms(rng.choice([0, 1, 10, 10, 100, 400, 1200, 4000]))
        if rng.random() < 0.02:
            clock.pass_ms(rng.choice([300_000, 700_000, 1_300_000]))
        world.now_ms = clock.now_ms
        commands = [world.command() for _ in range(rng.choice([1, 2, 5, 12]))]
        arguments = {"nonce": f"n{step}", "limits": LIMITS, "known_revision": rng.choice([0] * 60 + [world.numbers[-1] + 3])}
        expected = await memory.write("ns", commands, **arguments)
        written = await server.write("ns", commands, **arguments)
        for command, one, other in zip(commands, written.verdicts, expected.verdicts, strict=True):
            assert one == other, (seed, step, command)
            seen.add((type(command), one.outcome))
            world.numbers += [one.revision] if one.revision else []
        assert (written.answer, written.revision, written.incarnation) == (expected.answer, expected.revision, expected.incarnation)
        assert (written.date_ms, written.next_due_ms) == (expected.date_ms, expected.next_due_ms), (seed, step)
        if rng.random() < 0.1:
            again = await server.write("ns", commands, **arguments)
            assert again.answer is WriteAnswer.ALREADY_MINE
            assert again.verdicts == written.verdicts
        middle = world.number()
        here, there = await whole(server, middle), await whole(memory, middle)
        for part, value in here.items():
            assert value == there[part], (seed, step, part)
    assert len({outcome for _, outcome in seen}) > len(Outcome) // 2
