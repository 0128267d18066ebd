"""What a journal entry or a piece of a snapshot says of namespaces and of records, without the tasks: for who copies a shard as it lies."""

from dataclasses import dataclass, field

from muster.v1 import common_pb2, event_pb2

from coordinator.journal.codec import check_commit_format, check_event_known
from coordinator.journal.snapshot_codec import check_snapshot_format


@dataclass(slots=True)
class CommitOutline:
    """What a commit does beside its tasks' lives.

    Attributes:
        namespaces: those that came (True) or went (False), in order.
        redriven: namespace and id of tasks whose records it removes.
    """

    namespaces: list[tuple[str, bool]] = field(default_factory=list)
    redriven: list[tuple[str, str]] = field(default_factory=list)


def outline_commit(blob: bytes) -> CommitOutline:
    """The outline of a journal entry.

    Raises:
        JournalTooNew: it was written by a newer release.
    """
    commit = event_pb2.Commit.FromString(blob)
    check_commit_format(commit)
    found = CommitOutline()
    for record in commit.records:
        kind = record.WhichOneof("event")
        check_event_known(kind)
        if kind == "namespace_created":
            found.namespaces.append((record.namespace, True))
        elif kind == "namespace_deleted" and not record.namespace_deleted.purged:
            found.namespaces.append((record.namespace, False))
        elif kind == "task_redriven":
            found.redriven.append((record.namespace, common_pb2.TaskSpec.FromString(record.task_redriven.request).task_id))
    return found


def outline_piece(blob: bytes) -> list[str]:
    """The namespaces that a piece of a snapshot has a part of, but for those that had been deleted.

    Raises:
        JournalTooNew: it was written by a newer release.
    """
    chunk = event_pb2.SnapshotChunk.FromString(blob)
    check_snapshot_format(chunk)
    return [part.namespace for part in chunk.parts if not part.deleted]
