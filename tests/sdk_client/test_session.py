"""The session's machine alone: no network, no clock."""

from collections import Counter

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from muster.v1 import task_pb2
from muster.v1.common_pb2 import Refusal, TaskSpec
from muster.v1.task_pb2 import SessionRequest, SessionResponse, SessionWelcome, SubmitAck, SubmitException

from agent_node.client.session import ATTACH_PAGE, MAX_BATCH_BYTES, MAX_BATCH_TASKS, Session, TrackedTask
from agent_node.errors import AlreadyExistsError, NotFoundError, RefusedError, UnavailableError
from tests.support.fake_task_service import completed, refused

UNAVAILABLE = Refusal(code=14, reason="STORE_UNAVAILABLE", message="the store is away", retry_after=Duration(seconds=2))
TAKEN = Refusal(code=6, reason="TASK_EXISTS", message="another task has this id", field="task_id")
UNKNOWN = Refusal(code=5, reason="TASK_NOT_FOUND", message="no such task")


def tracked(task_id: str, *, payload: bytes = b"", fresh: bool = True, want_result: bool = True) -> TrackedTask:
    return TrackedTask(task_id, TaskSpec(task_id=task_id, task_type="t", payload=payload), fresh=fresh, want_result=want_result)


def opened() -> Session:
    session = Session(give_up_s=300, connect_timeout_s=10)
    session.opened()
    session.received(SessionResponse(welcome=SessionWelcome(max_batch_tasks=1_000)), 0)
    return session


def ids(request: SessionRequest | None) -> list[str]:
    assert request is not None
    return [spec.task_id for spec in request.submit.tasks]


def ack(request: SessionRequest | None, *exceptions: SubmitException) -> SessionResponse:
    assert request is not None
    return SessionResponse(submit_acks=[SubmitAck(batch_id=request.submit.batch_id, exceptions=exceptions)])


def test_what_gathered_goes_out_in_one_message_in_order() -> None:
    session = opened()
    for number in range(5):
        session.submit(tracked(str(number)), 0)
    request = session.next_message()
    assert ids(request) == ["0", "1", "2", "3", "4"]
    assert request is not None
    assert request.submit.first_send
    assert not request.submit.no_results
    assert session.next_message() is None


def test_a_batch_is_bounded_by_count() -> None:
    session = opened()
    for number in range(MAX_BATCH_TASKS + 1):
        session.submit(tracked(str(number)), 0)
    assert len(ids(session.next_message())) == MAX_BATCH_TASKS
    assert len(ids(session.next_message())) == 1


def test_a_smaller_bound_of_the_coordinator_is_kept() -> None:
    session = opened()
    session.received(SessionResponse(welcome=SessionWelcome(max_batch_tasks=2)), 0)
    for number in range(3):
        session.submit(tracked(str(number)), 0)
    assert len(ids(session.next_message())) == 2


def test_a_batch_is_bounded_by_bytes() -> None:
    session = opened()
    for number in range(5):
        session.submit(tracked(str(number), payload=bytes(1024 * 1024)), 0)
    sizes = []
    while (request := session.next_message()) is not None:
        sizes.append(request.ByteSize())
    assert len(sizes) == 3
    assert max(sizes) <= MAX_BATCH_BYTES


def test_a_task_that_fits_into_no_message_is_refused_at_once() -> None:
    session = opened()
    with pytest.raises(RefusedError) as caught:
        session.submit(tracked("big", payload=bytes(3_300_000)), 0)
    assert (caught.value.reason, caught.value.field) == ("PAYLOAD_TOO_LARGE", "payload")
    assert session.unacknowledged == 0


def test_fresh_ids_and_chosen_ids_travel_apart_and_in_order() -> None:
    session = opened()
    session.submit(tracked("a"), 0)
    session.submit(tracked("mine", fresh=False), 0)
    session.submit(tracked("b"), 0)
    session.submit(tracked("c", want_result=False), 0)
    batches = [session.next_message() for _ in range(4)]
    assert [ids(each) for each in batches] == [["a"], ["mine"], ["b"], ["c"]]
    assert [each.submit.first_send for each in batches if each] == [True, False, True, True]
    assert [each.submit.no_results for each in batches if each] == [False, False, False, True]


def test_an_ack_and_a_result_end_a_task() -> None:
    session = opened()
    task = tracked("a")
    session.submit(task, 0)
    received = session.received(ack(session.next_message()), 0)
    assert (received.acknowledged, received.ended, session.unacknowledged) == ([task], [], 0)
    received = session.received(SessionResponse(results=[completed("a", b"x")]), 0)
    assert received.ended == [task]
    assert task.output is not None
    assert task.output.payload == b"x"
    assert not session.wants_stream


def test_after_a_break_what_was_not_acknowledged_goes_first_and_is_no_first_send() -> None:
    session = opened()
    first, second = tracked("a"), tracked("b")
    session.submit(first, 0)
    session.submit(second, 0)
    session.next_message()
    session.submit(tracked("c"), 0)
    session.broken()
    assert session.next_message() is None
    session.opened()
    again = session.next_message()
    assert ids(again) == ["a", "b"]
    assert again is not None
    assert not again.submit.first_send
    fresh = session.next_message()
    assert ids(fresh) == ["c"]
    assert fresh is not None
    assert fresh.submit.first_send


def test_an_ack_of_an_older_stream_is_ignored() -> None:
    session = opened()
    session.submit(tracked("a"), 0)
    old = session.next_message()
    session.broken()
    session.opened()
    session.next_message()
    assert session.received(ack(old), 0).acknowledged == []
    assert session.unacknowledged == 1


def test_after_a_break_awaited_results_are_asked_for_in_pages() -> None:
    session = opened()
    count = ATTACH_PAGE + 1
    for number in range(count):
        session.submit(tracked(str(number)), 0)
    while (request := session.next_message()) is not None:
        session.received(ack(request), 0)
    session.submit(tracked("unsent"), 0)
    session.broken()
    session.opened()
    pages = [session.next_message(), session.next_message()]
    assert [len(page.attach_task_ids) for page in pages if page] == [ATTACH_PAGE, 1]
    assert ids(session.next_message()) == ["unsent"]  # its result comes with its submit


def test_a_refused_task_has_its_own_verdict_and_the_others_are_taken() -> None:
    session = opened()
    good, bad = tracked("good"), tracked("bad")
    session.submit(bad, 0)
    session.submit(good, 0)
    received = session.received(ack(session.next_message(), refused(0, TAKEN)), 0)
    assert received.acknowledged == [good]
    assert [(task, type(error)) for task, error in received.refused] == [(bad, AlreadyExistsError)]
    assert not bad.awaited


def test_a_duplicate_is_taken_and_its_result_asked_for() -> None:
    session = opened()
    task = tracked("a", fresh=False)
    session.submit(task, 0)
    duplicate = SubmitException(index=0, verdict=task_pb2.SUBMIT_VERDICT_DUPLICATE)
    assert session.received(ack(session.next_message(), duplicate), 0).acknowledged == [task]
    attach = session.next_message()
    assert attach is not None
    assert list(attach.attach_task_ids) == ["a"]


def test_what_is_unavailable_for_a_while_is_sent_again_after_it() -> None:
    session = opened()
    session.submit(tracked("a"), 0)
    received = session.received(ack(session.next_message(), refused(0, UNAVAILABLE)), 10)
    assert (received.acknowledged, received.refused, session.unacknowledged) == ([], [], 1)
    assert session.next_retry_s == 12
    assert session.tick(11.9) == []
    assert session.next_message() is None
    session.tick(12)
    again = session.next_message()
    assert ids(again) == ["a"]
    assert again is not None
    assert not again.submit.first_send


def test_what_is_unavailable_without_a_time_is_refused() -> None:
    session = opened()
    session.submit(tracked("a"), 0)
    received = session.received(ack(session.next_message(), refused(0, Refusal(code=14, message="gone"))), 0)
    assert [type(error) for _, error in received.refused] == [UnavailableError]


def test_a_submit_on_no_stream_is_given_up_in_time() -> None:
    session = opened()
    sent, unsent = tracked("sent"), tracked("unsent")
    session.submit(sent, 0)
    session.next_message()
    session.submit(unsent, 1)
    assert session.tick(1_000) == [unsent]  # the other is on a stream, and may be answered
    session.broken()
    assert session.tick(1_000) == [sent]
    assert session.unacknowledged == 0
    assert not session.wants_stream


def test_a_delayed_submit_is_given_up_in_time() -> None:
    session = opened()
    task = tracked("a")
    session.submit(task, 0)
    session.received(ack(session.next_message(), refused(0, UNAVAILABLE)), 299)
    assert session.tick(300) == [task]
    assert session.next_retry_s is None


def test_without_a_first_session_it_is_given_up_sooner() -> None:
    session = Session(give_up_s=300, connect_timeout_s=10)
    task = tracked("a")
    session.submit(task, 0)
    assert session.tick(9) == []
    assert session.tick(10) == [task]


def test_two_that_wait_for_one_id_get_one_result() -> None:
    session = opened()
    first, second = tracked("a", fresh=False), TrackedTask("a")
    session.submit(first, 0)
    session.attach(second)
    assert ids(session.next_message()) == ["a"]
    assert session.next_message() is None  # an attach might overtake the submit, and be told there is no such task
    assert set(session.received(SessionResponse(results=[completed("a")]), 0).ended) == {first, second}


def test_one_that_waits_for_a_refused_id_asks_for_itself() -> None:
    session = opened()
    first, second = tracked("a", fresh=False), TrackedTask("a")
    session.submit(first, 0)
    session.attach(second)
    session.received(ack(session.next_message(), refused(0, TAKEN)), 0)
    attach = session.next_message()
    assert attach is not None
    assert list(attach.attach_task_ids) == ["a"]


def test_an_unknown_id_ends_the_wait_with_an_error() -> None:
    session = opened()
    task = TrackedTask("a")
    session.attach(task)
    session.next_message()
    session.received(SessionResponse(results=[task_pb2.TaskResult(task_id="a", refusal=UNKNOWN)]), 0)
    assert isinstance(task.error, NotFoundError)


def test_answers_out_of_place_change_nothing() -> None:
    session = opened()
    session.submit(tracked("a"), 0)
    request = session.next_message()
    received = session.received(SessionResponse(submit_acks=[SubmitAck(batch_id=99)], results=[completed("stranger")]), 0)
    assert (received.acknowledged, received.refused, received.ended) == ([], [], [])
    assert len(session.received(ack(request, refused(7, TAKEN)), 0).acknowledged) == 1


class Conversation(RuleBasedStateMachine):
    """Any mix of submits, breaks and answers: each submit gets one verdict, each awaited task one end, and nothing is forgotten."""

    @initialize()
    def begin(self) -> None:
        self.session = Session(give_up_s=50, connect_timeout_s=50)
        self.now_s = 0.0
        self.is_open = False
        self.submitted: list[TrackedTask] = []
        self.verdicts: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.on_stream: list[SessionRequest] = []
        self.ever_sent: set[str] = set()
        self.taken: set[str] = set()  # by the coordinator
        self.reported: set[str] = set()  # on this stream

    @rule(fresh=st.booleans(), want_result=st.booleans(), size=st.sampled_from([0, 10, 2_000_000]))
    def submit(self, fresh: bool, want_result: bool, size: int) -> None:
        task = tracked(str(len(self.submitted)), payload=bytes(size), fresh=fresh, want_result=want_result)
        self.submitted.append(task)
        self.session.submit(task, self.now_s)

    @precondition(lambda self: not self.is_open)
    @rule()
    def open(self) -> None:
        self.session.opened()
        self.is_open = True

    @precondition(lambda self: self.is_open)
    @rule()
    def break_stream(self) -> None:
        self.session.broken()
        self.is_open = False
        self.on_stream.clear()
        self.reported.clear()

    @rule()
    def send(self) -> None:
        request = self.session.next_message()
        if request is None:
            return
        assert self.is_open
        assert request.ByteSize() < 3.5 * 1024 * 1024
        sent = {spec.task_id for spec in request.submit.tasks}
        if request.submit.first_send:
            assert not sent & self.ever_sent
        self.ever_sent |= sent
        if sent:
            self.on_stream.append(request)

    @precondition(lambda self: self.on_stream)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        request = self.on_stream.pop(data.draw(st.integers(0, len(self.on_stream) - 1)))
        exceptions = []
        for index, spec in enumerate(request.submit.tasks):
            verdict = data.draw(st.sampled_from(["taken", "taken", "refused", "unavailable"]))
            if spec.task_id in self.taken:
                exceptions.append(SubmitException(index=index, verdict=task_pb2.SUBMIT_VERDICT_DUPLICATE))
            elif verdict == "taken":
                self.taken.add(spec.task_id)
            else:
                exceptions.append(refused(index, TAKEN if verdict == "refused" else UNAVAILABLE))
        received = self.session.received(ack(request, *exceptions), self.now_s)
        self.verdicts.update(task.task_id for task in received.acknowledged)
        self.verdicts.update(task.task_id for task, _ in received.refused)

    @precondition(lambda self: self.is_open and self.taken)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.taken)))
        received = self.session.received(SessionResponse(results=[completed(task_id)]), self.now_s)
        self.ends.update(task.task_id for task in received.ended)

    @rule(passes_s=st.sampled_from([0.5, 2.0, 30.0]))
    def time_passes(self, passes_s: float) -> None:
        self.now_s += passes_s
        self.verdicts.update(task.task_id for task in self.session.tick(self.now_s))

    @invariant()
    def each_submit_has_one_verdict_or_is_still_owed(self) -> None:
        assert set(self.verdicts.values()) <= {1}
        assert self.session.unacknowledged == len(self.submitted) - len(self.verdicts)

    @invariant()
    def each_end_is_told_once(self) -> None:
        assert set(self.ends.values()) <= {1}

    def teardown(self) -> None:
        """With a coordinator that answers everything, everything comes to an end."""
        if not hasattr(self, "session"):
            return
        if self.is_open:
            self.break_stream()
        self.open()
        for _ in range(len(self.submitted) * 4 + 4):
            request = self.session.next_message()
            if request is None:
                self.now_s += 2
                self.verdicts.update(task.task_id for task in self.session.tick(self.now_s))
                continue
            if request.submit.tasks:
                received = self.session.received(ack(request), self.now_s)
                self.verdicts.update(task.task_id for task in received.acknowledged)
            asked = [*request.attach_task_ids, *(spec.task_id for spec in request.submit.tasks)]
            received = self.session.received(SessionResponse(results=[completed(each) for each in asked]), self.now_s)
            self.ends.update(task.task_id for task in received.ended)
        self.each_end_is_told_once()
        assert set(self.verdicts) == {task.task_id for task in self.submitted}
        assert self.session.unacknowledged == 0
        assert not self.session.wants_stream


TestConversation = Conversation.TestCase
