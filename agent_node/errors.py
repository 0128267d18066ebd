"""Every error of the SDK.

    MusterError
    ├── RetryableError            raised by a handler: try again, perhaps not before `retry_after_s`
    ├── NonRetryableError         raised by a handler: trying again can't help
    │   └── PayloadError          a payload or result that doesn't fit its type, or can't be decoded
    │       └── BlobGoneError     it lies in a blob that is no longer there
    ├── ProcessFailedError        what a handler in a child process failed with, for the middleware around it
    ├── TaskFailedError           a task that was waited for ended FAILED
    ├── TaskCancelledError        a task that was waited for ended CANCELLED
    ├── AttemptLostError          the coordinator gave this attempt up: stop, nothing it reports counts
    ├── InvalidArgumentError      an argument that can't be meant so, such as a revision below 0; nothing was sent. A ValueError, too
    ├── RefusedError              the coordinator refused a request, and says why and what to do
    │   ├── NotFoundError         no such task, agent or namespace
    │   ├── AlreadyExistsError    the id is taken by a task with another content
    │   ├── LimitError            a limit is reached: `retry_after_s` says when to come back
    │   ├── ResultExpiredError    the task ended, and its result is no longer held
    │   ├── ConflictError         a key of shared state is not as a write says it must be
    │   ├── LockLost              a lock is no longer held: nothing that was written under it counts any more
    │   └── CompactedError        a watch comes too late: the revisions it asks for are no longer kept
    └── UnavailableError          the coordinator, its store or the blob store can't be reached

A handler may raise anything: what is neither of the first two counts as retryable.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_node.state.values import Entry


class MusterError(Exception):
    """The root of the tree."""


class RetryableError(MusterError):
    """Raised by a handler whose attempt failed in a way that another attempt may mend.

    Args:
        message: one sentence for a person.
        retry_after_s: seconds before which another attempt is pointless; None leaves it to the task's backoff, and so does less than that.
        kind: a name of muster.v1.FailureKind without its prefix, such as "RATE_LIMITED"; an unknown one counts as "APPLICATION".
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, kind: str = "APPLICATION") -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.kind = kind


class NonRetryableError(MusterError):
    """Raised by a handler when no further attempt can help, such as for input that is wrong.

    Args:
        message: one sentence for a person.
        kind: a name of muster.v1.FailureKind without its prefix, such as "PROVIDER_REJECTED"; an unknown one counts as "APPLICATION".
    """

    def __init__(self, message: str, *, kind: str = "APPLICATION") -> None:
        super().__init__(message)
        self.kind = kind


class PayloadError(NonRetryableError):
    """A payload or a result is not what it should be: it doesn't fit the type asked for, or can't be decoded.

    Neither the message nor the error holds any of its content.

    Args:
        message: one sentence for a person.
        field: where in the JSON, such as "pages" or "author.name"; "" when it is about the whole.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class BlobGoneError(PayloadError):
    """A payload or a result lies in a blob that is no longer in its store."""


class ProcessFailedError(MusterError):
    """What a handler in a child process failed with. The error itself stays there; this tells it to the middleware around the handler.

    `kind`, `message`, `error_type`, `stack_trace`, `non_retryable` and `retry_after_s` are the failure's. Raised further, it fails the
    attempt exactly as the handler did.
    """

    def __init__(
        self, message: str, *, kind: str, error_type: str, stack_trace: str, non_retryable: bool, retry_after_s: float | None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.error_type = error_type
        self.stack_trace = stack_trace
        self.non_retryable = non_retryable
        self.retry_after_s = retry_after_s


class TaskFailedError(MusterError):
    """A task ended FAILED. `kind`, `message`, `error_type` and `stack_trace` are those of its last failure."""

    def __init__(self, task_id: str, message: str, *, kind: str, error_type: str = "", stack_trace: str = "") -> None:
        super().__init__(f"task {task_id} failed: {message}")
        self.task_id = task_id
        self.message = message
        self.kind = kind
        self.error_type = error_type
        self.stack_trace = stack_trace


class TaskCancelledError(MusterError):
    """A task ended CANCELLED, for `reason`."""

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(f"task {task_id} was cancelled" + (f": {reason}" if reason else ""))
        self.task_id = task_id
        self.reason = reason


class AttemptLostError(MusterError):
    """The coordinator no longer counts on this attempt: nothing it reports will be taken."""


class InvalidArgumentError(MusterError, ValueError):
    """An argument is wrong in itself, and nothing was sent. One of a wrong type is a TypeError, which names it as well.

    Args:
        argument: its name.
        problem: what is wrong with it, and what to give; goes on from the name.
    """

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument} {problem}")
        self.argument = argument


class RefusedError(MusterError):
    """The coordinator refused, for `reason` (a constant), about `field` where one is at fault.

    Args:
        message: a sentence that says what to do.
        reason: the constant, such as "PAYLOAD_TOO_LARGE".
        field: the request's field at fault, or "".
        retry_after_s: in how many seconds trying again makes sense; None when it doesn't.
        metadata: facts for programs, such as the limit and how full it is.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        field: str = "",
        retry_after_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.retry_after_s = retry_after_s
        self.metadata = dict(metadata or {})


class NotFoundError(RefusedError):
    """No such task, agent or namespace."""


class AlreadyExistsError(RefusedError):
    """The id is taken by a task with another content."""


class LimitError(RefusedError):
    """A limit is reached."""


class ResultExpiredError(RefusedError):
    """The task ended, and its result is no longer held."""


class ConflictError(RefusedError):
    """A key of shared state is not as a write says it must be: `entry` is what is there; None when nothing is."""

    def __init__(self, message: str, *, entry: "Entry | None" = None) -> None:
        super().__init__(message, reason="COMPARE_FAILED")
        self.entry = entry


class LockLost(RefusedError):
    """A lock is no longer held: somebody else may hold it, and what is written under it is refused."""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, reason="LOCK_LOST", metadata=metadata)


class CompactedError(RefusedError):
    """The revisions asked for are no longer kept: list the keys, and watch from behind `revision`, the present one.

    `compact_revision` is the first one that is still kept.
    """

    def __init__(self, message: str, *, compact_revision: int, revision: int) -> None:
        super().__init__(message, reason="COMPACTED")
        self.compact_revision = compact_revision
        self.revision = revision


class UnavailableError(MusterError):
    """The coordinator can't be reached, or can't reach its store; `retry_after_s` is its advice in seconds, if it gave any."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
