"""Webhooks from a task's end to their receiver: a real coordinator, and receivers that fail in every way."""

import base64
import logging
from contextlib import asynccontextmanager

import grpc
import pytest
from muster.v1 import admin_pb2, agent_pb2, common_pb2, policy_pb2

from coordinator.convert import Bounds
from coordinator.convert_deliveries import MAX_RESULT_BYTES
from coordinator.core.model import Settings
from coordinator.engine.webhooks import WebhookSettings
from coordinator.webhook_urls import WebhookRules, parse_network
from tests.support.eventually import eventually
from tests.support.hosted import MemoryShard, failure, hosted, spec_of
from tests.support.ports import free_port
from tests.support.receiver import SECRET, answers, breaks_off, hangs, receiving
from tests.support.refusals import refusal

BOUNDS = Bounds(webhooks=WebhookRules(allowed=(parse_network("127.0.0.0/8"),)))
SOON = WebhookSettings(first_backoff_s=0.02, max_backoff_s=0.05, first_pause_s=0.02, max_pause_s=0.05)
PENDING, GIVEN_UP = admin_pb2.WEBHOOK_DELIVERY_STATE_PENDING, admin_pb2.WEBHOOK_DELIVERY_STATE_GIVEN_UP
OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of 24 byte").decode()


@asynccontextmanager
async def deployed(*, webhooks=SOON, **options):
    async with hosted(bounds=BOUNDS, webhooks=webhooks, **options) as muster:
        yield muster


def hook(receiver, **options):
    return common_pb2.Webhook(url=receiver.url, **options)


def policy(url, task_type="work", **options):
    return policy_pb2.Policy(webhook=policy_pb2.WebhookPolicy(task_type=task_type, url=url, **options))


async def put(muster, *policies):
    return (await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=policies))).policies


async def complete(muster, *task_ids, payload=b"done", content_type="", **options):
    """Submits tasks, and has an agent complete them."""
    agent = await muster.agent()
    await muster.submit(*(spec_of(task_id, **options) for task_id in task_ids))
    for number, one in enumerate(await agent.assigned(len(task_ids)), 1):
        result = common_pb2.Outcome(success=common_pb2.Success(payload=payload, content_type=content_type))
        report = failure(one.task.task_id, one.fence)
        report.outcome.CopyFrom(result)
        await agent.report(report, batch_id=number)
    await agent.leave()


async def listed(muster, state=0):
    return await muster.admin.ListWebhookDeliveries(admin_pb2.ListWebhookDeliveriesRequest(state=state))


async def retried(muster, *numbers, **options):
    return (await muster.admin.RetryWebhookDeliveries(admin_pb2.RetryWebhookDeliveriesRequest(numbers=numbers, **options))).count


async def until_settled(muster):
    async def settled():
        return not (await listed(muster)).pending

    await eventually(settled, message="no webhook to be pending")


async def test_a_completed_task_is_told_of():
    async with deployed() as muster, receiving() as receiver:
        await complete(
            muster,
            "a",
            payload=b'{"sum": 3}',
            content_type="application/json; charset=utf-8",
            webhook=hook(receiver),
            labels={"team": "red"},
        )
        await until_settled(muster)
        (request,) = receiver.requests
        said = request.said
        data = said.pop("data")
        assert said.pop("id") == request.event_id
        assert said == {"type": "task.completed", "timestamp": data["end_time"]}
        times = [data.pop(name) for name in ("create_time", "start_time", "end_time")]
        assert times == sorted(times)
        assert times[0].endswith("Z")
        assert data == {
            "namespace": "default",
            "task_id": "a",
            "task_type": "work",
            "state": "COMPLETED",
            "run": 1,
            "attempts": 1,
            "agent_name": "agent-1",
            "labels": {"team": "red"},
            "hook": "task",
            "result": {"content_type": "application/json; charset=utf-8", "size": 10, "json": {"sum": 3}},
        }
        assert "webhook-signature" not in request.headers
        stats = await muster.admin.GetQueueStats(admin_pb2.GetQueueStatsRequest())
        assert (stats.webhooks_pending, stats.webhooks_delivered_total, stats.webhooks_given_up_total) == (0, 1, 0)


@pytest.mark.parametrize(
    "payload, content_type, told",
    [
        (b"caf\xc3\xa9", "text/plain", {"text": "café"}),
        (b"\xff", "text/plain", {"base64": "/w=="}),
        (b"[1, NaN]", "application/json", {"base64": "WzEsIE5hTl0="}),
        (b"[" * 5000, "application/json", None),
        (b'{"a": 1}', "application/problem+json", {"json": {"a": 1}}),
        (b"\x00\x01", "", {"base64": "AAE="}),
        (b"", "", {"base64": ""}),
        (b"x" * (MAX_RESULT_BYTES + 1), "text/plain", {}),
    ],
)
async def test_a_result_is_told_as_what_it_is(payload, content_type, told):
    async with deployed() as muster, receiving() as receiver:
        await complete(muster, "a", payload=payload, content_type=content_type, webhook=hook(receiver))
        await until_settled(muster)
        result = receiver.requests[0].said["data"]["result"]
    assert result.pop("size") == len(payload)
    assert result.pop("content_type") == (content_type or "application/octet-stream")
    assert result == (told if told is not None else {"base64": base64.b64encode(payload).decode()})


async def test_failed_and_cancelled_tasks_are_told_of():
    async with deployed() as muster, receiving() as receiver:
        agent = await muster.agent()
        await muster.submit(spec_of("fails", webhook=hook(receiver)), spec_of("waits", "nobody-can", webhook=hook(receiver)))
        (one,) = await agent.assigned()
        await agent.report(failure("fails", one.fence, message="no good", type="ValueError", non_retryable=True))
        await muster.cancel("waits", reason="not needed")
        await until_settled(muster)
        told = {request.said["data"]["task_id"]: request.said for request in receiver.requests}
    assert told["fails"]["type"] == "task.failed"
    assert told["fails"]["data"]["failure"] == {"kind": "APPLICATION", "message": "no good", "type": "ValueError"}
    assert told["waits"]["type"] == "task.cancelled"
    assert told["waits"]["data"]["reason"] == "not needed"
    assert told["waits"]["data"]["start_time"] is None


async def test_the_types_policy_signs_both_and_secrets_are_never_shown(caplog):
    caplog.set_level(logging.DEBUG)
    async with deployed() as muster, receiving() as receiver, receiving(answers(500), answers()) as own:
        [standing] = await put(muster, policy(receiver.url, secrets=[SECRET, OTHER_SECRET]))
        await complete(muster, "a", webhook=hook(own))
        await until_settled(muster)
        for request in receiver.requests + own.requests:
            assert request.is_signed_with(SECRET)
            assert request.is_signed_with(OTHER_SECRET)
        assert receiver.requests[0].event_id not in own.ids
        assert [one.said["data"]["hook"] for one in receiver.requests + own.requests] == ["type", "task", "task"]
        assert own.ids == [own.ids[0]] * 2
        [shown] = (await muster.admin.ListPolicies(admin_pb2.ListPoliciesRequest())).policies
        assert shown == standing
        assert (shown.webhook.url, shown.webhook.secret_count, list(shown.webhook.secrets)) == (receiver.url, 2, [])
    assert "webhook.failed" in caplog.text
    for hidden in (SECRET, OTHER_SECRET, "hidden-in-the-url"):
        assert hidden not in caplog.text


async def test_a_tasks_own_webhook_is_signed_by_the_policy_of_every_type():
    async with deployed() as muster, receiving() as receiver:
        await put(muster, policy("", "", secrets=[SECRET]))
        await complete(muster, "a", webhook=hook(receiver))
        await until_settled(muster)
        assert len(receiver.requests) == 1
        assert receiver.requests[0].is_signed_with(SECRET)


@pytest.mark.parametrize("bad", [answers(500), answers(302), breaks_off], ids=["500", "302", "breaks off"])
async def test_what_fails_is_tried_again_under_the_same_id(bad):
    async with deployed() as muster, receiving(bad, bad, answers()) as receiver:
        await complete(muster, "a", webhook=hook(receiver))
        await until_settled(muster)
    assert receiver.ids == [receiver.ids[0]] * 3


async def test_a_receiver_that_wants_no_more_is_left_in_peace_until_an_operator_says_so():
    async with deployed() as muster, receiving(answers(410), answers(410), answers()) as receiver:
        await complete(muster, "a", webhook=hook(receiver))
        await until_settled(muster)
        shown = await listed(muster)
        (one,) = shown.deliveries
        assert (shown.pending, shown.given_up, one.state, one.task_id, one.HasField("hook")) == (0, 1, GIVEN_UP, "a", False)
        assert (one.webhook_id, one.origin) == (receiver.ids[0], f"http://127.0.0.1:{receiver.port}")
        assert "410" in one.reason
        assert await retried(muster, one.number, one.number, 99) == 1
        await until_settled(muster)
        assert await retried(muster, all_given_up=True) == 1
        await until_settled(muster)
        assert receiver.ids == [one.webhook_id] * 3
        assert (await listed(muster)).given_up == 0
        assert await retried(muster, all_given_up=True) == 0


async def test_retry_after_is_honoured_and_an_operator_may_hurry():
    patient = WebhookSettings(first_backoff_s=0.01)
    async with deployed(webhooks=patient) as muster, receiving(answers(503, "Retry-After: 600"), answers()) as receiver:
        await complete(muster, "a", webhook=hook(receiver))

        async def tried():
            return [one for one in (await listed(muster, PENDING)).deliveries if one.attempts == 1]

        (one,) = await eventually(tried, message="an attempt")
        assert 590 < one.next_time.seconds - one.end_time.seconds < 610
        assert "503" in one.reason
        assert await retried(muster, one.number) == 1
        await until_settled(muster)
        assert receiver.ids == [one.webhook_id] * 2


async def test_a_host_that_hangs_holds_up_no_other():
    settings = WebhookSettings(at_once=4, at_once_per_host=8, answer_s=60.0)
    async with deployed(webhooks=settings) as muster, receiving(hangs) as hanging, receiving() as receiver:
        await complete(muster, *(f"hangs-{number}" for number in range(10)), webhook=hook(hanging))
        await eventually(lambda: hanging.requests, message="a request that hangs")
        await complete(muster, *(f"well-{number}" for number in range(10)), webhook=hook(receiver))
        await eventually(lambda: len(set(receiver.ids)) == 10, message="all that can be delivered")
        assert len(hanging.requests) == 1  # one at a time, until one is answered
        assert receiver.most_at_once <= 4
        await muster.is_alive()


async def test_a_host_that_gives_no_answer_is_asked_by_one_at_a_time():
    settings = WebhookSettings(first_backoff_s=0.01, max_backoff_s=0.02, first_pause_s=0.1, max_pause_s=0.1, answer_s=0.05)
    async with deployed(webhooks=settings) as muster, receiving(hangs) as receiver:
        await complete(muster, *map(str, range(10)), webhook=hook(receiver))
        await eventually(lambda: len(receiver.requests) >= 3, message="attempts")
        shown = (await listed(muster)).deliveries
        assert len(shown) == 10
        assert all("no answer in time" in one.reason for one in shown)  # those that wait behind it say why, too
        assert receiver.most_at_once == 1
        receiver.script = [answers()]
        await until_settled(muster)
        assert 1 < receiver.most_at_once <= 8  # it was trusted with more as it answered


async def test_nobody_there_and_then_somebody():
    port = free_port()
    async with deployed() as muster:
        await complete(muster, "a", webhook=common_pb2.Webhook(url=f"http://127.0.0.1:{port}/"))

        async def tried():
            return [one for one in (await listed(muster)).deliveries if one.attempts >= 2]

        assert await eventually(tried, message="attempts")
        async with receiving(port=port) as receiver:
            await until_settled(muster)
            assert len(receiver.requests) == 1


async def test_what_was_due_when_the_coordinator_ended_is_delivered_by_the_next_one_under_the_same_id():
    data = MemoryShard()
    async with receiving(hangs, answers()) as receiver:
        async with deployed(data=data) as muster:
            await complete(muster, "a", webhook=hook(receiver))
            await eventually(lambda: receiver.requests, message="the first attempt")
        async with deployed(data=data) as muster:
            await until_settled(muster)
            assert receiver.ids == [receiver.ids[0]] * 2
        async with deployed(data=data) as muster:
            await muster.is_alive()
            assert (await listed(muster)).pending == 0
        assert len(receiver.requests) == 2


async def test_nothing_is_told_before_it_is_durable_nor_while_the_store_is_out():
    async with deployed() as muster, receiving() as receiver, receiving(answers(500)) as failing:
        await complete(muster, "earlier", webhook=hook(failing))
        await eventually(lambda: failing.requests, message="an attempt")
        agent = await muster.agent()
        await muster.submit(spec_of("a", webhook=hook(receiver)))
        (one,) = await agent.assigned()
        muster.faults.outage()
        report = failure("a", one.fence, non_retryable=True)
        await agent.send(agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=1, results=[report])))
        await eventually(lambda: muster.scheduler.state.deliveries.of_hook.get(None) == 2, message="the end in memory")
        await eventually(lambda: muster.shard.outage_since_s is not None, message="the outage")
        before = len(failing.requests)
        await eventually(lambda: muster.faults.failed_reads or muster.shard._clock.now_s() - muster.shard.outage_since_s > 1.5, within_s=5)
        assert not receiver.requests
        assert len(failing.requests) <= before + 1
        muster.faults.over()
        await eventually(lambda: receiver.requests, within_s=10, message="the webhook")


async def test_what_waits_follows_its_policy():
    async with deployed() as muster, receiving(answers(500)) as wrong, receiving() as right:
        await put(muster, policy(wrong.url))
        await complete(muster, "a", "b")
        await eventually(lambda: len(wrong.requests) > 3, message="attempts")
        await put(muster, policy(right.url))
        await until_settled(muster)
        assert set(right.ids) == set(wrong.ids)
        await put(muster, policy(wrong.url))
        await complete(muster, "c")
        name = policy_pb2.PolicyName(kind=policy_pb2.POLICY_KIND_WEBHOOK, key="work")
        await muster.admin.DeletePolicies(admin_pb2.DeletePoliciesRequest(names=[name]))
        await until_settled(muster)
        (one,) = (await listed(muster)).deliveries
        assert (one.reason, one.origin, one.hook, one.HasField("hook")) == ("its webhook was deleted", "", "work", True)
        assert await retried(muster, one.number) == 1  # nothing to be had by it
        await until_settled(muster)
        assert (await listed(muster)).given_up == 1


async def test_it_is_given_up_after_its_time_and_says_why(caplog):
    short = WebhookSettings(first_backoff_s=0.02, max_backoff_s=0.05, give_up_after_s=0.3)
    async with deployed(webhooks=short) as muster, receiving(answers(500)) as receiver:
        await complete(muster, "a", webhook=hook(receiver))
        await until_settled(muster)
        (one,) = (await listed(muster, GIVEN_UP)).deliveries
        assert one.reason == "not delivered within 0.3 s: it answered 500"
        assert one.given_up_time.seconds
        assert len(receiver.requests) > 2
        assert (await listed(muster, PENDING)).deliveries == []
    assert "webhook.given_up" in caplog.text


async def test_a_record_that_is_gone_takes_only_the_result_with_it():
    async with deployed() as muster, receiving(answers(500)) as receiver:
        await complete(muster, "a", webhook=hook(receiver))
        await eventually(lambda: receiver.requests, message="an attempt")
        assert "result" in receiver.requests[0].said["data"]
        muster.shard.store._shard.namespaces["default"].records.clear()
        told = await eventually(
            lambda: [request.said["data"] for request in receiver.requests if "result" not in request.said["data"]],
            message="an attempt without the record",
        )
        assert (told[0]["task_id"], told[0]["state"], told[0]["attempts"]) == ("a", "COMPLETED", 1)


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "https://user:secret@example.com/", "ftp://example.com/", "nonsense"])
async def test_a_url_that_cannot_be_is_refused_at_once(url):
    async with deployed() as muster:
        refused = await muster.submit(spec_of("a", webhook=common_pb2.Webhook(url=url)), spec_of("b"))
        assert refused[0].refusal.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert (refused[0].refusal.field, refused[0].refusal.reason) == ("webhook.url", "INVALID_WEBHOOK")
        assert "secret" not in refused[0].refusal.message
        assert not refused[1].HasField("refusal")
        refusing = await refusal(put(muster, policy(url)))
        assert refusing.fields == ["policies[0].webhook.url"]


@pytest.mark.parametrize(
    "bad, field",
    [
        (policy(""), "url"),
        (policy("https://example.com/", "x" * 129), "task_type"),
        (policy("https://example.com/", states=[1]), "states"),
        (policy("https://example.com/", secrets=["very-secret"]), "secrets"),
        (policy("https://example.com/", secrets=[SECRET] * 5), "secrets"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused(bad, field):
    async with deployed() as muster:
        refused = await refusal(put(muster, bad))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.fields == [f"policies[0].webhook.{field}"]
        assert "very-secret" not in str(refused)
        assert (await muster.admin.ListPolicies(admin_pb2.ListPoliciesRequest())).policies == []


@pytest.mark.parametrize(
    "request_message, field",
    [
        (admin_pb2.ListWebhookDeliveriesRequest(state=7), "state"),
        (admin_pb2.ListWebhookDeliveriesRequest(page_size=-1), "page_size"),
        (admin_pb2.RetryWebhookDeliveriesRequest(), "numbers"),
        (admin_pb2.RetryWebhookDeliveriesRequest(numbers=[1], all_given_up=True), "numbers"),
        (admin_pb2.RetryWebhookDeliveriesRequest(numbers=range(1001)), "numbers"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(request_message, field):
    async with deployed() as muster:
        method = getattr(muster.admin, type(request_message).__name__.removesuffix("Request"))
        refused = await refusal(method(request_message))
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_submit_beyond_the_limit_says_so():
    async with deployed(core=Settings(max_pending_webhooks=1)) as muster, receiving(hangs) as receiver:
        await complete(muster, "a", webhook=hook(receiver))
        refused = (await muster.submit(spec_of("b", webhook=hook(receiver))))[0].refusal
        assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert refused.metadata["limit"] == "max_pending_webhooks"
        assert "without a webhook" in refused.message
        assert not (await muster.submit("c"))[0].HasField("refusal")
