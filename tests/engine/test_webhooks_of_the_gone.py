"""What becomes of webhooks whose namespace is deleted, or whose shard is rebuilt, whatever the dispatcher is doing with them."""

import asyncio
import gc
import logging
import weakref

import pytest

from coordinator.engine import webhooks as engine_webhooks
from coordinator.engine.deletion import delete_namespace, purge
from coordinator.engine.watches import Watch
from coordinator.errors import Unavailable
from coordinator.journal.memory_store import Fault, StoreCall
from tests.engine.webhook_bench import DELIVERED, FAILED, UNREACHABLE, on_a_bench


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")


def is_empty(dispatcher):
    """Nothing is held of anybody but for a timer or two, which hold nothing of a namespace."""
    return not (dispatcher._shards or dispatcher._entries or dispatcher._hosts or dispatcher._leaving or dispatcher._arriving)


async def delete(bench, namespace):
    delete_namespace(bench.shard, namespace)
    await bench.shard.durable_write()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("per_step", [2, 500])
def test_a_deleted_namespace_is_let_go_at_once(monkeypatch, per_step):
    """In a backoff, behind a host that is silent, and on its way: nobody hears of it again, and nothing of it stays in memory."""
    monkeypatch.setattr(engine_webhooks, "PER_STEP", per_step)

    async def story(bench):
        blue = bench.shard.create_namespace("blue")
        bench.hosts |= {"bad": (FAILED, 0.0), "silent": (UNREACHABLE, 1.0), "slow": (DELIVERED, 30.0)}
        for host in bench.hosts:
            bench.end(*(f"{host}-{number}" for number in range(10)), host=host, namespace=blue)
            await asyncio.sleep(300 if host != "slow" else 3)  # backoffs are long by then
        count = len(bench.sent)
        assert {host for _, host, _ in bench.sent} == set(bench.hosts)
        await delete(bench, blue)
        held = weakref.ref(blue.scheduler)
        del blue
        assert is_empty(bench.dispatcher)
        await asyncio.sleep(60)  # what was on its way has been answered, and counts for nothing
        assert len(bench.sent) == count
        gc.collect()
        assert held() is None, "timers of backoffs hold its tasks"
        bench.end("a", host="slow")
        await asyncio.sleep(31)
        assert not bench.deliveries.pending, "others go on"

    on_a_bench(story)


def test_one_of_the_same_name_has_none_of_its_webhooks():
    async def story(bench):
        blue = bench.shard.create_namespace("blue")
        bench.hosts["bad"] = FAILED, 0.0
        bench.end("old", host="bad", namespace=blue)
        await asyncio.sleep(1)
        await delete(bench, blue)
        await purge(bench.shard, "blue", limit=100, calls=10)
        again = bench.shard.create_namespace("blue")
        del bench.hosts["bad"]
        bench.end("new", host="bad", namespace=again)
        await asyncio.sleep(3600)
        assert len(bench.sent) == 2
        assert not again.scheduler.state.deliveries.pending
        assert set(bench.dispatcher._shards) == {again}

    on_a_bench(story)


def test_one_that_is_about_to_be_sent_is_not():
    """The namespace goes between the decision to send and the first step of sending."""

    async def story(bench):
        blue = bench.shard.create_namespace("blue")
        bench.end("a", namespace=blue)
        await bench.shard.durable_write()
        bench.dispatcher._step()
        assert bench.dispatcher._sending
        blue.gone("it was deleted")
        await asyncio.gather(*bench.dispatcher._sending)
        assert bench.sent == []

    on_a_bench(story)


@pytest.mark.parametrize("fault", [Fault.NONE, Fault.BEFORE])
def test_one_whose_record_is_being_read_is_not_sent(fault):
    async def story(bench):
        blue = bench.shard.create_namespace("blue")
        bench.end("a", namespace=blue)
        await bench.shard.durable_write()
        bench.dispatcher._step()
        bench.faults[StoreCall.READ] = fault
        await asyncio.sleep(0.0005)  # in the middle of it
        delete_namespace(bench.shard, blue)
        blue.gone("it was deleted")
        await asyncio.gather(*bench.dispatcher._sending)
        assert bench.sent == []
        assert not bench.dispatcher._timers

    on_a_bench(story)


def test_a_deletion_that_never_became_durable_lets_go_too():
    """The shard is rebuilt meanwhile: watches of the one that was to be deleted end, and the one that is back has its webhooks."""

    async def story(bench):
        blue = bench.shard.create_namespace("blue")
        bench.hosts["bad"] = FAILED, 0.0
        bench.end("a", host="bad", namespace=blue)
        await asyncio.sleep(1)
        watch = Watch(task_ids=["a"], matches=None, chunks=False, progress=False)
        blue.watches.announce(watch)
        bench.data.sequence += 1  # the next append finds a journal that somebody else has written to
        delete_namespace(bench.shard, blue)
        with pytest.raises(Unavailable):
            await bench.shard.durable_write()
        bench.data.sequence -= 1
        assert "being rebuilt" in watch.closed.message
        await asyncio.sleep(30)
        again = bench.shard.namespace("blue")
        assert set(bench.dispatcher._shards) == {again}
        del bench.hosts["bad"]
        await asyncio.sleep(60)
        assert not again.scheduler.state.deliveries.pending

    on_a_bench(story)
