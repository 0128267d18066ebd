"""A real coordinator behind the same script as FakeStateService: what operations mean is the coordinator's, in a thread of its own.

Streams go through here, to be recorded, held back and broken when a test says so. What a test asks for or looks at beside them goes
straight to the coordinator, and returns when that has answered.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from muster.v1 import state_pb2 as pb
from muster.v1.common_pb2 import Refusal
from muster.v1.state_pb2_grpc import StateServiceServicer, StateServiceStub

from tests.support.documents import in_a_thread
from tests.support.fake_state_service import SessionContext, WatchContext
from tests.support.hosted import AgentPeer, Hosted, hosted, spec_of

T = TypeVar("T")
_PATIENT_S = 30.0


@asynccontextmanager
async def _hosted_here() -> AsyncIterator[tuple[Hosted, asyncio.AbstractEventLoop]]:
    async with hosted() as running:
        yield running, asyncio.get_running_loop()


@dataclass(frozen=True, slots=True)
class RelayedLock:
    """Who holds a lock, and who waits for it."""

    token: int
    waiters: list[str]


class RelayedStateService(StateServiceServicer):
    """A coordinator and the script before it; the attributes are those of FakeStateService."""

    def __init__(self) -> None:
        self.answering = True
        self.deaf = False
        self.lost = 0
        self.refuse_next: list[Refusal] = []
        self.ops: list[pb.StateOp] = []
        self.batches: list[int] = []
        self.opened = 0
        self.watch_streams = 0
        self._watches: set[tuple[int, int]] = set()
        self._streams: list[asyncio.Queue[Any]] = []
        self._agents: dict[str, AgentPeer] = {}
        self._thread: AbstractContextManager[tuple[Hosted, asyncio.AbstractEventLoop]] = in_a_thread(_hosted_here())
        self._hosted, self._loop = self._thread.__enter__()

    def close(self) -> None:
        """Ends the coordinator."""
        self._thread.__exit__(None, None, None)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENT_S)

    # --- what tests do beside the client --------------------------------------------------------------------------------------

    async def break_streams(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Ends every open stream."""
        for stream in list(self._streams):
            await stream.put(code)

    def write(self, key: str, value: bytes = b"x") -> int:
        """Somebody else's write."""

        async def put() -> int:
            return (await self._hosted.state.Put(pb.PutRequest(key=key, value=value))).revision

        return self._run(put())

    def end_lease(self, lease_id: int) -> None:
        """A lease ends, and its keys with it."""

        async def revoke() -> None:
            await self._hosted.state.RevokeLease(pb.RevokeLeaseRequest(lease_id=lease_id))

        self._run(revoke())

    def take_lock_away(self, name: str) -> None:
        """The next waiter has it."""
        token = self.locks[name].token

        async def unlock() -> None:
            await self._hosted.state.Unlock(pb.UnlockRequest(name=name, token=token))

        self._run(unlock())

    def compact(self, revision: int) -> None:
        """Forgets what was before."""

        async def ask() -> None:
            await self._hosted.state.Compact(pb.CompactRequest(revision=revision))

        self._run(ask())

    def begin_attempt(self, task_id: str) -> int:
        """An agent runs a task; answers the fence of its attempt."""

        async def begin() -> int:
            agent = self._agents[task_id] = await self._hosted.agent(capabilities=[task_id])
            await self._hosted.submit(spec_of(task_id, task_id))
            (assignment,) = await agent.assigned()
            return assignment.fence

        return self._run(begin())

    def end_attempt(self, task_id: str) -> None:
        """It is over."""

        async def end() -> None:
            (assignment,) = await self._agents[task_id].assigned()
            await self._agents[task_id].succeed(assignment)

        self._run(end())

    @property
    def entries(self) -> dict[str, pb.StateEntry]:
        """All keys, but those of agents."""

        async def ask() -> dict[str, pb.StateEntry]:
            found: dict[str, pb.StateEntry] = {}
            request = pb.ListRequest()
            while True:
                page = await self._hosted.state.List(request)
                found |= {entry.key: entry for entry in page.entries if not entry.key.startswith("agents/")}
                request.page_token = page.next_page_token
                if not request.page_token:
                    return found

        return self._run(ask())

    @property
    def locks(self) -> dict[str, RelayedLock]:
        """All locks; who asks for one that nobody holds finds it free."""

        async def ask() -> dict[str, RelayedLock]:
            locks = (await self._hosted.state.ListLocks(pb.ListLocksRequest())).locks
            return {each.name: RelayedLock(each.holder.token, [waiter.waiter_id for waiter in each.waiters]) for each in locks}

        return _OrFree(self._run(ask()))

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    # --- what is between client and coordinator -------------------------------------------------------------------------------

    async def StateSession(  # the name in the proto
        self, request_iterator: AsyncIterator[pb.StateSessionRequest], context: SessionContext
    ) -> AsyncIterator[pb.StateSessionResponse]:
        """Passes operations on and answers back."""
        self.opened += 1
        outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._streams.append(outgoing)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._hosted.port}") as channel:
            call = StateServiceStub(channel).StateSession()
            tasks = [
                asyncio.create_task(self._pass_ops(request_iterator, call, outgoing)),
                asyncio.create_task(_pass_back(call, outgoing, lambda: self.answering)),
            ]
            try:
                async for item in _until_status(outgoing, context):
                    yield item
            finally:
                self._streams.remove(outgoing)
                await _ended(tasks)

    async def _pass_ops(self, requests: AsyncIterator[pb.StateSessionRequest], call: Any, outgoing: "asyncio.Queue[Any]") -> None:
        client_id = ""
        async for request in requests:
            client_id = request.client_id or client_id
            if self.deaf:
                self.lost += len(request.ops)
                continue
            self.batches.append(len(request.ops))
            passed = pb.StateSessionRequest(client_id=client_id)
            for op in request.ops:
                self.ops.append(op)
                if self.refuse_next:
                    refused = pb.StateAnswer(op_id=op.op_id, refusal=self.refuse_next.pop(0))
                    outgoing.put_nowait(pb.StateSessionResponse(answers=[refused]))
                else:
                    passed.ops.append(op)
            await call.write(passed)

    async def Watch(  # the name in the proto
        self, request_iterator: AsyncIterator[pb.WatchRequest], context: WatchContext
    ) -> AsyncIterator[pb.WatchResponse]:
        """Passes watches on and news back."""
        self.watch_streams += 1
        stream = self.watch_streams
        outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._streams.append(outgoing)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._hosted.port}") as channel:
            call = StateServiceStub(channel).Watch()
            tasks = [
                asyncio.create_task(self._pass_watches(request_iterator, call, stream)),
                asyncio.create_task(_pass_back(call, outgoing)),
            ]
            try:
                async for item in _until_status(outgoing, context):
                    for news in item.news:
                        if news.created:
                            self._watches.add((stream, news.watch_id))
                    yield item
            finally:
                self._streams.remove(outgoing)
                self._watches = {each for each in self._watches if each[0] != stream}
                await _ended(tasks)

    async def _pass_watches(self, requests: AsyncIterator[pb.WatchRequest], call: Any, stream: int) -> None:
        async for request in requests:
            self._watches -= {(stream, watch_id) for watch_id in request.cancel}
            await call.write(request)


class _OrFree(dict[str, RelayedLock]):
    def __missing__(self, name: str) -> RelayedLock:
        return RelayedLock(0, [])


async def _pass_back(call: Any, outgoing: "asyncio.Queue[Any]", wanted: Callable[[], bool] = lambda: True) -> None:
    """Passes on what comes; what isn't wanted when it comes is lost."""
    with suppress(grpc.aio.AioRpcError):
        async for response in call:
            if wanted():
                outgoing.put_nowait(response)
    outgoing.put_nowait(await call.code())


async def _until_status(outgoing: "asyncio.Queue[Any]", context: Any) -> AsyncIterator[Any]:
    while True:
        item = await outgoing.get()
        if item is grpc.StatusCode.OK:
            return
        if isinstance(item, grpc.StatusCode):
            await context.abort(item, "ended by the script")
        yield item


async def _ended(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
