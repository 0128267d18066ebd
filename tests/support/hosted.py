"""A real coordinator in the test's own process, over a store in memory that fails when told to, and raw peers that speak to it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar, cast

import grpc
import grpc.aio
from muster.v1 import admin_pb2_grpc, agent_pb2, agent_pb2_grpc, common_pb2, state_pb2_grpc, task_pb2, task_pb2_grpc

from agent_node import clock
from coordinator.convert import Bounds
from coordinator.core.invariants import check, check_placed
from coordinator.core.model import Settings
from coordinator.core.scheduler import Scheduler
from coordinator.engine.namespace import Namespace
from coordinator.engine.shard import Shard
from coordinator.engine.webhooks import WebhookSettings
from coordinator.journal.memory_store import Fault, MemoryShard, MemoryShardStore, StoreCall
from coordinator.settings import CoordinatorSettings
from coordinator.state.memory_store import MemoryState, MemoryStateStore, StateCall
from coordinator.state.model import Limits
from coordinator.wiring import Coordinator, serve
from tests.support.eventually import eventually
from tests.support.refusals import Refused, refused

PATIENT_S = 10.0

Sent = TypeVar("Sent")
Received = TypeVar("Received")


@dataclass(slots=True)
class Faults:
    """What goes wrong with the store's calls, and with its clock, from now on."""

    appends: Fault = Fault.NONE
    reads: Fault = Fault.NONE
    failed_reads: int = 0
    date_ahead_ms: int = 0  # of the store's clock
    reading: asyncio.Event = field(default_factory=asyncio.Event)  # while it isn't set, reads wait
    writing: asyncio.Event = field(default_factory=asyncio.Event)  # likewise, writes of shared state
    held_writes: int = 0
    appending: asyncio.Event = field(default_factory=asyncio.Event)  # likewise, of appends
    next_append: Callable[[], None] | None = None  # called once, before the next append
    next_claim: Callable[[], None] | None = None  # likewise, before the next claim

    def __post_init__(self) -> None:
        """Begins without faults."""
        self.reading.set()
        self.writing.set()
        self.appending.set()

    async def __call__(self, call: StoreCall) -> Fault:
        """As MemoryShardStore asks."""
        if call is StoreCall.READ:
            await self.reading.wait()
            self.failed_reads += self.reads is not Fault.NONE
            return self.reads
        if call is StoreCall.CONFIRM:
            return self.appends
        if call is StoreCall.APPEND:
            await self.appending.wait()
            meddle, self.next_append = self.next_append, None
            if meddle is not None:
                meddle()
            return self.appends
        if call is StoreCall.CLAIM:
            meddle, self.next_claim = self.next_claim, None
            if meddle is not None:
                meddle()
        return Fault.NONE

    async def of_state(self, call: StateCall) -> Fault:
        """As MemoryStateStore asks."""
        if call is StateCall.READ:
            await self.reading.wait()
            return self.reads
        self.held_writes += not self.writing.is_set()
        await self.writing.wait()
        return self.appends

    def diverge(self, data: MemoryShard) -> None:
        """The next append finds a journal that somebody else has written to; the claim after it finds it whole."""

        def move(step: int) -> None:
            data.sequence += step

        self.next_append, self.next_claim = partial(move, 1), partial(move, -1)

    def outage(self, *, kind: Fault = Fault.BEFORE) -> None:
        """The store is out."""
        self.appends = self.reads = kind

    def over(self) -> None:
        """The store is back."""
        self.appends = self.reads = Fault.NONE


class Peer(Generic[Sent, Received]):
    """One side of a bidirectional stream: sends what it is told, and keeps all that it receives.

    Args:
        call: the open call.
    """

    def __init__(self, call: Any) -> None:
        self.call = call
        self.received: list[Received] = []
        self.ended: Refused | None = None  # with code OK when the other side ended it in peace
        self._reader = asyncio.create_task(self._read(), name="peer.read")

    async def _read(self) -> None:
        try:
            async for message in self.call:
                self.received.append(message)
            self.ended = Refused(await self.call.code(), await self.call.details() or "")
        except grpc.aio.AioRpcError as error:
            self.ended = refused(error)
        except asyncio.CancelledError:
            self.ended = Refused(grpc.StatusCode.CANCELLED, "left")

    async def send(self, message: Sent) -> None:
        """Sends one message."""
        await self.call.write(message)

    async def finish(self) -> None:
        """Says that nothing more comes, and waits for the other side to end the stream."""
        await self.call.done_writing()
        await self.end()

    async def end(self, *, within_s: float = PATIENT_S) -> Refused:
        """Waits for the stream's end, and answers how it ended."""
        ended = await eventually(lambda: self.ended, within_s=within_s, message="the stream to end")
        assert ended is not None
        return ended

    async def leave(self) -> None:
        """Breaks the stream off, as a process that dies does."""
        self.call.cancel()
        await self.end()


class AgentPeer(Peer[agent_pb2.ConnectRequest, agent_pb2.ConnectResponse]):
    """An agent's side of Connect, frame by frame."""

    async def ready(self, limit: int) -> None:
        """Says how much it will take."""
        await self.send(agent_pb2.ConnectRequest(ready=agent_pb2.Ready(limit=limit)))

    async def welcome(self) -> agent_pb2.ConnectResponse:
        """The first answer."""
        await eventually(lambda: self.received, within_s=PATIENT_S, message="Welcome")
        return self.received[0]

    def assignments(self) -> list[agent_pb2.Assignment]:
        """All that it was sent."""
        return [one for message in self.received for one in message.assign.assignments]

    async def assigned(self, number: int = 1) -> list[agent_pb2.Assignment]:
        """Waits for so many assignments in all."""
        await eventually(lambda: len(self.assignments()) >= number, within_s=PATIENT_S, message=f"{number} assignments")
        return self.assignments()

    async def acknowledge_all(self) -> None:
        """Acknowledges every batch that it has received."""
        batches = [message.assign.batch_id for message in self.received if message.HasField("assign")]
        await self.send(agent_pb2.ConnectRequest(acknowledged_batch_ids=batches))

    async def report(self, *results: agent_pb2.AttemptResult, batch_id: int = 1) -> agent_pb2.ResultAck:
        """Sends results, and waits for their answer."""
        await self.send(agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=batch_id, results=results)))
        acks = await eventually(
            lambda: [ack for message in self.received for ack in message.result_acks if ack.batch_id == batch_id],
            within_s=PATIENT_S,
            message=f"the answer to batch {batch_id}",
        )
        return acks[-1]

    async def succeed(self, assignment: agent_pb2.Assignment, payload: bytes = b"done", *, batch_id: int = 1) -> agent_pb2.ResultAck:
        """Reports one success."""
        return await self.report(success(assignment.task.task_id, assignment.fence, payload), batch_id=batch_id)

    async def until(self, field_name: str) -> Any:
        """Waits for the first message with this field, and answers the field of the latest one."""

        def found() -> list[Any]:
            messages = (getattr(message, field_name) for message in self.received if _has(message, field_name))
            return list(messages)

        return (await eventually(found, within_s=PATIENT_S, message=field_name))[-1]


def _has(message: Any, field_name: str) -> bool:
    try:
        return bool(message.HasField(field_name))
    except ValueError:
        return bool(getattr(message, field_name))


class ClientPeer(Peer[task_pb2.SessionRequest, task_pb2.SessionResponse]):
    """A client's side of Session, frame by frame."""

    async def submit(self, *tasks: common_pb2.TaskSpec, batch_id: int = 1, **options: bool) -> task_pb2.SubmitAck:
        """Submits a batch, and waits for its answer."""
        await self.send(task_pb2.SessionRequest(submit=task_pb2.SubmitBatch(batch_id=batch_id, tasks=tasks, **options)))
        return await self.acknowledged(batch_id)

    async def acknowledged(self, batch_id: int) -> task_pb2.SubmitAck:
        """Waits for a batch's answer."""
        acks = await eventually(
            lambda: [ack for message in self.received for ack in message.submit_acks if ack.batch_id == batch_id],
            within_s=PATIENT_S,
            message=f"the answer to batch {batch_id}",
        )
        return acks[0]

    async def attach(self, *task_ids: str) -> None:
        """Asks for the end of tasks submitted elsewhere."""
        await self.send(task_pb2.SessionRequest(attach_task_ids=task_ids))

    def results(self) -> list[task_pb2.TaskResult]:
        """All results so far."""
        return [result for message in self.received for result in message.results]

    async def result(self, task_id: str) -> task_pb2.TaskResult:
        """Waits for a task's result."""
        found = await eventually(
            lambda: [result for result in self.results() if result.task_id == task_id],
            within_s=PATIENT_S,
            message=f"the result of {task_id}",
        )
        return found[0]


class Hosted:
    """A coordinator in this process.

    Args:
        running: it.
        faults: its store's.
        channel: to it.
    """

    def __init__(self, *, running: Coordinator, faults: Faults, channel: grpc.aio.Channel, closing: AsyncExitStack) -> None:
        self.running = running
        self.port = running.port
        self.faults = faults
        self.channel = channel
        self.tasks = task_pb2_grpc.TaskServiceStub(channel)
        self.state = state_pb2_grpc.StateServiceStub(channel)
        self.agents = agent_pb2_grpc.AgentServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)
        self._closing = closing
        self._names = count(1)

    @property
    def shard(self) -> Shard:
        """Its only shard."""
        return self.running.shards[0]

    @property
    def namespace(self) -> Namespace:
        """The default namespace."""
        return self.shard.namespaces["default"]

    @property
    def scheduler(self) -> Scheduler:
        """The default namespace's."""
        return self.namespace.scheduler

    def check(self) -> None:
        """Raises when an invariant of the core is broken."""
        for namespace in self.shard.namespaces.values():
            check(namespace.scheduler)
            check_placed(namespace.scheduler)

    async def connect(self, *, namespace: str = "default") -> AgentPeer:
        """An agent's stream that hasn't said hello."""
        peer = AgentPeer(self.agents.Connect(metadata=(("muster-namespace", namespace),)))
        self._closing.push_async_callback(_leave, peer)
        return peer

    async def agent(
        self,
        name: str = "",
        capabilities: Sequence[str] = ("work",),
        *,
        ready: int | None = 10,
        namespace: str = "default",
        **hello: Any,
    ) -> AgentPeer:
        """An agent that has been welcomed and said what it will take; `hello` has further fields of Hello."""
        peer = await self.connect(namespace=namespace)
        await peer.send(agent_pb2.ConnectRequest(hello=hello_of(name or f"agent-{next(self._names)}", capabilities, **hello)))
        await peer.welcome()
        if ready is not None:
            await peer.ready(ready)
        return peer

    async def session(self, *, namespace: str = "default") -> ClientPeer:
        """A client's open session."""
        peer = ClientPeer(self.tasks.Session(metadata=(("muster-namespace", namespace),)))
        self._closing.push_async_callback(_leave, peer)
        await eventually(lambda: peer.received or peer.ended, within_s=PATIENT_S, message="the session's welcome")
        return peer

    async def submit(self, *tasks: common_pb2.TaskSpec | str) -> list[task_pb2.SubmittedTask]:
        """Submits tasks by the unary call: specs, or ids of plain ones."""
        specs = [spec_of(task) if isinstance(task, str) else task for task in tasks]
        return list((await self.tasks.SubmitTasks(task_pb2.SubmitTasksRequest(tasks=specs))).tasks)

    async def get(self, task_id: str, *, full: bool = False) -> task_pb2.Task:
        """A task."""
        view = task_pb2.TASK_VIEW_FULL if full else task_pb2.TASK_VIEW_BASIC
        return (await self.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id, view=view))).task

    async def in_state(self, task_id: str, state: common_pb2.TaskState.ValueType) -> task_pb2.Task:
        """Waits for a task to be in a state, and answers it."""

        async def there() -> bool:
            return (await self.get(task_id)).state == state

        await eventually(
            cast("Callable[[], Any]", there), within_s=PATIENT_S, message=f"{task_id} to be {common_pb2.TaskState.Name(state)}"
        )
        return await self.get(task_id)

    async def cancel(self, *task_ids: str, reason: str = "") -> list[task_pb2.CancelVerdict.ValueType]:
        """Cancels tasks."""
        answer = await self.tasks.CancelTasks(task_pb2.CancelTasksRequest(task_ids=task_ids, reason=reason))
        return [task.verdict for task in answer.tasks]

    async def is_alive(self) -> None:
        """Fails unless a task goes all the way from a new client over a new agent and back."""
        name = f"alive-{next(self._names)}"
        agent = await self.agent(name, [name])
        client = await self.session()
        await client.submit(spec_of(name, name))
        (assignment,) = await agent.assigned()
        await agent.succeed(assignment, b"well")
        assert (await client.result(name)).outcome.success.payload == b"well"
        await client.leave()
        await agent.leave()


async def _leave(peer: Peer[Any, Any]) -> None:
    if peer.ended is None:
        await peer.leave()


@asynccontextmanager
async def hosted(
    *,
    data: MemoryShard | None = None,
    state: MemoryState | None = None,
    limits: Limits | None = None,
    core: Settings | None = None,
    bounds: Bounds | None = None,
    webhooks: WebhookSettings | None = None,
    http_listen: str | None = None,
    unready_after_s: float = 2.0,
) -> AsyncIterator[Hosted]:
    """A coordinator with one shard, until the block ends.

    Args:
        data: the shard's, to come back to later; new if not given.
        state: its shared state, likewise.
        limits: of a namespace's shared state.
        core: the core's settings.
        bounds: what requests must keep to.
        webhooks: how they are tried.
        http_listen: where it answers over HTTP.
        unready_after_s: how long its store may be out before it isn't ready.
    """
    faults = Faults()

    def now_ms() -> int:
        return clock.wall_ms() + faults.date_ahead_ms

    store = MemoryShardStore(shard=data or MemoryShard(), now_ms=now_ms, fault=faults)
    state_store = MemoryStateStore(state=state or MemoryState(), owns=store.owns, now_ms=now_ms, fault=faults.of_state)
    settings = CoordinatorSettings(
        listen="127.0.0.1:0",
        shards=1,
        core=core or Settings(),
        bounds=bounds or Bounds(),
        webhooks=webhooks or WebhookSettings(),
        state=limits or Limits(),
        stop_grace_s=0.0,
        http_listen=http_listen,
        unready_after_s=unready_after_s,
    )
    async with (
        serve(settings, [store], [state_store], ("memory", "nothing survives")) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}") as channel,
        AsyncExitStack() as closing,
    ):
        yield Hosted(running=running, faults=faults, channel=channel, closing=closing)


def spec_of(task_id: str, task_type: str = "work", payload: bytes = b"", **options: Any) -> common_pb2.TaskSpec:
    """A task to submit; `options` are further fields."""
    return common_pb2.TaskSpec(task_id=task_id, task_type=task_type, payload=payload, **options)


def hello_of(name: str, capabilities: Sequence[str | agent_pb2.Capability] = ("work",), **options: Any) -> agent_pb2.Hello:
    """A Hello that is right, unless `options` say otherwise."""
    fields: dict[str, Any] = {
        "agent_name": name,
        "session_nonce": f"nonce of {name}"[:64],
        "capabilities": [agent_pb2.Capability(task_type=one) if isinstance(one, str) else one for one in capabilities],
        "protocol_version": 1,
    }
    return agent_pb2.Hello(**fields | options)


def success(task_id: str, fence: int, payload: bytes = b"done") -> agent_pb2.AttemptResult:
    """An attempt that succeeded."""
    outcome = common_pb2.Outcome(success=common_pb2.Success(payload=payload))
    return agent_pb2.AttemptResult(task_id=task_id, fence=fence, outcome=outcome)


def failure(task_id: str, fence: int, **fields: Any) -> agent_pb2.AttemptResult:
    """An attempt that failed; `fields` are those of Failure."""
    outcome = common_pb2.Outcome(failure=common_pb2.Failure(**fields))
    return agent_pb2.AttemptResult(task_id=task_id, fence=fence, outcome=outcome)
