"""The TypeScript agent and client against a scripted coordinator, which breaks streams and keeps silent where a real one rarely does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import grpc.aio
import pytest
from muster.v1 import agent_pb2, agent_pb2_grpc, task_pb2, task_pb2_grpc

from tests.support.processes import Child

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

FENCE = 2**61 + 1  # a number that a double can't hold


class Stream:
    """One stream: what the program said, and a way to answer. Leaving the `async with` of `Script.next_stream` breaks it."""

    def __init__(self, messages: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
        self.namespace = dict(context.invocation_metadata())["muster-namespace"]
        self.ended = asyncio.Event()
        self._messages = messages
        self._context = context

    async def hears(self, wanted: Callable[[Any], bool] = bool) -> Any:
        """The next message that is wanted; None when the program has closed its side."""
        async with asyncio.timeout(10):
            async for message in self._messages:
                if wanted(message):
                    return message
        return None

    async def says(self, message: Any) -> None:
        await self._context.write(message)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ended.set()


class Script(agent_pb2_grpc.AgentServiceServicer, task_pb2_grpc.TaskServiceServicer):
    def __init__(self) -> None:
        self._streams: asyncio.Queue[Stream] = asyncio.Queue(16)
        self.port = 0

    async def next_stream(self) -> Stream:
        async with asyncio.timeout(10):
            return await self._streams.get()

    async def Connect(self, request_iterator, context):
        stream = Stream(request_iterator, context)
        await self._streams.put(stream)
        await stream.ended.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the script breaks this stream")

    Session = Connect


@pytest.fixture
async def script():
    script = Script()
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(script, server)
    task_pb2_grpc.add_TaskServiceServicer_to_server(script, server)
    script.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield script
    await server.stop(0)


@pytest.fixture
def run(example, children, script):
    """Starts one of the programs, and ends it without the time that it would take to drain."""
    programs: list[Child] = []

    def start(program: str, *arguments: str) -> Child:
        command = ["node", str(example / program), *arguments]
        programs.append(children.start(command, name=program, env={"MUSTER_ADDRESS": f"127.0.0.1:{script.port}"}))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


def welcome(*verdicts: tuple[str, int, int], renew_ms: int = 60_000) -> agent_pb2.ConnectResponse:
    message = agent_pb2.ConnectResponse(reconcile=agent_pb2.Reconcile())
    message.welcome.renew_period.FromMilliseconds(renew_ms)
    for task_id, fence, verdict in verdicts:
        message.reconcile.attempts.add(task_id=task_id, fence=fence, verdict=verdict)
    return message


def assignment(task_id: str, task_type: str, payload: bytes, batch_id: int = 7) -> agent_pb2.ConnectResponse:
    message = agent_pb2.ConnectResponse()
    message.assign.batch_id = batch_id
    one = message.assign.assignments.add(attempt=1, fence=FENCE, run=1)
    one.task.task_id, one.task.task_type, one.task.payload = task_id, task_type, payload
    return message


def has(field: str) -> Callable[[Any], bool]:
    return lambda message: bool(getattr(message, field)) if field.endswith("s") and field != "results" else message.HasField(field)


async def test_a_result_is_sent_again_until_it_is_answered(run, script):
    run("agent.js", "robin")
    async with await script.next_stream() as first:
        said = await first.hears()
        assert first.namespace == "default"
        assert said == agent_pb2.ConnectRequest(hello=said.hello), "hello comes first, and alone"
        assert (said.hello.agent_name, said.hello.protocol_version, list(said.hello.in_flight)) == ("robin", 1, [])
        nonce = said.hello.session_nonce
        await first.says(welcome())
        assert (await first.hears(has("ready"))).ready.limit == said.hello.max_concurrent_tasks
        await first.says(assignment("t", "reverse", b"abc"))
        assert (await first.hears()).acknowledged_batch_ids == [7], "acknowledged before anything else"
        (result,) = (await first.hears(has("results"))).results.results
        assert (result.task_id, result.fence, result.outcome.success.payload) == ("t", FENCE, b"cba")
    async with await script.next_stream() as second:
        hello = (await second.hears()).hello
        assert hello.session_nonce == nonce
        assert [(one.task_id, one.fence) for one in hello.in_flight] == [("t", FENCE)]
        await second.says(welcome(("t", FENCE, agent_pb2.RECONCILE_VERDICT_KEEP)))
        batch = (await second.hears(has("results"))).results
        assert list(batch.results) == [result]
        ack = agent_pb2.ConnectResponse()
        ack.result_acks.add(batch_id=batch.batch_id).exceptions.add(index=0, verdict=agent_pb2.RESULT_VERDICT_STALE)
        await second.says(ack)
        await second.says(assignment("u", "reverse", b"x", batch_id=8))  # what is answered after the ack proves that it was read
        await second.hears(has("results"))
    async with await script.next_stream() as third:
        assert [one.task_id for one in (await third.hears()).hello.in_flight] == ["u"]


async def test_running_attempts_are_renewed_with_their_progress_and_survive_a_broken_stream(run, script):
    run("agent.js")
    async with await script.next_stream() as first:
        await first.hears()
        await first.says(welcome(renew_ms=50))
        await first.says(assignment("t", "countdown", b"3600"))
        (renewal,) = (await first.hears(lambda message: message.renew.attempts)).renew.attempts
        assert (renewal.task_id, renewal.fence, renewal.progress.total, renewal.cancel_delivered) == ("t", FENCE, 3600, False)
    async with await script.next_stream() as second:
        assert [one.fence for one in (await second.hears()).hello.in_flight] == [FENCE]
        await second.says(welcome(("t", FENCE, agent_pb2.RECONCILE_VERDICT_CANCEL)))
        (result,) = (await second.hears(has("results"))).results.results
        assert result.outcome.WhichOneof("result") == "cancelled"


@pytest.mark.parametrize("how", ["reconcile", "renew_ack", "cancels"])
async def test_a_lost_attempt_is_dropped_without_a_report(run, script, how):
    run("agent.js")
    async with await script.next_stream() as first:
        await first.hears()
        await first.says(welcome())
        await first.says(assignment("t", "countdown", b"3600"))
        await first.hears(has("acknowledged_batch_ids"))
        if how == "renew_ack":
            lost = agent_pb2.ConnectResponse()
            lost.renew_ack.exceptions.add(task_id="t", fence=FENCE, verdict=agent_pb2.RENEW_VERDICT_LOST)
            await first.says(lost)
        if how == "cancels":
            await first.says(agent_pb2.ConnectResponse(cancels=[agent_pb2.Cancel(task_id="t", fence=FENCE, lost=True)]))
        if how != "reconcile":
            await first.says(assignment("after", "reverse", b"", batch_id=8))
            await first.hears(has("acknowledged_batch_ids"))
    async with await script.next_stream() as second:
        in_flight = [one.task_id for one in (await second.hears()).hello.in_flight]
        assert in_flight == (["t"] if how == "reconcile" else ["after"])
        await second.says(welcome(("t", FENCE, agent_pb2.RECONCILE_VERDICT_DROP)))
        await second.says(assignment("last", "reverse", b"", batch_id=9))
        heard = await second.hears(lambda message: any(one.task_id in ("t", "last") for one in message.results.results))
        assert [one.task_id for one in heard.results.results] == ["last"]


async def test_an_unanswered_renewal_makes_a_new_stream(run, script):
    run("agent.js")
    async with await script.next_stream() as silent:
        await silent.hears()
        await silent.says(welcome(renew_ms=50))
        async with await script.next_stream() as second:
            assert (await second.hears()).HasField("hello")


async def test_go_away_moves_the_agent_with_what_it_runs(run, script):
    run("agent.js")
    async with await script.next_stream() as first:
        await first.hears()
        await first.says(welcome())
        await first.says(assignment("t", "countdown", b"3600"))
        await first.hears(has("acknowledged_batch_ids"))
        await first.says(agent_pb2.ConnectResponse(go_away=agent_pb2.GoAway(address=f"localhost:{script.port}")))
        async with await script.next_stream() as second:
            assert [one.task_id for one in (await second.hears()).hello.in_flight] == ["t"]


async def test_the_client_sends_again_what_was_not_acknowledged_and_attaches_to_the_rest(run, script):
    client = run("client.js", "reverse", "a", "b")
    async with await script.next_stream() as first:
        await first.says(task_pb2.SessionResponse(welcome=task_pb2.SessionWelcome()))
        submitted = (await first.hears()).submit
        assert [task.payload for task in submitted.tasks] == [b"a", b"b"]
    async with await script.next_stream() as second:
        await second.says(task_pb2.SessionResponse(welcome=task_pb2.SessionWelcome()))
        again = (await second.hears()).submit
        assert list(again.tasks) == list(submitted.tasks)
        assert not again.first_send
        ack = task_pb2.SubmitAck(batch_id=again.batch_id)
        refused = ack.exceptions.add(index=1, verdict=task_pb2.SUBMIT_VERDICT_REFUSED).refusal
        refused.retry_after.FromMilliseconds(10)
        await second.says(task_pb2.SessionResponse(submit_acks=[ack]))
        retried = (await second.hears()).submit
        assert [task.payload for task in retried.tasks] == [b"b"], "what was refused for now"
    async with await script.next_stream() as third:
        await third.says(task_pb2.SessionResponse(welcome=task_pb2.SessionWelcome()))
        assert [task.payload for task in (await third.hears()).submit.tasks] == [b"b"]
        ids = [task.task_id for task in submitted.tasks]
        assert (await third.hears()).attach_task_ids == ids[:1]
        response = task_pb2.SessionResponse()
        for task_id in ids:
            response.results.add(task_id=task_id, state=4).outcome.success.payload = b"done"
        await third.says(response)
        assert await third.hears() is None, "the client closes its side when it has all results"
    assert await client.wait_for_exit() == 0
    assert [line.split()[1:] for line in client.output().splitlines() if "COMPLETED" in line] == [["COMPLETED", "done"]] * 2
