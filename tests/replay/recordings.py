"""Recorded journals, snapshots and records of ended tasks, as files that every later release must read.

A recording is a folder with

    journal.bin     every entry of a shard's journal, each behind its length (4 bytes, the highest first)
    snapshot.bin    the pieces of a snapshot that was taken halfway, likewise
    records.bin     the records of the tasks that ended, likewise
    expected.json   what all of it says: the entry that the snapshot stands behind, each namespace's live tasks with every field, and
                    what the records hold
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from muster.v1 import event_pb2

from coordinator.core.rates import RateWalk
from coordinator.core.state import State
from tests.support.core_world import durable, durable_beside_tasks

FOLDER = Path(__file__).parent / "recorded"
_LENGTH = struct.Struct(">I")


@dataclass
class Recording:
    """What a folder holds."""

    journal: list[bytes]
    snapshot: list[bytes]
    records: list[bytes]
    expected: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Into a new folder: a recording never changes."""
        folder.mkdir(parents=True)
        for name in ("journal", "snapshot", "records"):
            (folder / f"{name}.bin").write_bytes(b"".join(_LENGTH.pack(len(blob)) + blob for blob in getattr(self, name)))
        (folder / "expected.json").write_text(json.dumps(self.expected, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Recording":
        """From a folder."""
        blobs = [list(_blobs((folder / f"{name}.bin").read_bytes())) for name in ("journal", "snapshot", "records")]
        return cls(*blobs, json.loads((folder / "expected.json").read_text(encoding="utf-8")))


def _blobs(content: bytes) -> Iterable[bytes]:
    place = 0
    while place < len(content):
        (length,) = _LENGTH.unpack_from(content, place)
        place += _LENGTH.size + length
        yield content[place - length : place]


def said(state: State) -> dict[str, Any]:
    """A state in JSON's words."""
    policies = {f"{name.kind.name} {name.key}": _plain(standing) for name, standing in state.policies.items()}
    webhooks = {
        name: _plain(value) for name, value in durable_beside_tasks(state).items() if name in ("pending", "given_up", "next_delivery")
    }
    rates: list[Any] = []
    RateWalk(state.rates, lambda name, key, starts: rates.append(_plain([name.key, key, starts]))).step(10**9)
    return {"next_number": state.next_number, "policies": policies, "rates": rates, "webhooks": webhooks, "tasks": _plain(durable(state))}


def record_said(blob: bytes) -> dict[str, Any]:
    """An ended task's record in JSON's words."""
    return MessageToDict(event_pb2.TaskRecord.FromString(blob), preserving_proto_field_name=True)


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.name
        case bytes() | bytearray():
            return bytes(value).hex()
        case frozenset():
            return sorted(_plain(one) for one in value)
        case tuple() | list():
            return [_plain(one) for one in value]
        case dict():
            return {key: _plain(one) for key, one in value.items()}
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.compare}
        case _:
            return value
