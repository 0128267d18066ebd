"""A digest of a shard's live state: taken while the shard works on, of the moment when it began."""

import asyncio

from coordinator.engine import digests
from coordinator.engine.commits import PendingCommit
from coordinator.engine.digests import DigestTaker, digest_of
from coordinator.journal import codec
from tests.support.core_world import NAMESPACE, CoreWorld, spec_of


async def test_a_digest_is_of_the_moment_when_it_began(monkeypatch):
    """Tasks change, end and come while it is taken, before and behind where it is."""
    monkeypatch.setattr(digests, "TASKS_PER_STEP", 2)
    world = CoreWorld()
    world.join("ann", ["work"], capacity=3)
    for number in range(9):
        world.submit(spec_of(f"task-{number}", "work"))
    state = world.scheduler.state
    expected = digest_of({NAMESPACE: (state, 7)}, ["gone"], sequence=5, codec=codec)
    taker = DigestTaker(codec=codec)
    asked = taker.ask()
    commit = PendingCommit(0)

    class Served:
        name, created_ms, scheduler = NAMESPACE, 7, world.scheduler

    taker.begin_if_asked(commit, sequence=5, namespaces={NAMESPACE: Served}, deleted=["gone"])
    assert taker.is_walking()
    for number in (0, 4, 8):
        await asyncio.sleep(0)
        world.cancel(f"task-{number}", "changed")
        world.submit(spec_of(f"later-{number}", "work"))
    assert not asked.done()
    (durable,) = commit.waiters
    durable.set_result(None)
    found = await asked
    assert found == expected
    assert digest_of({NAMESPACE: (state, 7)}, ["gone"], sequence=5, codec=codec) != expected
    assert state.walk is None


async def test_a_digest_waits_until_it_is_durable_and_ends_with_its_shard():
    world = CoreWorld()
    taker = DigestTaker(codec=codec)
    commit = PendingCommit(0)

    class Served:
        name, created_ms, scheduler = NAMESPACE, 7, world.scheduler

    asked = taker.ask()
    taker.begin_if_asked(commit, sequence=5, namespaces={NAMESPACE: Served})
    for _ in range(5):
        await asyncio.sleep(0)
    assert not asked.done()
    taker.abandon()
    await asyncio.wait([asked], timeout=5)
    assert asked.cancelled()
    assert world.scheduler.state.walk is None
