"""The session machine, event by event: liveness, cancels and leaving."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2 as pb

from agent_node.attempt import Failed, StopCause, Stopped
from agent_node.drain import ANSWER_S, CLEAN_UP_S
from agent_node.instructions import Finish, Reconnect, StopHandler
from agent_node.session import ACK_PATIENCE_S
from tests.sdk.session_peer import DONE, PERIOD_S, Peer, results


@pytest.fixture
def peer():
    peer = Peer()
    peer.open()
    peer.say_all()
    return peer


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
    peer.after(ACK_PATIENCE_S)
    peer.say_all()
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
