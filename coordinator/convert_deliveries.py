"""Webhooks' deliveries from the core to protos and back, and what is told to a receiver."""

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec
from muster.v1 import common_pb2, event_pb2

from coordinator import convert
from coordinator.core.model import TaskState
from coordinator.core.webhooks import Delivery, GivenUp

MAX_RESULT_BYTES = 16 * 1024  # of a result that is told of as it is; a larger one is for GetTask


def delivery_out(stored: Delivery | GivenUp) -> event_pb2.PendingWebhook:
    """A delivery, to be stored."""
    delivery = stored if isinstance(stored, Delivery) else stored.delivery
    message = event_pb2.PendingWebhook(
        number=delivery.number,
        hook=delivery.hook,
        url=delivery.url,
        task_id=delivery.task_id,
        task_type=delivery.task_type,
        state=convert.STATE_OUT[delivery.state],
        run=delivery.run,
        attempt=delivery.attempt,
        agent_name=delivery.agent,
        create_ms=delivery.created_ms,
        start_ms=delivery.started_ms,
        end_ms=delivery.ended_ms,
        failure=convert.failure_out(delivery.failure) if delivery.failure is not None else None,
        reason=delivery.reason,
        due_ms=delivery.due_ms,
        labels=dict(delivery.labels),
    )
    if isinstance(stored, GivenUp):
        message.given_up_ms, message.given_up_reason = stored.date_ms, stored.reason
    return message


def delivery_stored(message: event_pb2.PendingWebhook) -> Delivery | GivenUp:
    """The delivery that `delivery_out` wrote."""
    delivery = Delivery(
        number=message.number,
        hook=message.hook if message.HasField("hook") else None,
        url=message.url,
        task_id=message.task_id,
        task_type=message.task_type,
        state=TaskState(message.state),
        run=message.run,
        attempt=message.attempt,
        agent=message.agent_name,
        created_ms=message.create_ms,
        started_ms=message.start_ms,
        ended_ms=message.end_ms,
        failure=convert.failure_in(message.failure) if message.HasField("failure") else None,
        reason=message.reason,
        due_ms=message.due_ms,
        labels=tuple(sorted(message.labels.items())),
    )
    return GivenUp(delivery, message.given_up_ms, message.given_up_reason) if message.given_up_ms else delivery


# --- what is told -----------------------------------------------------------------------------------------------------------------------


def event_id(namespace: str, delivery: Delivery) -> str:
    """The header webhook-id: the same at every attempt and after every restart, and that of no other delivery."""
    hook = "own" if delivery.hook is None else f"type {delivery.hook}"
    facts = "\0".join((namespace, delivery.task_id, str(delivery.run), str(delivery.ended_ms), hook))
    return "evt_" + hashlib.sha256(facts.encode()).hexdigest()[:32]


def body(namespace: str, delivery: Delivery, record: bytes | None) -> bytes:
    """What is posted: JSON.

    Args:
        namespace: the task's.
        delivery: what is told of.
        record: that of the task, if it is still there: it has what may be large.
    """
    data: dict[str, Any] = {
        "namespace": namespace,
        "task_id": delivery.task_id,
        "task_type": delivery.task_type,
        "state": delivery.state.name,
        "run": delivery.run,
        "attempts": delivery.attempt,
        "agent_name": delivery.agent or None,
        "create_time": _time(delivery.created_ms),
        "start_time": _time(delivery.started_ms) if delivery.started_ms else None,
        "end_time": _time(delivery.ended_ms),
        "labels": dict(delivery.labels),
        "hook": "task" if delivery.hook is None else "type",
    }
    if delivery.failure is not None:
        data["failure"] = {
            "kind": delivery.failure.kind.name,
            "message": delivery.failure.message,
            "type": delivery.failure.error_type or None,
        }
    if delivery.state is TaskState.CANCELLED:
        data["reason"] = delivery.reason
    known = convert.record_in(record) if record is not None else None
    if known is not None and known.run == delivery.run and known.end_ms == delivery.ended_ms and delivery.state is TaskState.COMPLETED:
        data["result"] = None if known.outcome_dropped else _result(common_pb2.Outcome.FromString(known.outcome).success)
    return msgspec.json.encode(
        {
            "id": event_id(namespace, delivery),
            "type": f"task.{delivery.state.name.lower()}",
            "timestamp": _time(delivery.ended_ms),
            "data": data,
        }
    )


def _result(success: common_pb2.Success) -> dict[str, Any]:
    """A result: as JSON or text where it is that, else in base64; without its content where that is large."""
    payload, content_type = success.payload, success.content_type or "application/octet-stream"
    result: dict[str, Any] = {"content_type": content_type, "size": len(payload)}
    if len(payload) > MAX_RESULT_BYTES:
        return result
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            msgspec.json.decode(payload)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            pass  # it says that it is JSON, and isn't
        else:
            return result | {"json": msgspec.Raw(payload)}
    if media_type.startswith("text/"):
        try:
            return result | {"text": payload.decode()}
        except UnicodeDecodeError:
            pass
    return result | {"base64": base64.b64encode(payload).decode()}


def _time(date_ms: int) -> str:
    return datetime.fromtimestamp(date_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
