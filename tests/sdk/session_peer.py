"""The session machine's other side, by hand."""

from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2 as pb
from muster.v1.common_pb2 import TaskSpec

from agent_node.attempt import Succeeded
from agent_node.held import Capability, Identity
from agent_node.instructions import Start
from agent_node.session import Session

PERIOD_S = 5
DONE = Succeeded(b"ok", "text/plain")


class Peer:
    """A coordinator by hand: speaks to the session, and reads what it says."""

    def __init__(self, *, capacity=4, welcome=None):
        identity = Identity(
            agent_name="a", session_nonce="n" * 8, capabilities=[Capability("t")], labels={"k": "v"}, capacity=capacity, sdk="test/1"
        )
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


def results(messages):
    return [(result.task_id, result.outcome.WhichOneof("result")) for message in messages for result in message.results.results]
