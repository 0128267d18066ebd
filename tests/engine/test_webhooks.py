"""The dispatcher of webhooks on a loop whose time jumps: when it tries, whom it spares, and when it gives up."""

import asyncio
import logging
from dataclasses import replace
from itertools import pairwise

import pytest

from coordinator import convert_deliveries
from coordinator.core.model import ALL_ENDS, TaskState
from coordinator.core.policies import WebhookPolicy, set_policy
from coordinator.core.webhooks import Delivery, retry
from coordinator.engine import webhooks as engine_webhooks
from coordinator.engine.webhooks import WebhookDispatcher, WebhookSettings
from coordinator.errors import Unavailable
from coordinator.journal.memory_store import Fault, MemoryShard, StoreCall
from tests.engine.webhook_bench import DAY_S, DELIVERED, FAILED, LIFE_S, UNREACHABLE, Bench, on_a_bench
from tests.support.virtual_loop import run_virtually


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="coordinator")


def test_it_is_tried_again_whenever_it_is_twice_as_old_and_given_up_after_a_day():
    async def story(bench):
        bench.hosts["bad"] = FAILED, 0.0
        begun_s = bench.loop.time()
        bench.end("a", host="bad")
        await asyncio.sleep(DAY_S - 1)
        times = [at_s - begun_s for at_s in bench.times("bad")]
        assert times[:6] == pytest.approx([0, 5, 10, 20, 40, 80], abs=0.5)
        waits = [later - earlier for earlier, later in pairwise(times)]
        assert max(waits) == pytest.approx(4 * 3600, rel=0.01)
        assert 14 <= len(times) <= 18
        assert len(bench.deliveries.pending) == 1
        await asyncio.sleep(10)
        (one,) = bench.deliveries.given_up.values()
        assert one.reason == "not delivered within 86400 s: it answered 500"
        await asyncio.sleep(DAY_S)
        assert len(bench.sent) == len(times)

    on_a_bench(story, settings=WebhookSettings())


def test_retry_after_is_honoured_but_not_beyond_the_end():
    async def story(bench):
        bench.hosts["later"] = replace(FAILED, retry_after_s=600.0), 0.0
        bench.hosts["never"] = replace(FAILED, retry_after_s=10.0 * LIFE_S), 0.0
        bench.end("a", host="later")
        bench.end("b", host="never")
        await asyncio.sleep(1000)
        assert bench.times("later")[1] == pytest.approx(600, abs=1)
        await asyncio.sleep(LIFE_S)
        assert len(bench.times("never")) == 1
        assert not bench.deliveries.pending

    on_a_bench(story)


def test_what_waits_behind_a_host_without_an_answer_is_given_up_in_time_without_a_try_each():
    async def story(bench):
        bench.hosts["dead"] = UNREACHABLE, 15.0
        bench.end(*map(str, range(1200)), host="dead")
        await asyncio.sleep(3600)
        assert len(bench.times("dead")) < 100
        assert bench.most_at_once == 1
        bench.end("well", host="good")
        await asyncio.sleep(1)
        assert bench.times("good")
        await asyncio.sleep(LIFE_S)
        assert not bench.deliveries.pending
        assert len(bench.deliveries.given_up) == 1000
        assert all("no answer in time" in one.reason for one in bench.deliveries.given_up.values())
        assert not bench.dispatcher._hosts
        assert not bench.dispatcher._entries[bench.namespace]

    on_a_bench(story)


def test_a_host_that_is_back_gets_all_that_waited():
    async def story(bench):
        bench.hosts["dead"] = UNREACHABLE, 0.1
        bench.end(*map(str, range(300)), host="dead")
        await asyncio.sleep(3600)
        del bench.hosts["dead"]
        begun_s = bench.loop.time()
        while bench.deliveries.pending:
            assert bench.loop.time() - begun_s < 5 * 3600
            await asyncio.sleep(10)
        assert bench.most_at_once == 8

    on_a_bench(story)


def test_a_host_that_was_trusted_is_asked_by_one_at_a_time_once_it_gives_no_answer():
    async def story(bench):
        bench.hosts["good"] = DELIVERED, 1.0
        bench.end(*map(str, range(200)))
        await asyncio.sleep(10)
        assert bench.at_once == 8
        bench.hosts["good"] = UNREACHABLE, 15.0
        await asyncio.sleep(20)
        assert next(iter(bench.dispatcher._hosts.values())).failures <= 2  # eight silences at once are one
        bench.most_at_once = 0
        await asyncio.sleep(300)
        assert bench.most_at_once == 1

    on_a_bench(story)


def test_hosts_that_hang_leave_room_for_those_that_answer():
    """A hundred hosts that hang, one delivery each: after their first silence they share a part of the room."""

    async def story(bench):
        for number in range(100):
            bench.hosts[f"hangs{number}"] = UNREACHABLE, 15.0
            bench.end(f"hangs{number}", host=f"hangs{number}")
        await asyncio.sleep(60)  # all have been silent once
        assert bench.most_at_once == 64
        doubtful = []
        for number in range(50):
            before_s = bench.loop.time()
            bench.end(f"well{number}")
            await asyncio.sleep(0.5)
            assert bench.times("good")[-1] - before_s < 0.2
            doubtful.append(bench.dispatcher._sending_doubtful)
        assert max(doubtful) == 16

    on_a_bench(story)


def test_after_a_restart_all_that_is_pending_is_taken_in_bit_by_bit(monkeypatch):
    data = MemoryShard()

    async def first(bench):
        bench.hosts["dead"] = UNREACHABLE, 0.1
        bench.end(*map(str, range(500)), host="dead")
        await asyncio.sleep(2)

    steps = []
    step = WebhookDispatcher._step

    def counted(dispatcher):
        before = sum(map(len, dispatcher._entries.values()))
        more = step(dispatcher)
        steps.append(sum(map(len, dispatcher._entries.values())) - before)
        return more

    async def second(bench):
        await asyncio.sleep(100)
        assert not bench.deliveries.pending
        assert len({webhook_id for _, _, webhook_id in bench.sent}) == 500
        assert sum(step for step in steps if step > 0) >= 500
        assert max(steps) <= 100

    on_a_bench(first, data=data)
    monkeypatch.setattr(engine_webhooks, "PER_STEP", 100)
    monkeypatch.setattr(WebhookDispatcher, "_step", counted)
    on_a_bench(second, data=data)


def test_at_a_restart_what_is_over_its_time_is_tried_once_more():
    data = MemoryShard()

    async def first(bench):
        bench.hosts["bad"] = FAILED, 0.0
        bench.end("a", host="bad")
        await asyncio.sleep(2)

    async def second(bench):
        await asyncio.sleep(2 * LIFE_S)  # the machine was off
        bench.tasks.append(asyncio.create_task(bench.dispatcher.run()))
        await asyncio.sleep(1)
        assert len(bench.times("bad")) == 1
        assert not bench.deliveries.pending
        assert not bench.deliveries.given_up

    async def late(loop):
        bench = Bench(loop, data=data)
        bench.dispatcher.run, run = asyncio.Event().wait, bench.dispatcher.run
        async with bench:
            bench.dispatcher.run = run
            await second(bench)

    on_a_bench(first, data=data)
    run_virtually(late)


@pytest.mark.parametrize("what_fails", [(StoreCall.APPEND, StoreCall.CONFIRM), (StoreCall.APPEND, StoreCall.CONFIRM, StoreCall.READ)])
def test_while_the_store_is_out_nothing_is_sent(what_fails):
    async def story(bench):
        bench.hosts["bad"] = FAILED, 0.0
        bench.end("a", host="bad")
        await asyncio.sleep(1)
        bench.faults |= dict.fromkeys(what_fails, Fault.BEFORE)
        bench.end("b", host="good")
        await asyncio.sleep(5)
        assert bench.shard.outage_since_s is not None
        count = len(bench.sent)
        await asyncio.sleep(600)
        assert len(bench.sent) == count
        bench.faults.clear()
        await asyncio.sleep(30)
        assert bench.times("good")
        assert len(bench.sent) > count + 1

    on_a_bench(story)


def test_a_shard_that_was_rebuilt_has_its_webhooks_delivered_once_more_at_most():
    async def story(bench):
        bench.hosts["slow"] = DELIVERED, 10.0
        bench.hosts["bad"] = FAILED, 0.0
        bench.end("a", host="slow")
        bench.end("b", host="bad")
        await asyncio.sleep(1)
        old = bench.namespace
        bench.data.sequence += 1  # the next append finds a journal that somebody else has written to
        bench.end("c")
        with pytest.raises(Unavailable):
            await bench.shard.durable_write()
        bench.data.sequence -= 1
        await asyncio.sleep(5)
        assert bench.namespace is not old
        assert set(bench.dispatcher._entries) == {bench.namespace}
        await asyncio.sleep(60)
        assert len(bench.times("slow")) == 2
        assert len({webhook_id for _, host, webhook_id in bench.sent if host == "slow"}) == 1
        assert list(bench.deliveries.of_hook.values()) == [1]
        del bench.hosts["bad"]
        await asyncio.sleep(LIFE_S)
        assert not bench.deliveries.pending

    on_a_bench(story)


def test_a_policy_that_moved_to_a_silent_host_holds_up_nothing_at_the_one_that_it_left():
    async def story(bench):
        def point(host):
            now = bench.shard.now()
            set_policy(bench.namespace.scheduler, WebhookPolicy("work", f"https://{host}/", ALL_ENDS, ()), now)
            bench.shard.decided(bench.namespace, now)

        bench.hosts["slow"] = DELIVERED, 1.0
        bench.hosts["dead"] = UNREACHABLE, 1.0
        point("slow")
        bench.end(*map(str, range(100)), host="slow")
        await asyncio.sleep(5)
        point("dead")
        await asyncio.sleep(30)
        assert None not in bench.deliveries.of_hook  # all own ones have been told
        assert len(bench.times("dead")) < 10
        point("slow")
        await asyncio.sleep(LIFE_S / 2)
        assert not bench.deliveries.pending
        assert not bench.deliveries.given_up

    on_a_bench(story)


def test_a_fault_of_ours_is_a_failed_attempt_and_ends_nothing():
    async def story(bench):
        bench.hosts["odd"] = AttributeError("what nobody thought of"), 0.0
        bench.end("a", host="odd")
        await asyncio.sleep(12)
        assert len(bench.times("odd")) == 3
        assert "AttributeError" in bench.dispatcher.progress(bench.namespace, 1).reason
        assert not any(task.done() for task in bench.tasks)

    on_a_bench(story)


def test_an_operator_hurries_what_waits():
    async def story(bench):
        bench.hosts["dead"] = UNREACHABLE, 0.1
        bench.end("a", "b", host="dead")
        await asyncio.sleep(0.05)
        (host,) = bench.dispatcher._hosts.values()
        while host.paused_until_s < bench.loop.time() + 30:
            await asyncio.sleep(1)
        del bench.hosts["dead"]
        count = len(bench.sent)
        assert bench.dispatcher.hurry(bench.namespace, [1, 77]) == 1
        await asyncio.sleep(0.1)
        assert len(bench.sent) == count + 1
        assert 1 not in bench.deliveries.pending

    on_a_bench(story)


def test_one_that_was_given_up_is_tried_for_another_day():
    async def story(bench):
        bench.hosts["bad"] = FAILED, 0.0
        bench.end("a", host="bad")
        await asyncio.sleep(LIFE_S + 10)
        assert retry(bench.namespace.scheduler, 1, bench.shard.now())
        bench.shard.decided(bench.namespace, bench.shard.now())
        count = len(bench.sent)
        await asyncio.sleep(LIFE_S - 10)
        assert len(bench.sent) - count >= 12
        await asyncio.sleep(30)
        assert list(bench.deliveries.given_up) == [1]

    on_a_bench(story)


def test_ids_of_deliveries_differ_in_whatever_they_are_of():
    one = Delivery(1, None, "", "a", "t", TaskState.FAILED, 1, 1, "", 1, 1, 5, None, "", (), 5)
    others = [replace(one, hook="t"), replace(one, hook=""), replace(one, run=2), replace(one, task_id="b"), replace(one, ended_ms=6)]
    ids = {convert_deliveries.event_id("n", each) for each in [one, *others]} | {convert_deliveries.event_id("m", one)}
    assert len(ids) == 7
    same = replace(one, number=9, url="https://elsewhere/", due_ms=77)  # tried again by an operator
    assert convert_deliveries.event_id("n", same) == convert_deliveries.event_id("n", one)
