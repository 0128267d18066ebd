"""Watch: any number of watches of shared state on one stream."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from muster.v1 import state_pb2 as pb

from coordinator.convert_state import check_key, check_number, check_prefix
from coordinator.convert_state_out import event_out
from coordinator.errors import InvalidRequest, MusterError, NotFound, Unavailable
from coordinator.rpc.opaque import opaque
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES, Sender
from coordinator.rpc.status import refusal_of
from coordinator.state.model import EventKind

if TYPE_CHECKING:
    from coordinator.engine.shard import Shard
    from coordinator.state.engine import Header, News, WatchStream
    from coordinator.state.model import Entry, Event

MAX_NEWS = 1000  # per message
NEWS_BYTES = 32  # of one without events, counted roughly

_Response = opaque(pb.WatchResponse, "WatchNews.events")


class EventBytes:
    """Events as they go out, so that what many watches see is serialized once. It holds the latest ones, up to a bound."""

    def __init__(self, *, max_bytes: int = 4 * 1024 * 1024) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0
        self._known: OrderedDict[int, tuple[Event, bytes]] = OrderedDict()  # by id, which is its own as long as the event is held

    def of(self, event: Event, previous: Entry | None) -> bytes:
        """An event, serialized."""
        if previous is not None:
            return event_out(event, previous).SerializeToString()
        known = self._known.get(id(event))
        if known is not None:
            return known[1]
        blob = event_out(event).SerializeToString()
        self._known[id(event)] = (event, blob)
        self.held_bytes += len(blob)
        while self.held_bytes > self._max_bytes:
            self.held_bytes -= len(self._known.popitem(last=False)[1][1])
        return blob


_event_bytes = EventBytes()


def _kind_in(kind: int, field: str) -> EventKind:
    try:
        return EventKind(kind)
    except ValueError:
        raise InvalidRequest(f"{field} is {kind}, which is no kind of event: leave it out to see all", field=field) from None


class StateWatching:
    """One stream of watches.

    Args:
        shard: the shard that its namespace lives in.
        namespace_name: its namespace.
        stream: the engine's side of it.
    """

    def __init__(self, *, shard: Shard, namespace_name: str, stream: WatchStream) -> None:
        self.sender = Sender(outgoing=self)
        self.namespace_name = namespace_name
        self._shard = shard
        self._stream = stream
        self._watches: set[int] = set()
        self._messages: deque[bytes] = deque()
        self._drained = asyncio.Event()
        self._no_more_comes = False
        self._all_is_said = asyncio.Event()

    async def read(self, messages: AsyncIterator[pb.WatchRequest]) -> None:
        """Begins and ends watches until the client closes the stream. Raises MusterError for what breaks the protocol."""
        self._shard.client_streams.add(self)
        telling = asyncio.create_task(self._tell(), name="state.watch")
        try:
            async for message in messages:
                refused = _Response()
                for watch_id in message.cancel:
                    self._watches.discard(watch_id)
                    self._stream.cancel(watch_id)
                for index, create in enumerate(message.create):
                    try:
                        self._create(create, f"create[{index}]")
                    except MusterError as error:
                        news = refused.news.add(watch_id=create.watch_id)
                        news.refusal.ParseFromString(refusal_of(error).SerializeToString())
                if refused.news:
                    await self._say(refused.SerializeToString())
            # A client that begins no more watches still wants to see what those see that it has.
            self._no_more_comes = True
            self.sender.wake()
            await self._all_is_said.wait()
        finally:
            self._shard.client_streams.discard(self)
            telling.cancel()
            self._stream.close()

    def _create(self, create: pb.CreateWatch, field: str) -> None:
        if create.watch_id in self._watches:
            raise InvalidRequest(
                f"{field}.watch_id is {create.watch_id}, and that watch is still open: number watches anew on each stream",
                field=f"{field}.watch_id",
            )
        check = check_prefix if create.prefix else check_key
        self._stream.create(
            create.watch_id,
            check(create.key, f"{field}.key"),
            is_prefix=create.prefix,
            start_revision=check_number(create.start_revision, f"{field}.start_revision"),
            previous=create.previous,
            kinds=[_kind_in(kind, f"{field}.kinds[{place}]") for place, kind in enumerate(create.kinds)],
        )
        self._watches.add(create.watch_id)

    async def _tell(self) -> None:
        """Takes what there is when the client has read what came before."""
        try:
            while True:
                header, news = await self._stream.take()
                for message in messages_of(header, news):
                    await self._say(message)
                self._watches.difference_update(one.watch_id for one in news if one.refusal is not None)
        except MusterError as error:
            self.sender.end(error)

    async def _say(self, message: bytes) -> None:
        while len(self._messages) > 1:
            self._drained.clear()
            await self._drained.wait()
        self._messages.append(message)
        self.sender.wake()

    def close(self, error: Unavailable) -> None:
        """The shard isn't served here any more."""
        self.sender.end(error)

    def gone(self, message: str) -> None:
        """The namespace was deleted."""
        self.sender.end(NotFound(message, reason="NAMESPACE_NOT_FOUND"))

    def next_message(self) -> bytes | None:
        """What was taken, serialized."""
        self._drained.set()
        if self._messages:
            return self._messages.popleft()
        if self._no_more_comes and not self._watches:
            self._all_is_said.set()
        return None


def messages_of(header: Header, news: Sequence[News]) -> Iterator[bytes]:
    """News as messages that fit the wire. Where the events of a watch go on in the next one, all up to the revision before was told."""
    message = _message(header)
    room = MAX_MESSAGE_BYTES
    for one in news:
        told = _add(message, one)
        room -= NEWS_BYTES
        for index, event in enumerate(one.events):
            blob = _event_bytes.of(event, one.previous[index] if one.previous else None)
            if len(blob) > room and (told.events or len(message.news) > 1):
                if told.events:
                    told.through_revision = event.revision - 1
                else:
                    del message.news[-1]
                yield message.SerializeToString()
                message, room = _message(header), MAX_MESSAGE_BYTES
                told = _add(message, one)
            told.events.append(blob)
            room -= len(blob)
        told.through_revision = one.through_revision
        if room <= 0 or len(message.news) >= MAX_NEWS:
            yield message.SerializeToString()
            message, room = _message(header), MAX_MESSAGE_BYTES
    if message.news:
        yield message.SerializeToString()


def _message(header: Header) -> Any:
    message = _Response()
    message.header.revision = header.revision
    message.header.incarnation = header.incarnation
    return message


def _add(message: Any, one: News) -> Any:
    told = message.news.add()
    told.watch_id = one.watch_id
    if one.created:
        told.created = True
    if one.refusal is not None:
        told.refusal.ParseFromString(refusal_of(one.refusal).SerializeToString())
    return told
