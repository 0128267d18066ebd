"""Dates in cells of tables."""

from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

NONE = "–"


def local_time(timestamp: Timestamp) -> str:
    """A timestamp in the time zone of whoever reads, to the second; a dash when it isn't set."""
    if not timestamp.ByteSize():
        return NONE
    return timestamp.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
