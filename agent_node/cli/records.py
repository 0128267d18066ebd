"""What --json prints: protobuf's JSON mapping with the protos' own field names, and payloads readable where they are text or JSON.

Fields that hold their default are printed too, so that a script can rely on each key. As in the mapping, 64-bit integers are strings.
"""

import json
import sys
from typing import cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from muster.v1 import common_pb2, task_pb2

from agent_node.cli.payloads import TEXT_TYPE, Json, payload_fields
from agent_node.client.tasks import Chunk
from agent_node.errors import TaskCancelledError, TaskFailedError

Record = dict[str, Json]


def print_record(record: Record) -> None:
    """One JSON object on a line of stdout, at once: the reader may be following."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def record_of(message: Message) -> Record:
    """Any message of the protos."""
    mapped = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return cast("Record", mapped)


def task_record(task: task_pb2.Task) -> Record:
    """A task, with the payloads of its submit and of its outcome decoded."""
    record = record_of(task)
    if task.HasField("spec"):
        spec = cast("Record", record["spec"])
        spec.pop("payload")
        spec |= payload_fields(task.spec.payload, task.spec.content_type)
    if task.HasField("outcome"):
        record["outcome"] = outcome_record(task.outcome)
    return record


def history_record(task: task_pb2.Task) -> Record:
    """A task with its history, and without what it carries."""
    record = record_of(task)
    for carried in ("spec", "outcome", "checkpoint"):
        record.pop(carried, None)
    return record


def outcome_record(outcome: common_pb2.Outcome) -> Record:
    """How a task ended, with a success's payload decoded."""
    record = record_of(outcome)
    if outcome.HasField("success"):
        record["success"] = payload_fields(outcome.success.payload, outcome.success.content_type)
    return record


def chunk_record(chunk: task_pb2.TaskChunk | Chunk) -> Record:
    """A piece of partial output: its text, or base64 where it isn't UTF-8."""
    fields = payload_fields(chunk.data, TEXT_TYPE)
    decoded: Record = {"data": fields["payload"]} if "payload" in fields else {"data_base64": fields["payload_base64"]}
    return {"attempt": chunk.attempt, "offset": str(chunk.offset), **decoded}


def event_record(event: task_pb2.TaskEvent) -> Record:
    """Something that happened to a task; the key beside `task_id` and `event_time` says what: task, chunk, progress or missing."""
    record = record_of(event)
    match event.WhichOneof("event"):
        case "task":
            record["task"] = task_record(event.task)
        case "chunk":
            record["chunk"] = chunk_record(event.chunk)
        case "progress" | "missing" | None:
            pass
    return record


def result_record(task_id: str, payload: bytes, content_type: str) -> Record:
    """A task's successful end, as `submit --wait` prints it."""
    return {"task_id": task_id, "state": "TASK_STATE_COMPLETED", **payload_fields(payload, content_type)}


def end_record(error: TaskFailedError | TaskCancelledError) -> Record:
    """A task's other ends, as `submit --wait` prints them."""
    match error:
        case TaskFailedError():
            failure: Record = {"kind": error.kind, "message": error.message, "type": error.error_type, "stack_trace": error.stack_trace}
            return {"task_id": error.task_id, "state": "TASK_STATE_FAILED", "failure": failure}
        case TaskCancelledError():
            return {"task_id": error.task_id, "state": "TASK_STATE_CANCELLED", "reason": error.reason}
