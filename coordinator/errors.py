"""Every error that a caller can meet, split by whose fault it is.

    MusterError
    ├── CallerError               the request can't be served as it is
    │   ├── InvalidRequest        a field is wrong
    │   ├── NotFound              no such namespace, task, agent or lease
    │   ├── AlreadyExists         the id is taken by a task with another content
    │   ├── PreconditionFailed    something must be done, or said, first
    │   ├── Conflict              somebody else holds the lock, runs the attempt, or was faster
    │   ├── RevisionOutOfRange    a revision of shared state that is no longer kept, or hasn't come yet
    │   ├── CursorInvalid         a cursor or page token that this request didn't hand out
    │   └── SessionSuperseded     a newer session has the agent's name
    ├── LimitReached              come back later: says which limit, and how full it is
    └── Unavailable               the store can't be reached, the shard is being rebuilt, or is somebody else's

`rpc.status` maps them to gRPC; what isn't in the tree is a bug.
"""

from collections.abc import Mapping


class MusterError(Exception):
    """The root. `reason` is a constant for programs, `metadata` holds facts for them; the message says what to do."""

    reason = "INTERNAL"

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})


class CallerError(MusterError):
    """The request can't be served as it is."""


class InvalidRequest(CallerError):
    """A field is wrong; `field` names it."""

    def __init__(self, message: str, *, field: str, reason: str = "INVALID_FIELD", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.field = field
        self.reason = reason


class NotFound(CallerError):
    """No such namespace, task, agent or lease."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class AlreadyExists(CallerError):
    """The id is taken by a task with another content."""

    reason = "TASK_ALREADY_EXISTS"


class PreconditionFailed(CallerError):
    """Something must be done, or said, first."""

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.reason = reason


class Conflict(CallerError):
    """Somebody else holds the lock (LOCK_LOST), runs the attempt (STALE_ATTEMPT), or was faster (COMPARE_FAILED)."""

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.reason = reason


class RevisionOutOfRange(CallerError):
    """A revision of shared state that is no longer kept (COMPACTED), or hasn't come yet (FUTURE_REVISION)."""

    def __init__(self, message: str, *, reason: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.reason = reason


class CursorInvalid(CallerError):
    """A cursor or page token that this request didn't hand out."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field
        self.reason = "INVALID_CURSOR" if field == "cursor" else "INVALID_PAGE_TOKEN"


class SessionSuperseded(CallerError):
    """A newer session has the agent's name."""

    reason = "SESSION_SUPERSEDED"


class LimitReached(MusterError):
    """A limit is reached. Nothing already accepted is affected."""

    def __init__(
        self, message: str, *, limit: str, used: int, allowed: int, retry_after_s: float | None, reason: str = "LIMIT_REACHED"
    ) -> None:
        super().__init__(message, metadata={"limit": limit, "used": str(used), "allowed": str(allowed)})
        self.reason = reason
        self.limit = limit
        self.retry_after_s = retry_after_s


class Unavailable(MusterError):
    """The store can't be reached, or the shard is being rebuilt, or is another coordinator's (SHARD_MOVED, with its `owner`)."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "STORE_UNAVAILABLE",
        retry_after_s: float = 1.0,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata)
        self.reason = reason
        self.retry_after_s = retry_after_s
