"""The session machine against a model of the coordinator, in any order of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from muster.v1 import agent_pb2 as pb
from muster.v1.common_pb2 import TaskSpec

from agent_node.attempt import CheckpointData, StopCause, Stopped, Succeeded
from agent_node.held import Capability, Identity
from agent_node.instructions import Finish, Reconnect, Start, StopHandler
from agent_node.session import ACK_PATIENCE_S, Session

CAPACITY = 6
TASKS = st.integers(0, 5).map(lambda number: f"t{number}")
FENCES = st.integers(1, 3)


class Story(RuleBasedStateMachine):
    """`owed` is what the coordinator still believes the agent has, `running` the handlers that really run."""

    def __init__(self):
        super().__init__()
        identity = Identity(
            agent_name="a", session_nonce="nonce-00", capabilities=[Capability("t")], labels={}, capacity=CAPACITY, sdk="test"
        )
        self.session = Session(identity=identity, drain_deadline_s=5)
        self.now = 0.0
        self.stream = 0
        self.up = self.open = self.draining = self.finished = False
        self.batch = 0
        self.owed = set()
        self.gone = set()  # answered, or lost: never to be heard of again
        self.running = {}
        self.started = set()
        self.stopped = set()
        self.sent = {}  # batch id -> keys, of this stream
        self.sent_keys = set()
        self.output_sent = {}
        self.emitted = {}
        self.renewed = []

    # plumbing

    def follow(self, instructions):
        for instruction in instructions:
            match instruction:
                case Start(attempts):
                    for attempt in attempts:
                        assert attempt.key not in self.started, "each attempt starts once"
                        self.started.add(attempt.key)
                        self.running[attempt.key] = attempt
                case StopHandler(attempt, cause, _):
                    assert attempt.key in self.running
                    assert (attempt.key in self.owed) == (cause is not StopCause.LOST)
                    self.stopped.add(attempt.key)
                case Reconnect():
                    self.up = self.open = False
                case Finish(unanswered):
                    assert self.draining
                    assert not self.finished
                    self.finished = True
                    assert unanswered == len(self.owed)

    def hear(self, **fields):
        self.follow(self.session.received(self.stream, pb.ConnectResponse(**fields), self.now))

    def lose(self, key):
        self.owed.discard(key)
        self.gone.add(key)

    def listen(self):
        while (message := self.session.next_message(self.now)) is not None:
            assert self.up
            assert message.ListFields(), "no empty message"
            if message.HasField("ready"):
                lingering = set(self.running) - self.owed
                assert message.ready.limit == (0 if self.draining else max(CAPACITY - len(lingering), 0))
            if message.HasField("renew"):
                assert {(each.task_id, each.fence) for each in message.renew.attempts} == self.owed
            for chunk in message.chunks:
                key = (chunk.task_id, chunk.fence)
                assert key in self.owed
                assert chunk.offset == self.output_sent.get(key, 0), "no gap, no overlap in one stream"
                self.output_sent[key] = chunk.offset + len(chunk.data)
            if message.HasField("results"):
                keys = [(result.task_id, result.fence) for result in message.results.results]
                assert len(keys) == len(set(keys))
                assert not self.sent_keys & set(keys), "once per stream"
                for key in keys:
                    assert key in self.owed
                    assert key not in self.running or self.draining
                    assert self.output_sent.get(key, 0) == self.emitted.get(key, 0), "the output goes first"
                self.sent_keys |= set(keys)
                self.sent[message.results.batch_id] = keys

    # the stream

    @precondition(lambda self: not self.up and not self.finished)
    @rule(welcomed=st.booleans(), drop=st.sets(st.tuples(TASKS, FENCES)))
    def connect(self, welcomed, drop):
        self.stream = self.session.stream_opened(self.now)
        self.up, self.open = True, False
        self.sent, self.sent_keys, self.output_sent = {}, set(), {}
        hello = self.session.next_message(self.now).hello
        assert {(each.task_id, each.fence) for each in hello.in_flight} == self.owed
        assert self.session.next_message(self.now) is None
        if welcomed:
            verdicts = []
            for key in sorted(self.owed):
                verdict = pb.RECONCILE_VERDICT_DROP if key in drop else pb.RECONCILE_VERDICT_KEEP
                verdicts.append(pb.ReconciledAttempt(task_id=key[0], fence=key[1], verdict=verdict))
                if key in drop:
                    self.lose(key)
            self.open = True
            self.hear(welcome=pb.Welcome(renew_period={"seconds": 1}), reconcile=pb.Reconcile(attempts=verdicts))

    @precondition(lambda self: self.up)
    @rule()
    def disconnect(self):
        self.up = self.open = False
        self.follow(self.session.stream_lost(self.stream))

    @precondition(lambda self: self.stream > 1)
    @rule(task_id=TASKS, fence=FENCES)
    def an_old_frame_changes_nothing(self, task_id, fence):
        old = pb.ConnectResponse(assign=pb.AssignBatch(assignments=[pb.Assignment(task=TaskSpec(task_id=task_id), fence=fence)]))
        assert self.session.received(self.stream - 1, old, self.now) == []

    # the coordinator

    @precondition(lambda self: self.open)
    @rule(keys=st.lists(st.tuples(TASKS, FENCES), max_size=4))
    def assign(self, keys):
        keys = [key for key in keys if key not in self.gone][: max(2 * CAPACITY - len(self.owed), 0)]
        self.batch += 1
        assignments = [pb.Assignment(task=TaskSpec(task_id=task_id, task_type="t"), fence=fence) for task_id, fence in keys]
        self.owed |= set(keys)
        self.hear(assign=pb.AssignBatch(batch_id=self.batch, assignments=assignments))
        self.now += ACK_PATIENCE_S
        message = self.session.next_message(self.now)
        assert message is not None
        assert self.batch in message.acknowledged_batch_ids
        # That message was taken aside: account for its results and chunks as any other's.
        self.replay(message)

    def replay(self, message):
        rest = self.session.next_message

        def first_then_rest(now):
            self.session.next_message = rest
            return message

        self.session.next_message = first_then_rest
        self.listen()

    @precondition(lambda self: self.open and self.sent)
    @rule(data=st.data())
    def answer_results(self, data):
        batch_id = data.draw(st.sampled_from(sorted(self.sent)))
        for key in self.sent.pop(batch_id):
            self.lose(key)
        self.hear(result_acks=[pb.ResultAck(batch_id=batch_id)])

    @precondition(lambda self: self.open and self.owed)
    @rule(data=st.data(), lost=st.booleans(), by_renewal=st.booleans())
    def cancel(self, data, lost, by_renewal):
        task_id, fence = key = data.draw(st.sampled_from(sorted(self.owed)))
        if lost:
            self.lose(key)
        if by_renewal:
            verdict = pb.RENEW_VERDICT_LOST if lost else pb.RENEW_VERDICT_CANCEL
            self.hear(renew_ack={"exceptions": [{"task_id": task_id, "fence": fence, "verdict": verdict}]})
        else:
            self.hear(cancels=[pb.Cancel(task_id=task_id, fence=fence, lost=lost)])

    @precondition(lambda self: self.open)
    @rule(suspended=st.booleans())
    def answer_renew(self, suspended):
        self.hear(renew_ack=pb.RenewAck(suspended=suspended))

    # the handlers

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        key = data.draw(st.sampled_from(sorted(self.running)))
        attempt = self.running.pop(key)
        self.follow(self.session.ended(attempt, Stopped() if key in self.stopped else Succeeded(b"", "")))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), output=st.binary(min_size=1, max_size=3))
    def report(self, data, output):
        key = data.draw(st.sampled_from(sorted(self.running)))
        if key in self.owed and not self.draining:
            self.emitted[key] = self.emitted.get(key, 0) + len(output)
            self.session.emitted(self.running[key], output)
            self.follow(self.session.checkpointed(self.running[key], CheckpointData(1, b"")))

    # time

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0]))
    def wait(self, seconds):
        self.now += seconds
        self.follow(self.session.tick(self.now))

    @rule()
    def speak(self):
        self.listen()

    @precondition(lambda self: not self.draining)
    @rule(deadline_s=st.sampled_from([0.0, 1.0]))
    def drain(self, deadline_s):
        self.draining = True
        self.follow(self.session.drain("x", self.now, deadline_s=deadline_s))

    @invariant()
    def it_holds_what_the_coordinator_believes(self):
        assert set(self.session.held_keys) == self.owed

    def teardown(self):
        """Whatever happened, a coordinator that answers and handlers that end leave nothing owed."""
        if self.finished:
            return
        if not self.open:
            if self.up:
                self.disconnect()
            if self.finished:
                return
            self.connect(welcomed=True, drop=set())
        for key in sorted(self.running):
            self.follow(self.session.ended(self.running.pop(key), Succeeded(b"", "")))
        self.listen()
        for batch_id in sorted(self.sent):
            for key in self.sent.pop(batch_id):
                self.lose(key)
            self.hear(result_acks=[pb.ResultAck(batch_id=batch_id)])
        assert not self.owed
        assert not self.session.lingering_keys


TestStory = Story.TestCase
TestStory.settings = settings(max_examples=150, stateful_step_count=40)
