import pytest

from agent_node.cli.exits import ExitCode, exit_code_of, sentence_of
from agent_node.errors import (
    AlreadyExistsError,
    LimitError,
    MusterError,
    NotFoundError,
    RefusedError,
    ResultExpiredError,
    TaskCancelledError,
    TaskFailedError,
    UnavailableError,
)

NO_NAMESPACE = NotFoundError("namespace blue does not exist: create it with AdminService.CreateNamespace", reason="NAMESPACE_NOT_FOUND")


@pytest.mark.parametrize(
    "error,code",
    [
        (TaskFailedError("t", "boom", kind="APPLICATION"), 1),
        (TaskCancelledError("t", "enough"), 1),
        (NO_NAMESPACE, 3),
        (ResultExpiredError("gone", reason="RESULT_EXPIRED"), 3),
        (AlreadyExistsError("taken", reason="TASK_EXISTS"), 4),
        (LimitError("full", reason="QUEUE_FULL"), 4),
        (RefusedError("bad", reason="INVALID"), 4),
        (UnavailableError("away"), 5),
        (MusterError("odd"), 1),
    ],
)
def test_each_error_has_its_exit_code(error, code):
    assert exit_code_of(error) == code


def test_the_codes_are_an_interface():
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "NEGATIVE": 1,
        "USAGE": 2,
        "NOT_FOUND": 3,
        "REFUSED": 4,
        "UNAVAILABLE": 5,
        "TIMED_OUT": 6,
        "UNWRITABLE": 7,
        "BUG": 70,
        "INTERRUPTED": 130,
        "BROKEN_PIPE": 141,
        "TERMINATED": 143,
    }


@pytest.mark.parametrize(
    "error,words",
    [
        (UnavailableError("failed to connect to all addresses"), "no coordinator answers on host:1; start one with"),
        (UnavailableError("the store does not answer"), "the store does not answer; look at the coordinator on host:1"),
        (UnavailableError("the store can't be reached: try again"), "the store can't be reached; look at the coordinator on host:1"),
        (NO_NAMESPACE, "namespace blue does not exist; create it with `muster namespaces create`"),
        (LimitError("the queue is full", reason="QUEUE_FULL", retry_after_s=2.5), "the queue is full; try again in 2.5 s."),
        (AlreadyExistsError("task t exists: choose another id.", reason="TASK_EXISTS"), "task t exists: choose another id."),
        (TaskFailedError("t", "boom", kind="APPLICATION"), "task t failed: boom."),
    ],
)
def test_a_sentence_says_what_happened_and_what_to_do(error, words):
    sentence = sentence_of(error, address="host:1")
    assert words in sentence
    assert sentence.endswith(".")
    assert not sentence.endswith("..")
    assert "\n" not in sentence
