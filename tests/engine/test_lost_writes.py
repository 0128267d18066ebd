"""A store that has gone back behind what it had acknowledged is noticed, said, counted, and gone on from."""

import asyncio
import copy
import logging

import pytest

from coordinator.core.events import Commit
from coordinator.engine.lost_writes import LostWrites
from coordinator.engine.ownership import CONFIRM_AFTER_S, ShardLost
from coordinator.journal.memory_store import MemoryShardStore
from tests.engine.test_shard import on_a_bench


def back_to(bench, earlier):
    """The store is as it was: another primary has taken over, which hadn't got the rest."""
    for field in earlier.__dataclass_fields__:
        setattr(bench.data, field, getattr(earlier, field))


async def submitted(bench, *task_ids):
    for task_id in task_ids:
        bench.submit(task_id)
        await bench.shard.durable()


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("store.lost_writes")]


def on_a_loud_bench(story, caplog):
    caplog.set_level(logging.ERROR, logger="coordinator.engine.lost_writes")
    on_a_bench(story)


@pytest.mark.parametrize("is_at_rest", [True, False], ids=["at rest", "by a write"])
def test_entries_that_are_missing(caplog, is_at_rest):
    async def story(bench):
        await submitted(bench, "kept")
        earlier, epoch = copy.deepcopy(bench.data), bench.data.epoch
        earlier.owner = bench.data.owner
        await submitted(bench, "lost", "lost too")
        back_to(bench, earlier)
        if not is_at_rest:
            bench.submit("not acknowledged")
        await asyncio.sleep(CONFIRM_AFTER_S + 1.5)
        assert bench.shard.lost.entries == 2
        assert bench.data.epoch > epoch
        assert list(bench.shard.namespace("default").scheduler.state.tasks) == ["kept"]
        (line,) = said(caplog)
        assert "shard=0 entries=2" in line
        assert "submit again what must run" in line

    on_a_loud_bench(story, caplog)


def test_a_claim_that_is_missing_is_no_takeover(caplog):
    async def story(bench):
        before = MemoryShardStore(shard=bench.data, now_ms=lambda: 0)
        earlier = copy.deepcopy(bench.data)
        earlier.owner, earlier.epoch = before._token, bench.data.epoch - 5
        await submitted(bench, "lost")
        epoch = bench.data.epoch
        bench.store._now_ms = lambda: epoch - 1000  # the new primary's clock is behind
        back_to(bench, earlier)
        await asyncio.sleep(CONFIRM_AFTER_S + 1.5)
        assert not bench.running.done()
        assert bench.shard.lost.entries == 1
        assert bench.data.epoch == epoch + 1, "an epoch that was given out once isn't given out again"

    on_a_loud_bench(story, caplog)


def test_a_takeover_is_no_loss(caplog):
    async def story(bench):
        await submitted(bench, "kept")
        await MemoryShardStore(shard=bench.data, now_ms=bench.store._now_ms).claim()
        bench.submit("not acknowledged")
        with pytest.raises(ShardLost):
            await bench.running
        bench.running = asyncio.create_task(asyncio.sleep(0))
        assert bench.shard.lost.entries == 0

    on_a_loud_bench(story, caplog)
    assert said(caplog) == []


def commit(sequence, epoch):
    return Commit(sequence, epoch, 0, [])


def test_entries_that_somebody_else_has_replaced(caplog):
    lost = LostWrites(shard=3)
    lost.recovered(10, 4)
    lost.acknowledged(10, 5)
    for entry in (commit(3, 9), commit(4, 12), commit(5, 12), commit(6, 12)):
        lost.replayed(entry)
    lost.recovered(13, 6)
    assert lost.entries == 2
    assert "shard=3 entries=2" in said(caplog)[0]


def test_what_another_owner_had_said_of_its_journal(caplog):
    lost = LostWrites(shard=3)
    lost.heard(10, 7)
    lost.heard(10, 5)  # said before, and heard late
    lost.recovered(11, 6)
    assert lost.entries == 1
    lost.heard(12, 4)  # it has noticed itself
    lost.recovered(13, 4)
    assert lost.entries == 1


def test_what_others_have_written_behind_ours_is_no_loss(caplog):
    lost = LostWrites(shard=3)
    lost.recovered(10, 5)
    for entry in (commit(4, 9), commit(5, 10), commit(6, 12)):
        lost.replayed(entry)
    lost.recovered(13, 6)
    lost.replayed(commit(6, 12))
    lost.recovered(14, 6)
    assert lost.entries == 0
    assert said(caplog) == []
