"""Webhooks' deliveries, as AdminService lists them and has them tried again."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from muster.v1 import admin_pb2

from coordinator import convert, convert_deliveries
from coordinator.core.webhooks import Delivery, retry
from coordinator.errors import InvalidRequest
from coordinator.rpc.pages import page_size
from coordinator.webhook_urls import origin_of

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.engine.webhooks import WebhookDispatcher

MAX_PER_CALL = 1000
PENDING, GIVEN_UP = admin_pb2.WEBHOOK_DELIVERY_STATE_PENDING, admin_pb2.WEBHOOK_DELIVERY_STATE_GIVEN_UP
_STATES = (admin_pb2.WEBHOOK_DELIVERY_STATE_UNSPECIFIED, PENDING, GIVEN_UP)


async def list_deliveries(
    shard: Shard, namespace: Namespace, request: admin_pb2.ListWebhookDeliveriesRequest, webhooks: WebhookDispatcher
) -> admin_pb2.ListWebhookDeliveriesResponse:
    """The oldest of each state: what waits longest is what tells most, so there are no pages.

    Raises:
        InvalidRequest: an unknown state, or a negative page_size.
    """
    if request.state not in _STATES:
        raise InvalidRequest(f"state is {request.state}: use 1 (PENDING), 2 (GIVEN_UP), or 0 for both", field="state")
    size = page_size(request.page_size)
    deliveries = namespace.scheduler.state.deliveries
    response = admin_pb2.ListWebhookDeliveriesResponse(pending=len(deliveries.pending), given_up=len(deliveries.given_up))
    if request.state != PENDING:
        for one in islice(deliveries.given_up.values(), size):
            message = _shown(namespace, one.delivery)
            message.state, message.reason = GIVEN_UP, one.reason
            message.given_up_time.CopyFrom(convert.timestamp(one.date_ms))
            response.deliveries.append(message)
    if request.state != GIVEN_UP:
        now_ms = shard.now().date_ms
        for delivery in islice(deliveries.pending.values(), size):
            message = _shown(namespace, delivery)
            progress = webhooks.progress(namespace, delivery.number)
            message.state, message.attempts, message.reason = PENDING, progress.attempts, progress.reason
            if progress.next_in_s is not None:
                message.next_time.CopyFrom(convert.timestamp(now_ms + round(1000 * progress.next_in_s)))
            response.deliveries.append(message)
    await shard.durable()
    return response


def _shown(namespace: Namespace, delivery: Delivery) -> admin_pb2.WebhookDelivery:
    message = admin_pb2.WebhookDelivery(
        number=delivery.number,
        webhook_id=convert_deliveries.event_id(namespace.name, delivery),
        task_id=delivery.task_id,
        task_type=delivery.task_type,
        task_state=convert.STATE_OUT[delivery.state],
        hook=delivery.hook,
        end_time=convert.timestamp(delivery.ended_ms),
    )
    policy = None if delivery.hook is None else namespace.scheduler.state.hooks.get(delivery.hook)
    url = delivery.url if delivery.hook is None else policy.url if policy is not None else ""
    message.origin = origin_of(url) if url else ""
    return message


async def retry_deliveries(
    shard: Shard, namespace: Namespace, request: admin_pb2.RetryWebhookDeliveriesRequest, webhooks: WebhookDispatcher
) -> admin_pb2.RetryWebhookDeliveriesResponse:
    """Has those that are there tried again at once.

    Raises:
        InvalidRequest: neither numbers nor all_given_up, or both, or too many.
        Unavailable: the store is out.
    """
    if request.all_given_up == bool(request.numbers):
        raise InvalidRequest("give either numbers or all_given_up", field="numbers")
    if len(request.numbers) > MAX_PER_CALL:
        raise InvalidRequest(f"numbers has {len(request.numbers)} entries: give at most {MAX_PER_CALL}", field="numbers")
    shard.require_store()
    scheduler = namespace.scheduler
    numbers = list(scheduler.state.deliveries.given_up) if request.all_given_up else list(dict.fromkeys(request.numbers))
    found = webhooks.hurry(namespace, numbers)
    now = shard.now()
    found += sum(retry(scheduler, number, now) for number in numbers)
    shard.decided(namespace, now)
    await shard.durable_write()
    return admin_pb2.RetryWebhookDeliveriesResponse(count=found)
