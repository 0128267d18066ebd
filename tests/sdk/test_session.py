"""The session machine, event by event: opening, work and reports."""

import pytest
from muster.v1 import agent_pb2 as pb

from agent_node.attempt import Attempt, CheckpointData, CheckpointVerdict, ModelUsage, Progress, Succeeded
from agent_node.instructions import AnswerCheckpoint, Reconnect, ResultRefused, SetLimits
from agent_node.session import ACK_PATIENCE_S, WELCOME_TIMEOUT_S
from tests.sdk.session_peer import DONE, PERIOD_S, Peer, results


@pytest.fixture
def peer():
    peer = Peer()
    peer.open()
    peer.say_all()
    return peer


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
    peer.after(ACK_PATIENCE_S)
    assert peer.next().acknowledged_batch_ids == [1]
    peer.session.ended(attempt, DONE)
    (message,) = peer.say_all()
    assert message.results.results[0].outcome.success.payload == b"ok"
    assert peer.next() is None, "once per stream"
    assert peer.session.held_keys == [("a", 1)]
    peer.ack_results(message.results.batch_id)
    assert peer.session.held_keys == []


def test_an_acknowledgement_waits_a_little_for_a_result_to_travel_with(peer):
    (attempt,) = peer.assign("a")
    assert peer.next() is None
    assert peer.session.next_deadline_s() == peer.now + ACK_PATIENCE_S
    peer.session.ended(attempt, DONE)
    (message,) = peer.say_all()
    assert message.acknowledged_batch_ids == [1]
    assert len(message.results.results) == 1


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
