"""StateService: what a namespace's agents and clients share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from muster.v1 import state_pb2 as pb
from muster.v1 import state_pb2_grpc

from coordinator.errors import MusterError
from coordinator.rpc.outgoing import serve_stream
from coordinator.rpc.state_calls import WITH_OPTIONS, Response, StateCalls
from coordinator.rpc.state_refusals import compare_failed
from coordinator.rpc.state_session import StateSession
from coordinator.rpc.state_watching import StateWatching

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.rpc.shards import Shards
    from coordinator.state.engine import StateEngine
    from coordinator.state.model import Limits

Context = Any  # grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


class StateService(state_pb2_grpc.StateServiceServicer):
    """See muster/v1/state.proto.

    Args:
        shards: where namespaces live.
        engines: of the shards, by number.
        limits: likewise, by namespace.
    """

    def __init__(self, *, shards: Shards, engines: Sequence[StateEngine], limits: Sequence[Callable[[str], Limits]]) -> None:
        self._shards = shards
        self._engines = engines
        self._limits = limits
        self._tied: dict[str, int] = {}

    def _calls(self, shard: Shard, namespace: Namespace) -> StateCalls:
        return StateCalls(
            shard=shard, namespace=namespace, engine=self._engines[shard.number], limits=self._limits[shard.number], tied=self._tied
        )

    async def _call(self, context: Context, name: str, request: Any, _response: type[Answer]) -> Answer:
        calls = self._calls(*self._shards.called(context))
        if name in WITH_OPTIONS:
            await calls.require_attempt(request.options)
        done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def answered(response: Response | MusterError) -> None:
            if done.done():  # the caller has left
                return
            if isinstance(response, MusterError):
                done.set_exception(response)
            else:
                done.set_result(response)

        try:
            calls.begin(name, request, "", answered)
            response = await done
        finally:
            calls.leave()
        if name in _CONDITIONAL and response.HasField("conflict"):
            raise compare_failed(response.conflict.mod_revision, response.conflict.version)
        return cast("Answer", response)

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:
        return await self._call(context, "get", request, pb.GetResponse)

    async def Put(self, request: pb.PutRequest, context: Context) -> pb.PutResponse:
        return await self._call(context, "put", request, pb.PutResponse)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        return await self._call(context, "delete", request, pb.DeleteResponse)

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        return await self._call(context, "list", request, pb.ListResponse)

    async def Txn(self, request: pb.TxnRequest, context: Context) -> pb.TxnResponse:
        return await self._call(context, "txn", request, pb.TxnResponse)

    async def Update(self, request: pb.UpdateRequest, context: Context) -> pb.UpdateResponse:
        return await self._call(context, "update", request, pb.UpdateResponse)

    async def History(self, request: pb.HistoryRequest, context: Context) -> pb.HistoryResponse:
        return await self._call(context, "history", request, pb.HistoryResponse)

    async def Compact(self, request: pb.CompactRequest, context: Context) -> pb.CompactResponse:
        return await self._call(context, "compact", request, pb.CompactResponse)

    async def GrantLease(self, request: pb.GrantLeaseRequest, context: Context) -> pb.GrantLeaseResponse:
        return await self._call(context, "grant_lease", request, pb.GrantLeaseResponse)

    async def KeepLease(self, request: pb.KeepLeaseRequest, context: Context) -> pb.KeepLeaseResponse:
        return await self._call(context, "keep_lease", request, pb.KeepLeaseResponse)

    async def RevokeLease(self, request: pb.RevokeLeaseRequest, context: Context) -> pb.RevokeLeaseResponse:
        return await self._call(context, "revoke_lease", request, pb.RevokeLeaseResponse)

    async def Lock(self, request: pb.LockRequest, context: Context) -> pb.LockResponse:
        return await self._call(context, "lock", request, pb.LockResponse)

    async def KeepLock(self, request: pb.KeepLockRequest, context: Context) -> pb.KeepLockResponse:
        return await self._call(context, "keep_lock", request, pb.KeepLockResponse)

    async def Unlock(self, request: pb.UnlockRequest, context: Context) -> pb.UnlockResponse:
        return await self._call(context, "unlock", request, pb.UnlockResponse)

    async def ListLocks(self, request: pb.ListLocksRequest, context: Context) -> pb.ListLocksResponse:
        return await self._call(context, "list_locks", request, pb.ListLocksResponse)

    async def GetStateStats(self, request: pb.GetStateStatsRequest, context: Context) -> pb.GetStateStatsResponse:
        return await self._call(context, "stats", request, pb.GetStateStatsResponse)

    async def Watch(self, request_iterator: AsyncIterator[pb.WatchRequest], context: Context) -> None:  # type: ignore[override]  # it writes to the context, so that one wrapper serves all
        shard, namespace = self._shards.called(context)
        watching = StateWatching(shard=shard, namespace_name=namespace.name, stream=self._engines[shard.number].watch(namespace.name))
        await serve_stream(context, watching.sender, watching.read(request_iterator))

    async def StateSession(self, request_iterator: AsyncIterator[pb.StateSessionRequest], context: Context) -> None:  # type: ignore[override]  # as above
        shard, namespace = self._shards.called(context)
        session = StateSession(shard=shard, namespace_name=namespace.name, calls=self._calls(shard, namespace))
        await serve_stream(context, session.sender, session.read(request_iterator))


_CONDITIONAL = frozenset(("put", "delete", "update"))
