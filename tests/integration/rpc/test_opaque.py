"""Messages whose submessages stay bytes are the public ones on the wire."""

import pytest
from muster.v1 import agent_pb2, common_pb2, task_pb2

from coordinator.rpc.opaque import opaque


def test_the_public_class_reads_what_the_twin_wrote():
    task = common_pb2.TaskSpec(task_id="id", task_type="type", payload=b"\x00payload", content_type="text/plain")
    twin = opaque(agent_pb2.ConnectResponse, "Assignment.task")()
    twin.assign.batch_id = 7
    twin.assign.assignments.add(attempt=1, fence=2, task=task.SerializeToString())
    public = agent_pb2.ConnectResponse(assign=agent_pb2.AssignBatch(batch_id=7))
    public.assign.assignments.add(attempt=1, fence=2, task=task)
    assert twin.SerializeToString() == public.SerializeToString()
    assert agent_pb2.ConnectResponse.FromString(twin.SerializeToString()).assign.assignments[0].task == task


def test_one_message_behind_the_other_is_their_union():
    ack = agent_pb2.ConnectResponse(result_acks=[agent_pb2.ResultAck(batch_id=1)])
    assign = agent_pb2.ConnectResponse(assign=agent_pb2.AssignBatch(batch_id=2))
    both = agent_pb2.ConnectResponse.FromString(ack.SerializeToString() + assign.SerializeToString())
    assert (both.result_acks[0].batch_id, both.assign.batch_id) == (1, 2)


@pytest.mark.parametrize("field", ["TaskResult.nothing", "Nothing.outcome", "TaskResult.task_id"])
def test_a_field_that_is_no_submessage_is_refused(field):
    with pytest.raises(LookupError, match=field):
        opaque(task_pb2.SessionResponse, field)
