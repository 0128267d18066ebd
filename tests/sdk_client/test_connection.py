"""gRPC's errors in the SDK's words."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from muster.v1.common_pb2 import Refusal

from agent_node.connection import Target, call_metadata, duration, from_refusal, from_rpc_error, seconds
from agent_node.errors import (
    AlreadyExistsError,
    LimitError,
    MusterError,
    NotFoundError,
    RefusedError,
    ResultExpiredError,
    UnavailableError,
)

STATUS_KEY = "grpc-status-details-bin"


def rpc_error(code: grpc.StatusCode, message: str, *details: Message, trailer: bytes | None = None) -> grpc.aio.AioRpcError:
    status = Status(code=code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    trailers = grpc.aio.Metadata(("other", "1"), (STATUS_KEY, trailer if trailer is not None else status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, message)


CASES = [
    (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND", NotFoundError),
    (grpc.StatusCode.NOT_FOUND, "RESULT_EXPIRED", ResultExpiredError),
    (grpc.StatusCode.ALREADY_EXISTS, "TASK_EXISTS", AlreadyExistsError),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", LimitError),
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TASK", RefusedError),
    (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", UnavailableError),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "", UnavailableError),
]


@pytest.mark.parametrize("code,reason,expected", CASES)
def test_an_rpc_and_a_refusal_mean_the_same(code: grpc.StatusCode, reason: str, expected: type[MusterError]) -> None:
    error = from_rpc_error(rpc_error(code, "do this", ErrorInfo(reason=reason, domain="muster")))
    assert type(error) is expected
    assert str(error) == "do this"
    assert type(from_refusal(Refusal(code=code.value[0], reason=reason, message="do this"))) is expected


def test_every_detail_is_read() -> None:
    error = from_rpc_error(
        rpc_error(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the queue is full",
            QuotaFailure(),
            BadRequest(field_violations=[BadRequest.FieldViolation(field="task_type", description="too long")]),
            RetryInfo(retry_delay=duration(1.5)),
            ErrorInfo(reason="QUEUE_FULL", domain="muster", metadata={"limit": "10"}),
        )
    )
    assert isinstance(error, LimitError)
    assert (error.reason, error.field, error.retry_after_s, error.metadata) == ("QUEUE_FULL", "task_type", 1.5, {"limit": "10"})
    assert str(error) == "the queue is full (task_type: too long)"


def test_what_the_message_says_already_is_not_said_twice() -> None:
    violation = BadRequest.FieldViolation(field="filter", description="filter is wrong")
    error = from_rpc_error(rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "filter is wrong", BadRequest(field_violations=[violation])))
    assert str(error) == "filter is wrong"


def test_every_fact_of_a_refusal_is_read() -> None:
    refusal = Refusal(code=8, reason="R", message="m", field="f", retry_after=duration(2), metadata={"a": "b"})
    error = from_refusal(refusal)
    assert isinstance(error, LimitError)
    assert (error.reason, error.field, error.retry_after_s, error.metadata) == ("R", "f", 2, {"a": "b"})


def test_advice_on_an_outage_is_kept() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "away", RetryInfo(retry_delay=duration(3))))
    assert isinstance(error, UnavailableError)
    assert error.retry_after_s == 3


def test_details_that_are_garbage_leave_the_code_and_the_message() -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "gone", trailer=b"\xff\xff"))
    assert isinstance(error, NotFoundError)
    assert (str(error), error.reason) == ("gone", "NOT_FOUND")


def test_a_code_from_the_future_is_a_refusal() -> None:
    assert type(from_refusal(Refusal(code=99, message="m"))) is RefusedError


def test_durations_and_metadata() -> None:
    assert seconds(duration(2.25)) == 2.25
    assert call_metadata(Target("a:1", "team")) == (("muster-namespace", "team"),)


@pytest.mark.parametrize("seconds_given, sent", [(1e300, 315_576_000_000), (float("inf"), 315_576_000_000), (-1e300, -315_576_000_000)])
def test_a_duration_beyond_all_bounds_is_the_longest_there_is(seconds_given: float, sent: int) -> None:
    """And for the coordinator to refuse, with its bound."""
    assert duration(seconds_given).seconds == sent
