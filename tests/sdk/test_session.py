"""The session machine, event by event."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2 as pb
from muster.v1.common_pb2 import TaskSpec

from agent_node.attempt import Attempt, CheckpointData, CheckpointVerdict, Failed, ModelUsage, Progress, StopCause, Stopped, Succeeded
from agent_node.drain import ANSWER_S, CLEAN_UP_S
from agent_node.held import Identity
from agent_node.instructions import AnswerCheckpoint, Finish, Reconnect, ResultRefused, SetLimits, Start, StopHandler
from agent_node.session import WELCOME_TIMEOUT_S, Session

PERIOD_S = 5
DONE = Succeeded(b"ok", "text/plain")


class Peer:
    """A coordinator by hand: speaks to the session, and reads what it says."""

    def __init__(self, *, capacity=4, welcome=None):
        identity = Identity(agent_name="a", session_nonce="n" * 8, task_types=["t"], labels={"k": "v"}, capacity=capacity, sdk="test/1")
        self.session = Session(identity=identity, drain_deadline_s=30)
        self.welcome = welcome or {}
        self.now = 100.0
        self.stream = 0
        self.batch = 0

    def open(self):
        self.stream = self.session.stream_opened(self.now)
        hello = self.next().hello
        self.hear(pb.ConnectResponse(welcome=pb.Welcome(renew_period=Duration(seconds=PERIOD_S), **self.welcome)))
        return hello

    def hear(self, message, *, stream=None):
        return self.session.received(self.stream if stream is None else stream, message, self.now)

    def assign(self, *task_ids, fence=1, **fields):
        self.batch += 1
        assignments = [
            pb.Assignment(task=TaskSpec(task_id=task_id, task_type="t"), fence=fence, attempt=1, **fields) for task_id in task_ids
        ]
        instructions = self.hear(pb.ConnectResponse(assign=pb.AssignBatch(batch_id=self.batch, assignments=assignments)))
        return [attempt for each in instructions if isinstance(each, Start) for attempt in each.attempts]

    def next(self):
        return self.session.next_message(self.now)

    def say_all(self):
        said = []
        while (message := self.next()) is not None:
            said.append(message)
        return said

    def renew_ack(self, verdicts=(), *, suspended=False):
        ack = pb.RenewAck(suspended=suspended)
        for task_id, fence, verdict in verdicts:
            ack.exceptions.add(task_id=task_id, fence=fence, verdict=verdict)
        return self.hear(pb.ConnectResponse(renew_ack=ack))

    def ack_results(self, batch_id, *exceptions):
        ack = pb.ResultAck(batch_id=batch_id, exceptions=list(exceptions))
        return self.hear(pb.ConnectResponse(result_acks=[ack]))

    def after(self, seconds):
        self.now += seconds
        return self.session.tick(self.now)


@pytest.fixture
def peer():
    peer = Peer()
    peer.open()
    peer.say_all()
    return peer


def results(messages):
    return [(result.task_id, result.outcome.WhichOneof("result")) for message in messages for result in message.results.results]


# opening


def test_hello_goes_alone_and_nothing_follows_before_the_welcome():
    peer = Peer()
    peer.session.stream_opened(peer.now)
    (message,) = peer.say_all()
    assert [field.name for field, _ in message.ListFields()] == ["hello"]
    hello = message.hello
    assert (hello.agent_name, hello.session_nonce, hello.max_concurrent_tasks, hello.protocol_version) == ("a", "n" * 8, 4, 1)
    assert [each.task_type for each in hello.capabilities] == ["t"]
    assert dict(hello.labels) == {"k": "v"}


def test_the_welcome_opens_with_its_limits_and_ready_follows():
    peer = Peer(welcome={"max_payload_bytes": 7, "max_checkpoint_bytes": 8, "max_chunk_bytes": 9})
    peer.stream = peer.session.stream_opened(peer.now)
    peer.next()
    (instruction,) = peer.hear(pb.ConnectResponse(welcome=pb.Welcome(max_payload_bytes=7, max_checkpoint_bytes=8, max_chunk_bytes=9)))
    assert isinstance(instruction, SetLimits)
    assert (instruction.limits.payload_bytes, instruction.limits.checkpoint_bytes, instruction.limits.output_bytes) == (7, 8, 9)
    assert peer.next().ready.limit == 4


def test_what_comes_before_the_welcome_is_counted_and_ignored():
    peer = Peer()
    peer.stream = peer.session.stream_opened(peer.now)
    assert peer.assign("a") == []
    assert peer.session.counters.unknown_frames == 1
    assert peer.session.held_keys == []


def test_no_welcome_in_time_reconnects():
    peer = Peer()
    peer.session.stream_opened(peer.now)
    assert peer.after(WELCOME_TIMEOUT_S - 0.1) == []
    assert [type(each) for each in peer.after(0.1)] == [Reconnect]


def test_an_empty_frame_is_counted_and_ignored(peer):
    assert peer.hear(pb.ConnectResponse()) == []
    assert peer.session.counters.unknown_frames == 1


# assignments and results


def test_an_assignment_is_acknowledged_started_and_its_result_sent_until_answered(peer):
    (attempt,) = peer.assign("a", checkpoint=b"so far")
    assert attempt.last_checkpoint == b"so far"
    assert peer.next().acknowledged_batch_ids == [1]
    peer.session.ended(attempt, DONE)
    (message,) = peer.say_all()
    assert message.results.results[0].outcome.success.payload == b"ok"
    assert peer.next() is None, "once per stream"
    assert peer.session.held_keys == [("a", 1)]
    peer.ack_results(message.results.batch_id)
    assert peer.session.held_keys == []


def test_an_empty_success_is_a_success(peer):
    (attempt,) = peer.assign("a")
    peer.session.ended(attempt, Succeeded(b"", ""))
    assert results(peer.say_all()) == [("a", "success")]


def test_an_assignment_that_is_known_is_ignored_and_acknowledged(peer):
    (attempt,) = peer.assign("a")
    assert peer.assign("a") == []
    peer.session.ended(attempt, DONE)
    assert peer.assign("a") == []
    assert peer.next().acknowledged_batch_ids == [1, 2, 3]
    assert peer.session.counters.duplicate_assignments == 2


def test_another_fence_is_another_attempt(peer):
    peer.assign("a", fence=1)
    assert [attempt.key for attempt in peer.assign("a", fence=2)] == [("a", 2)]


def test_unanswered_results_go_again_on_the_next_stream(peer):
    first, second = peer.assign("a", "b")
    peer.session.ended(first, DONE)
    peer.say_all()
    peer.session.stream_lost(peer.stream)
    peer.session.ended(second, DONE)
    hello = peer.open()
    assert sorted(each.task_id for each in hello.in_flight) == ["a", "b"]
    assert results(peer.say_all()) == [("a", "success"), ("b", "success")]


def test_an_answer_of_an_older_stream_answers_nothing(peer):
    (attempt,) = peer.assign("a")
    peer.session.ended(attempt, DONE)
    (message,) = peer.say_all()
    old = peer.stream
    peer.session.stream_lost(old)
    peer.open()
    ack = pb.ConnectResponse(result_acks=[pb.ResultAck(batch_id=message.results.batch_id)])
    peer.hear(ack, stream=old)
    assert peer.session.counters.stale_frames == 1
    assert peer.session.held_keys == [("a", 1)]


@pytest.mark.parametrize("verdict", ["DUPLICATE", "STALE", "UNKNOWN", "INVALID"])
def test_every_verdict_ends_the_resending(peer, verdict):
    (attempt,) = peer.assign("a")
    peer.session.ended(attempt, DONE)
    (message,) = peer.say_all()
    exception = pb.ResultException(index=0, verdict=pb.ResultVerdict.Value(f"RESULT_VERDICT_{verdict}"), message="why")
    instructions = peer.ack_results(message.results.batch_id, exception)
    assert peer.session.held_keys == []
    assert instructions == ([] if verdict == "DUPLICATE" else [ResultRefused(attempt, verdict, "why")])


def test_a_message_holds_at_most_256_results():
    peer = Peer(capacity=1000)
    peer.open()
    for attempt in peer.assign(*(f"t{number}" for number in range(600))):
        peer.session.ended(attempt, DONE)
    assert [len(message.results.results) for message in peer.say_all()] == [256, 256, 88]


def test_a_message_stays_below_the_frame_limit():
    peer = Peer(capacity=20, welcome={"max_payload_bytes": 3 * 1024 * 1024})
    peer.open()
    for size, attempt in zip([3 * 1024 * 1024] + [1024 * 1024] * 8, peer.assign(*(f"t{number}" for number in range(9))), strict=True):
        peer.session.ended(attempt, Succeeded(b"x" * size, ""))
    messages = peer.say_all()
    assert len(results(messages)) == 9
    assert max(message.ByteSize() for message in messages) < 3.5 * 1024 * 1024


def test_a_result_over_the_limit_fails_at_the_agent_and_says_the_limit():
    peer = Peer(welcome={"max_payload_bytes": 10})
    peer.open()
    (attempt,) = peer.assign("a")
    peer.session.ended(attempt, Succeeded(b"x" * 11, ""))
    failure = peer.say_all()[0].results.results[0].outcome.failure
    assert failure.non_retryable
    assert "11 bytes" in failure.message
    assert "10" in failure.message


def test_more_than_twice_the_capacity_is_given_back():
    peer = Peer(capacity=2)
    peer.open()
    assert len(peer.assign("a", "b", "c", "d", "e")) == 4
    assert results(peer.say_all()) == [("e", "returned")]


# reports


def test_usage_goes_with_the_result_and_progress_with_the_renewal(peer):
    (attempt,) = peer.assign("a")
    peer.session.progressed(attempt, Progress(1, 2, "half"))
    peer.session.used(attempt, (ModelUsage("m", 1, 2, 3),))
    peer.after(PERIOD_S)
    (renewal,) = peer.say_all()[0].renew.attempts
    assert (renewal.progress.current, renewal.progress.total, renewal.progress.message) == (1, 2, "half")
    assert renewal.usage[0].model == "m"
    peer.session.ended(attempt, DONE)
    assert peer.say_all()[0].results.results[0].outcome.usage[0].output_tokens == 2


def test_output_is_sent_by_offset_and_again_on_a_new_stream(peer):
    (attempt,) = peer.assign("a")
    peer.session.emitted(attempt, b"one")
    peer.say_all()
    peer.session.emitted(attempt, b"two")
    (chunk,) = peer.next().chunks
    assert (chunk.offset, chunk.data) == (3, b"two")
    peer.session.stream_lost(peer.stream)
    peer.open()
    (chunk,) = peer.next().chunks
    assert (chunk.offset, chunk.data) == (0, b"onetwo")


def test_output_that_did_not_fit_goes_before_the_result():
    peer = Peer()
    peer.open()
    (attempt,) = peer.assign("a")
    peer.session.emitted(attempt, b"x" * (4 * 1024 * 1024))
    peer.session.ended(attempt, DONE)
    first, second = peer.say_all()
    assert results([first]) == []
    assert results([second]) == [("a", "success")]
    assert second.chunks[0].offset == len(first.chunks[0].data)


def test_a_checkpoint_that_did_not_fit_goes_before_the_result():
    peer = Peer(capacity=20)
    peer.open()
    attempts = peer.assign(*(f"t{number}" for number in range(13)))
    for attempt in attempts:
        peer.session.checkpointed(attempt, CheckpointData(1, b"x" * 256 * 1024))
        peer.session.ended(attempt, DONE)
    stored = set()
    for message in peer.say_all():
        stored |= {checkpoint.task_id for checkpoint in message.checkpoints}
        assert {result.task_id for result in message.results.results} <= stored
    assert len(stored) == 13


def test_a_checkpoint_is_answered_and_the_last_goes_again_on_a_new_stream(peer):
    (attempt,) = peer.assign("a")
    peer.session.checkpointed(attempt, CheckpointData(1, b"one"))
    assert peer.next().checkpoints[0].data == b"one"
    peer.session.checkpointed(attempt, CheckpointData(2, b"two"))
    peer.say_all()
    peer.session.stream_lost(peer.stream)
    peer.open()
    (checkpoint,) = peer.next().checkpoints
    assert checkpoint.sequence == 2
    ack = pb.CheckpointAck(task_id="a", fence=1, sequence=2, verdict=pb.RESULT_VERDICT_ACCEPTED)
    assert peer.hear(pb.ConnectResponse(checkpoint_acks=[ack])) == [AnswerCheckpoint(attempt, 2, CheckpointVerdict.STORED)]
    peer.session.stream_lost(peer.stream)
    peer.open()
    assert not peer.next().checkpoints


def test_a_checkpoint_of_an_attempt_that_is_not_held_is_lost(peer):
    stranger = Attempt(("z", 1), "t", b"", "", 1, 1, b"", "", "")
    assert peer.session.checkpointed(stranger, CheckpointData(1, b"")) == [AnswerCheckpoint(stranger, 1, CheckpointVerdict.LOST)]


# liveness


def test_renew_goes_every_period_with_all_that_is_held(peer):
    running, ended = peer.assign("a", "b")
    peer.session.ended(ended, DONE)
    peer.say_all()
    peer.session.loop_lag_measured(0.25)
    assert peer.session.next_deadline_s() == peer.now + PERIOD_S
    peer.after(PERIOD_S)
    (message,) = peer.say_all()
    assert [each.task_id for each in message.renew.attempts] == ["a", "b"]
    assert message.renew.loop_lag.nanos == 250_000_000
    peer.renew_ack()
    peer.after(PERIOD_S)
    assert peer.say_all()[0].HasField("renew"), f"{running} is renewed again"


def test_renew_goes_when_nothing_runs(peer):
    peer.after(PERIOD_S)
    assert peer.say_all()[0].HasField("renew")


def test_no_answer_to_renew_for_two_periods_reconnects(peer):
    peer.after(PERIOD_S)
    peer.say_all()
    assert peer.after(PERIOD_S) == []
    assert [type(each) for each in peer.after(PERIOD_S)] == [Reconnect]
    assert peer.next() is None


def test_an_answer_to_renew_even_a_suspended_one_keeps_the_stream(peer):
    (attempt,) = peer.assign("a")
    for _ in range(5):
        peer.after(PERIOD_S)
        peer.say_all()
        assert peer.renew_ack([("a", 1, pb.RENEW_VERDICT_LOST)], suspended=True) == []
    assert peer.session.held_keys == [attempt.key]


def test_a_lost_attempt_is_stopped_forgotten_and_keeps_its_slot_until_it_ends(peer):
    (attempt,) = peer.assign("a")
    peer.say_all()
    (stop,) = peer.renew_ack([("a", 1, pb.RENEW_VERDICT_LOST)])
    assert isinstance(stop, StopHandler)
    assert stop.cause is StopCause.LOST
    assert peer.say_all()[0].ready.limit == 3
    assert peer.assign("a") == [], "known, as long as its handler runs"
    peer.session.ended(attempt, DONE)
    (message,) = peer.say_all()
    assert message.ready.limit == 4
    assert results([message]) == []


def test_a_lost_result_is_not_sent(peer):
    (attempt,) = peer.assign("a")
    peer.session.ended(attempt, DONE)
    peer.hear(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1, lost=True)]))
    assert results(peer.say_all()) == []


def test_a_cancel_stops_once_and_what_came_of_it_is_reported(peer):
    attempt, other = peer.assign("a", "b")
    cancel = pb.ConnectResponse(cancels=[pb.Cancel(task_id=task_id, fence=1, reason="enough") for task_id in ("a", "b")])
    assert [each.cause for each in peer.hear(cancel)] == [StopCause.CANCELLED] * 2
    assert peer.hear(cancel) == []
    peer.session.cancel_delivered(attempt)
    peer.after(PERIOD_S)
    assert [each.cancel_delivered for each in peer.next().renew.attempts] == [True, False]
    peer.session.ended(attempt, Stopped())
    peer.session.ended(other, DONE)
    messages = peer.say_all()
    assert results(messages) == [("a", "cancelled"), ("b", "success")]
    assert messages[0].results.results[0].outcome.cancelled.reason == "enough"


def test_a_cancel_with_another_fence_changes_nothing(peer):
    peer.assign("a", fence=2)
    assert peer.hear(pb.ConnectResponse(cancels=[pb.Cancel(task_id="a", fence=1)])) == []


def test_a_handler_that_gives_up_unasked_has_failed(peer):
    (attempt,) = peer.assign("a")
    peer.session.ended(attempt, Stopped())
    assert results(peer.say_all()) == [("a", "failure")]


def test_reconcile_keeps_drops_and_cancels(peer):
    attempts = {attempt.key[0]: attempt for attempt in peer.assign("keep", "drop", "cancel")}
    peer.session.stream_lost(peer.stream)
    peer.open()
    verdicts = [("keep", pb.RECONCILE_VERDICT_KEEP), ("drop", pb.RECONCILE_VERDICT_DROP), ("cancel", pb.RECONCILE_VERDICT_CANCEL)]
    reconciled = [pb.ReconciledAttempt(task_id=task_id, fence=1, verdict=verdict) for task_id, verdict in verdicts]
    stops = peer.hear(pb.ConnectResponse(reconcile=pb.Reconcile(attempts=reconciled)))
    assert [(each.attempt, each.cause) for each in stops] == [
        (attempts["drop"], StopCause.LOST),
        (attempts["cancel"], StopCause.CANCELLED),
    ]
    assert [key[0] for key in peer.session.held_keys] == ["keep", "cancel"]


def test_go_away_reconnects_there_and_keeps_what_runs(peer):
    peer.assign("a")
    (reconnect,) = peer.hear(pb.ConnectResponse(go_away=pb.GoAway(address="there:1", reason="moving")))
    assert reconnect == Reconnect("there:1", "moving")
    assert [each.task_id for each in peer.open().in_flight] == ["a"]


# leaving


def test_a_drain_takes_no_new_work_and_finishes_when_all_is_answered(peer):
    (attempt,) = peer.assign("a")
    peer.say_all()
    assert peer.session.drain("SIGTERM", peer.now) == []
    (message,) = peer.say_all()
    assert message.HasField("ready")
    assert message.ready.limit == 0
    assert message.drain.reason == "SIGTERM"
    peer.renew_ack()
    assert peer.assign("late") == []
    peer.session.ended(attempt, DONE)
    messages = peer.say_all()
    assert sorted(results(messages)) == [("a", "success"), ("late", "returned")]
    assert peer.ack_results(messages[0].results.batch_id) == [Finish(unanswered=0)]


def test_an_idle_drain_waits_for_proof_that_nothing_more_comes(peer):
    assert peer.session.drain("x", peer.now) == []
    peer.say_all()
    assert peer.renew_ack() == [Finish(unanswered=0)]


def test_a_renew_sent_before_the_drain_proves_nothing(peer):
    peer.after(PERIOD_S)
    peer.say_all()
    peer.session.drain("x", peer.now)
    peer.say_all()
    assert peer.renew_ack() == []
    assert peer.renew_ack() == [Finish(unanswered=0)]


def test_a_drain_without_a_stream_and_without_work_is_over_at_once():
    peer = Peer()
    assert peer.session.drain("x", peer.now) == [Finish(unanswered=0)]


def test_at_the_deadline_handlers_are_stopped_and_their_attempts_given_back(peer):
    stopping, stuck = peer.assign("stopping", "stuck")
    peer.session.drain("SIGTERM", peer.now, deadline_s=10)
    peer.say_all()
    peer.renew_ack()
    stops = peer.after(10)
    assert [(each.attempt, each.cause) for each in stops] == [(stopping, StopCause.RETURNED), (stuck, StopCause.RETURNED)]
    peer.session.ended(stopping, Stopped())
    messages = peer.say_all()
    assert results(messages) == [("stopping", "returned")]
    assert messages[0].results.results[0].outcome.returned.reason == "SIGTERM"
    peer.ack_results(messages[0].results.batch_id)
    peer.after(CLEAN_UP_S)
    messages = [message for message in peer.say_all() if message.HasField("results")]
    assert results(messages) == [("stuck", "returned")]
    assert peer.ack_results(messages[0].results.batch_id) == [Finish(unanswered=0)]


def test_a_drain_ends_although_nobody_answers(peer):
    peer.assign("a")
    peer.session.stream_lost(peer.stream)
    peer.session.drain("x", peer.now, deadline_s=1)
    peer.after(1)
    peer.after(CLEAN_UP_S)
    assert peer.after(ANSWER_S) == [Finish(unanswered=1)]


def test_the_coordinator_drains_with_its_own_deadline(peer):
    peer.assign("a")
    peer.hear(pb.ConnectResponse(drain=pb.CoordinatorDrain(deadline=Duration(seconds=3), reason="upgrade")))
    assert peer.say_all()[0].drain.reason == "upgrade"
    peer.renew_ack()
    assert [type(each) for each in peer.after(3)] == [StopHandler]


def test_a_second_drain_can_only_shorten(peer):
    peer.assign("a")
    peer.session.drain("x", peer.now, deadline_s=4)
    peer.session.drain("x", peer.now, deadline_s=100)
    assert peer.session.next_deadline_s() == peer.now + 4
    peer.session.drain("x", peer.now, deadline_s=1)
    assert peer.session.next_deadline_s() == peer.now + 1


def test_a_failure_carries_its_kind_trace_and_advice(peer):
    (attempt,) = peer.assign("a")
    peer.session.ended(attempt, Failed("slow down", kind="RATE_LIMITED", error_type="E", stack_trace="T", retry_after_s=1.5))
    failure = peer.say_all()[0].results.results[0].outcome.failure
    assert (failure.kind, failure.message, failure.type, failure.stack_trace) == (6, "slow down", "E", "T")
    assert (failure.retry_after.seconds, failure.retry_after.nanos) == (1, 500_000_000)
