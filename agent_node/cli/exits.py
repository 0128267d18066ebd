"""What the command line says when it ends: its exit codes, and the sentence for each of the SDK's errors.

The codes are part of the interface: scripts branch on them, so a number never changes its meaning.
"""

from enum import IntEnum

from agent_node.errors import (
    InvalidArgumentError,
    LimitError,
    MusterError,
    NotFoundError,
    RefusedError,
    ResultExpiredError,
    TaskCancelledError,
    TaskFailedError,
    UnavailableError,
)


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    NEGATIVE = 1  # the answer is no: a task failed or was cancelled, or had already ended
    USAGE = 2  # the command line itself is wrong
    NOT_FOUND = 3  # no such task, agent or namespace, or its record is no longer held
    REFUSED = 4  # the coordinator refused: bad content, a limit, an id that is taken
    UNAVAILABLE = 5  # no coordinator answers, or it can't reach its store
    TIMED_OUT = 6  # the task wasn't acknowledged, or didn't end, within --timeout: it goes on
    UNWRITABLE = 7  # our output, or a file that was asked for, can't be written: a full disk
    BUG = 70  # an error that we didn't foresee
    INTERRUPTED = 130  # Ctrl-C
    BROKEN_PIPE = 141  # whoever read our output went away, as in `muster list | head`
    TERMINATED = 143  # SIGTERM


EXIT_CODES_HELP = (
    "Exit codes: 0 done · 1 a task failed, was cancelled, or the answer is no · 2 wrong usage · 3 not found · "
    "4 refused or a limit reached · 5 coordinator unavailable · 6 not ended within --timeout · 7 output not written · 130 interrupted."
)


_UNSEEN = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def without_controls(text: str) -> str:
    """The text without control characters but line breaks and tabs: what an agent or a client said must not steer the reader's terminal.

    They are left out, not written out: they have no width, so a table that was laid out with them stays as it is.
    """
    return text.translate(_UNSEEN)


class CommandFailure(Exception):
    """A command that can't go on, with the sentence for the user and the exit code."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


_CONNECT_FAILED = "failed to connect"  # gRPC's words for an address where nobody listens


def exit_code_of(error: MusterError) -> ExitCode:
    """The exit code that an error of the SDK ends a command with."""
    match error:
        case TaskFailedError() | TaskCancelledError():
            return ExitCode.NEGATIVE
        case NotFoundError() | ResultExpiredError():
            return ExitCode.NOT_FOUND
        case RefusedError():
            return ExitCode.REFUSED
        case InvalidArgumentError():
            return ExitCode.USAGE
        case UnavailableError():
            return ExitCode.UNAVAILABLE
        case _:
            return ExitCode.NEGATIVE


def sentence_of(error: MusterError, *, address: str) -> str:
    """One sentence for a person: what happened and what to do. `address` is the coordinator's, as host:port."""
    said = str(error).strip().rstrip(".") or type(error).__name__
    match error:
        case UnavailableError() if _CONNECT_FAILED in said:
            said = f"no coordinator answers on {address}"
            advice = "start one with `muster-coordinator`, or name another with --address or MUSTER_ADDRESS"
        case UnavailableError():
            said = said.removesuffix(": try again")  # advice for programs
            advice = f"look at the coordinator on {address}, and try again"
        case NotFoundError() if error.reason == "NAMESPACE_NOT_FOUND":
            said = said.partition(":")[0]  # what follows is advice for programs
            advice = "create it with `muster namespaces create`, or name another with --namespace"
        case LimitError() if error.retry_after_s is not None:
            advice = f"try again in {error.retry_after_s:g} s"
        case _:
            advice = ""
    return f"{said}; {advice}." if advice else f"{said}."
