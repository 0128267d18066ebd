"""Carries calls to the coordinators that they are for, and their answers back, as the bytes that they are.

Deadlines, metadata, cancellation, statuses and their details go both ways. Nothing is kept but the message that is being handed on, so a
side that reads slowly slows the other down, as it would without anybody in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from coordinator.errors import Unavailable
from coordinator.rpc.forwarded_calls import ForwardedCalls
from coordinator.rpc.owners import UNTOUCHED_KEY, Owners, moved
from coordinator.rpc.peer_auth import NAMESPACE_KEY, PEER_KEYS, PeerAuth, forwarded
from coordinator.rpc.status import OWNER_KEY

if TYPE_CHECKING:
    from coordinator.cluster.directory import Owner
    from coordinator.rpc.forwarded_calls import ForwardedCall
    from coordinator.rpc.peers import Peer

Context = Any  # grpc.aio.ServicerContext[bytes, bytes]
Pairs = tuple[tuple[str, str | bytes], ...]
KEPT_FOR_REPEAT = 64 * 1024  # bytes: a first message that is larger isn't sent twice

_NOT_HANDED_ON = PEER_KEYS | {"user-agent"}  # gRPC says which program speaks by itself


class Refused(Exception):
    """The owner ended the call with a status."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        super().__init__()
        self.code = error.code()
        self.details = error.details() or ""
        self.trailing: Pairs = tuple(error.trailing_metadata() or ())

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was done: it isn't the owner, says so before it looks at the call, and the call may go to another one."""
        return self.code is grpc.StatusCode.UNAVAILABLE and any(key == UNTOUCHED_KEY for key, _ in self.trailing)


class Forwarder:
    """Forwards calls.

    Args:
        owners: finds them.
        auth: signs.
        calls: those under way.
    """

    def __init__(self, *, owners: Owners, auth: PeerAuth, calls: ForwardedCalls) -> None:
        self._owners = owners
        self._auth = auth
        self._calls = calls

    async def unary(
        self, method: str, shard: int, request: bytes, context: Context, here: Callable[[bytes, Context], Awaitable[Any]]
    ) -> Any:
        """Forwards a call of one message each way, and answers its response.

        Args:
            method: its full name.
            shard: whose it is.
            request: its request.
            context: its context.
            here: handles it, if the shard turns out to be ours.

        Raises:
            Unavailable: no owner can be reached.
        """

        async def attempt(owner: Owner, peer: Peer) -> bytes:
            call = peer.unary(method)(request, timeout=context.time_remaining(), metadata=self._metadata(method, context))
            with self._calls.begin(shard, owner, call) as under_way:
                response: bytes = await _told(call, under_way)
                initial = await call.initial_metadata()
                if initial:
                    await context.send_initial_metadata(tuple(initial))
                context.set_trailing_metadata((*await call.trailing_metadata(), (OWNER_KEY, owner.address)))
            return response

        reached = await self._first(shard)
        may_repeat = True
        while reached is not None:
            try:
                return await attempt(*reached)
            except Refused as refused:
                reached = await self._next(shard, reached[0], refused, context, may_repeat=may_repeat)
                may_repeat = False
        return await here(request, context)

    async def stream(
        self, method: str, shard: int, requests: Requests, context: Context, here: Callable[[Context], Awaitable[None]]
    ) -> None:
        """Forwards a call of any number of messages each way.

        Args:
            method: its full name.
            shard: whose it is.
            requests: what its caller sends.
            context: its context.
            here: handles it, if the shard turns out to be ours.

        Raises:
            Unavailable: no owner can be reached, or the shard has moved.
        """
        reached = await self._first(shard)
        may_repeat = True
        try:
            while reached is not None:
                try:
                    return await self._carry(method, shard, requests, context, *reached)
                except Refused as refused:
                    reached = await self._next(shard, reached[0], refused, context, may_repeat=may_repeat and requests.can_repeat)
                    may_repeat = False
            await here(context)
        finally:
            requests.close()

    async def _carry(self, method: str, shard: int, requests: Requests, context: Context, owner: Owner, peer: Peer) -> None:
        call = peer.stream(method)(timeout=context.time_remaining(), metadata=self._metadata(method, context))
        with self._calls.begin(shard, owner, call) as under_way:
            sender = asyncio.create_task(requests.send_to(call), name="forward.requests")
            try:
                while (message := await _told(call.read(), under_way)) is not grpc.aio.EOF:
                    if not requests.is_answered:
                        requests.answered()
                        await context.send_initial_metadata((*await call.initial_metadata(), (OWNER_KEY, owner.address)))
                    await context.write(message)
                context.set_trailing_metadata((*await call.trailing_metadata(), (OWNER_KEY, owner.address)))
            finally:
                sender.cancel()
                await asyncio.wait((sender,))
        if not sender.cancelled() and (error := sender.exception()) is not None:
            raise error

    async def _first(self, shard: int) -> tuple[Owner, Peer] | None:
        """Whom to try first, or None if the shard is ours. What another coordinator hands on is for us, or for nobody: one hop."""
        if forwarded.get() is not None:
            await self._owners.until_here(shard)
            return None
        return await self._owners.reach(shard, self._owners.patience_ends_s())

    async def _next(self, shard: int, owner: Owner, refused: Refused, context: Context, *, may_repeat: bool) -> tuple[Owner, Peer] | None:
        """Whom to try after a refusal, or None if the shard has become ours. Where there is nobody, the call ends with the refusal."""
        if may_repeat and refused.is_untouched:
            try:
                return await self._owners.reach(shard, self._owners.patience_ends_s(), unlike=owner)
            except Unavailable:  # which says less
                pass
        return await _end(context, refused, owner)

    def _metadata(self, method: str, context: Context) -> Pairs:
        given: Pairs = context.invocation_metadata() or ()
        namespace = "".join(value for key, value in given if key == NAMESPACE_KEY and isinstance(value, str))
        handed_on = tuple((key, value) for key, value in given if key not in _NOT_HANDED_ON)
        return handed_on + self._auth.sign(method, namespace=namespace, caller=context.peer())


class Requests:
    """What a caller sends on a stream: each message is read once, and the first one is kept until there is an answer, for a second try.

    Args:
        read: reads the next message; None when there is none but the first.
        first: the first message, if it has been read.
    """

    def __init__(self, *, read: Callable[[], Awaitable[Any]] | None, first: bytes | None = None) -> None:
        self._read = read
        self._kept: list[bytes] = [] if first is None else [first]
        self._reading: asyncio.Future[Any] | None = None
        self._has_ended = read is None
        self.is_answered = False
        self.can_repeat = True

    def answered(self) -> None:
        """The owner has begun to answer: there will be no second try."""
        self.is_answered = True
        self.can_repeat = False
        self._kept.clear()

    async def send_to(self, call: Any) -> None:
        """Sends all of it, as it comes."""
        try:
            for message in self._kept:
                await call.write(message)
            while not self._has_ended:
                message = await self._next()
                if message is grpc.aio.EOF:
                    self._has_ended = True
                    break
                if self.can_repeat:
                    self._keep(message)
                await call.write(message)
            await call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
            return  # the call is over, or its caller has gone: whoever reads the answers learns why

    async def _next(self) -> Any:
        if self._read is None:
            return grpc.aio.EOF
        if self.is_answered and self._reading is None:
            return await self._read()
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
        message = await asyncio.shield(self._reading)  # a read that is broken off can't be begun again
        self._reading = None
        return message

    def _keep(self, message: bytes) -> None:
        if self._kept or len(message) > KEPT_FOR_REPEAT:
            self.can_repeat = False
            self._kept.clear()
        else:
            self._kept.append(message)

    def close(self) -> None:
        """Nothing more is read."""
        if self._reading is not None:
            self._reading.cancel()


async def _told(answer: Awaitable[Any], under_way: ForwardedCall) -> Any:
    """Awaits what the owner answers.

    Raises:
        Refused: it ended the call with a status.
        Unavailable: the shard moved meanwhile, or the coordinator went.
    """
    try:
        return await answer
    except grpc.aio.AioRpcError as error:
        raise Refused(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the caller has gone, or we are ending
        raise moved(under_way.shard, under_way.moved_to) from None


async def _end(context: Context, refused: Refused, owner: Owner) -> NoReturn:
    """Ends a call as its owner did."""
    told = tuple((key, value) for key, value in refused.trailing if key not in (UNTOUCHED_KEY, OWNER_KEY))
    owners = tuple((key, value) for key, value in refused.trailing if key == OWNER_KEY)
    if not owners and refused.code is not grpc.StatusCode.UNAVAILABLE:  # else it may be no longer there
        owners = ((OWNER_KEY, owner.address),)
    context.set_trailing_metadata((*told, *owners))
    await context.abort(refused.code, refused.details)
    raise AssertionError("abort returned")
