"""Frames that no honest peer would send, in any order: the coordinator lives on, its invariants hold, and it keeps nothing of them."""

import asyncio
import math

import grpc
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from muster.v1 import agent_pb2, common_pb2, task_pb2

from tests.support.hosted import AgentPeer, ClientPeer, hello_of, hosted
from tests.support.leftovers import nothing_stays

EXPECTED_ENDS = {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED}

ids = st.sampled_from(["a", "b", "c", "d", "", "x" * 129, "\0"])
numbers = st.sampled_from([0, 1, 2, 2**31, 2**62, 2**63, 2**64 - 1])
small = st.sampled_from([0, 1, 5, 2**32 - 1])
floats = st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308])
durations = st.builds(Duration, seconds=st.sampled_from([0, 1, -1, 2**62, -(2**62)]), nanos=st.sampled_from([0, 1, -1, 2**31 - 1]))
data = st.sampled_from([b"", b"x", b"y" * 5000])
texts = st.sampled_from(["", "x", "é" * 3000, "\0"])
fences = st.one_of(numbers, st.just(-1))  # -1: the task's present fence

usage = st.builds(common_pb2.Usage, model=texts, input_tokens=numbers, output_tokens=numbers, requests=small)
outcomes = st.one_of(
    st.builds(common_pb2.Outcome, success=st.builds(common_pb2.Success, payload=data), usage=st.lists(usage, max_size=2)),
    st.builds(
        common_pb2.Outcome,
        failure=st.builds(
            common_pb2.Failure,
            kind=st.integers(-1, 99),
            message=texts,
            retry_after=durations,
            non_retryable=st.booleans(),
            stack_trace=texts,
        ),
        usage=st.lists(usage, max_size=2),
    ),
    st.builds(common_pb2.Outcome, cancelled=st.builds(common_pb2.Cancelled, reason=texts)),
    st.builds(common_pb2.Outcome, returned=st.builds(common_pb2.Returned, reason=texts)),
    st.just(common_pb2.Outcome()),
)
progress = st.builds(common_pb2.Progress, current=floats, total=floats, message=texts)


def reports(kind, **fields):
    """(message class, its fields, whose fence): the present fence is only known when it is sent."""
    return st.fixed_dictionaries({"task_id": ids, "fence": fences} | fields).map(lambda made: (kind, made))


renewals = reports(agent_pb2.Renewal, progress=progress, usage=st.lists(usage, max_size=2), cancel_delivered=st.booleans())
agent_frames = st.fixed_dictionaries(
    {},
    optional={
        "ready": st.builds(agent_pb2.Ready, limit=small),
        "acknowledged_batch_ids": st.lists(numbers, max_size=3),
        "renewals": st.lists(renewals, max_size=3),
        "checkpoints": st.lists(reports(agent_pb2.Checkpoint, sequence=numbers, data=data), max_size=2),
        "chunks": st.lists(reports(agent_pb2.Chunk, offset=numbers, data=data), max_size=3),
        "results": st.lists(reports(agent_pb2.AttemptResult, outcome=outcomes), max_size=3),
    },
)
hellos = st.builds(
    hello_of,
    st.sampled_from(["fuzz", "fuzz-2", ""]),
    st.lists(st.sampled_from(["work", "other", ""]), max_size=3),
    session_nonce=st.sampled_from(["12345678", "abcdefgh", "short"]),
    max_concurrent_tasks=small,
)
specs = st.builds(
    common_pb2.TaskSpec,
    task_id=ids,
    task_type=st.sampled_from(["work", "other", ""]),
    payload=data,
    priority=st.integers(-1, 5),
    run_timeout=st.one_of(st.none(), durations),
    retry_policy=st.one_of(
        st.none(),
        st.builds(
            common_pb2.RetryPolicy,
            max_retries=small,
            max_crashes=small,
            initial_backoff=durations,
            max_backoff=durations,
            backoff_multiplier=floats,
        ),
    ),
)
client_frames = st.builds(
    task_pb2.SessionRequest,
    submit=st.one_of(
        st.none(),
        st.builds(
            task_pb2.SubmitBatch, batch_id=numbers, tasks=st.lists(specs, max_size=4), first_send=st.booleans(), no_results=st.booleans()
        ),
    ),
    attach_task_ids=st.lists(ids, max_size=3),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("agent"), agent_frames),
        st.tuples(st.just("agent"), agent_frames),
        st.tuples(st.just("hello"), hellos),
        st.tuples(st.just("client"), client_frames),
        st.tuples(st.just("client"), client_frames),
        st.tuples(st.just("drain"), st.none()),
        st.tuples(st.just("cancel"), ids),
        st.tuples(st.just("watch"), ids),
        st.tuples(st.just("leave"), st.sampled_from(["agent", "client"])),
    ),
    max_size=25,
)


def _filled(muster, made):
    """A report as it is sent now."""
    kind, fields = made
    task = muster.scheduler.state.find(fields["task_id"])
    fence = (task.fence if task is not None else 0) if fields["fence"] == -1 else fields["fence"]
    return kind(**fields | {"fence": fence})


def _frame(muster, fields):
    message = agent_pb2.ConnectRequest()
    for name, value in fields.items():
        if name == "renewals":
            message.renew.attempts.extend(_filled(muster, made) for made in value)
        elif name == "results":
            message.results.results.extend(_filled(muster, made) for made in value)
        elif name in ("checkpoints", "chunks"):
            getattr(message, name).extend(_filled(muster, made) for made in value)
        elif name == "ready":
            message.ready.CopyFrom(value)
        else:
            message.acknowledged_batch_ids.extend(value)
    return message


class _Story:
    """Plays steps against a coordinator."""

    def __init__(self, muster):
        self.muster = muster
        self.agent = self.client = None
        self.calls = []
        self.peers = []
        self.cut_off = []  # peers whose own write met their stream's end: grpc.aio then makes up an INTERNAL, and the real end is lost

    async def play(self, step, argument):
        match step:
            case "hello":
                await self._speak("agent", agent_pb2.ConnectRequest(hello=argument), fresh=True)
            case "agent":
                await self._speak("agent", _frame(self.muster, argument))
            case "client":
                await self._speak("client", argument)
            case "drain":
                await self._speak("agent", agent_pb2.ConnectRequest(drain=agent_pb2.AgentDrain(reason="x")))
            case "cancel":
                await self.muster.cancel(argument)
            case "watch":
                request = task_pb2.WatchTasksRequest(task_ids=[argument], include_chunks=True, include_progress=True)
                self.calls.append(self.muster.tasks.WatchTasks(request))
            case "leave" if (peer := getattr(self, argument)) is not None:
                peer.call.cancel()
                setattr(self, argument, None)
        await asyncio.sleep(0)
        self.muster.check()

    async def _speak(self, who, message, *, fresh=False):
        peer = getattr(self, who)
        if peer is None or peer.ended is not None or fresh:
            tasks, agents = self.muster.tasks, self.muster.agents
            peer = AgentPeer(agents.Connect()) if who == "agent" else ClientPeer(tasks.Session())
            self.peers.append(peer)
            setattr(self, who, peer)
        try:
            await peer.send(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            setattr(self, who, None)  # the other side has ended it, and said why
            if isinstance(error, grpc.aio.AioRpcError) and "SendMessageOperation" in error.debug_error_string():
                self.cut_off.append(peer)

    async def end(self):
        for call in self.calls:
            call.cancel()
        for peer in self.peers:
            if peer.ended is None:
                peer.call.cancel()
        for peer in self.peers:
            ended = await peer.end()
            assert ended.code in EXPECTED_ENDS or (ended.code is grpc.StatusCode.INTERNAL and peer in self.cut_off), ended


def test_no_sequence_of_frames_breaks_the_coordinator():
    """Each example runs against the same coordinator, so that what one leaves behind the next one meets."""
    with asyncio.Runner() as runner:
        served = hosted()
        muster = runner.run(served.__aenter__())

        async def example(played):
            story = _Story(muster)
            for step, argument in played:
                await story.play(step, argument)
            await story.end()
            await muster.is_alive()
            await nothing_stays(muster)

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(steps)
        def examples(played):
            runner.run(example(played))

        try:
            examples()
        finally:
            runner.run(served.__aexit__(None, None, None))
