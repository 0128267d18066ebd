"""The watches of one client's stream, and the news of them in the order in which it came up."""

import asyncio
from collections.abc import Collection, Sequence

from coordinator.errors import InvalidRequest, LimitReached, Unavailable
from coordinator.state.model import Entry, Event, EventKind
from coordinator.state.watch import EVENT_BYTES, Mode, News, Watch, event_bytes
from coordinator.state.watches import Watches
from coordinator.state.writer import Header

MAX_WATCHES = 20_000  # of one stream
TAKE_BYTES = 2 * 1024 * 1024
PREVIOUS_AT_ONCE = 16  # read together


class WatchStream:
    """The watches of one client's stream."""

    def __init__(self, watches: Watches) -> None:
        self._all = watches
        self._watches: dict[int, Watch] = {}
        self._waiting: list[Watch] = []  # until it is known where the state is
        self._news: dict[Watch, None] = {}
        self._something = asyncio.Event()
        self._error: Unavailable | None = watches.closed
        watches.streams.add(self)

    def create(
        self,
        watch_id: int,
        key: str,
        *,
        is_prefix: bool,
        start_revision: int = 0,
        previous: bool = False,
        kinds: Collection[EventKind] = (),
    ) -> None:
        """Begins a watch; `take` tells that it has begun.

        Args:
            watch_id: the client's number for it.
            key: the key, or what keys begin with; then empty is all.
            is_prefix: whether it is what keys begin with.
            start_revision: the first revision to see; 0 is what comes from now on.
            previous: whether to tell what was there before each change.
            kinds: what to tell of; none is everything.

        Raises:
            InvalidRequest: the number is taken.
            LimitReached: too many watches on one stream.
        """
        if watch_id in self._watches:
            raise InvalidRequest(f"watch_id {watch_id} is taken on this stream: choose another, or cancel that watch", field="watch_id")
        if len(self._watches) >= MAX_WATCHES:
            raise LimitReached(
                f"the stream has {len(self._watches)} watches: open another stream, or watch a prefix",
                limit="watches_per_stream",
                used=len(self._watches),
                allowed=MAX_WATCHES,
                retry_after_s=None,
            )
        wanted = frozenset(kinds) or None
        watch = Watch(self, watch_id, key, is_prefix=is_prefix, previous=previous, kinds=wanted, position=start_revision - 1)
        self._watches[watch_id] = watch
        if self._all.opened:
            self._all.follow(watch)
        else:
            self._waiting.append(watch)

    def begin(self) -> None:
        """It is known where the state is."""
        waiting, self._waiting = self._waiting, []
        for watch in waiting:
            if watch.mode is not Mode.ENDED:
                self._all.follow(watch)

    def cancel(self, watch_id: int) -> None:
        """Ends a watch. Nothing more comes of it; one that isn't there is no error."""
        watch = self._watches.pop(watch_id, None)
        if watch is not None:
            self._all.leave(watch)
            self._news.pop(watch, None)

    async def take(self) -> tuple[Header, Sequence[News]]:
        """Waits until there is news, and answers what there is, of about 2 MiB at most: more only when one revision has more.

        Raises:
            Unavailable: the engine stopped, or the namespace was deleted.
        """
        news: list[News] = []
        while not news:
            if not self._news and self._error is None:
                self._something.clear()
                await self._something.wait()
            if self._error is not None:
                raise self._error
            room = TAKE_BYTES
            while self._news and room > 0:
                watch = next(iter(self._news))
                del self._news[watch]
                said, size = await self._news_of(watch, room)
                room -= size
                if said is not None and (watch.mode is not Mode.ENDED or watch.refusal is not None):
                    news.append(said)
        return self._all.header(), news

    async def _news_of(self, watch: Watch, room: int) -> tuple[News | None, int]:
        if not watch.created and watch.refusal is None:  # by itself: what it has seen since comes behind, or would seem to lie before it
            watch.created = True
            self._news[watch] = None
            return News(watch.watch_id, True, [], [], watch.told, None), EVENT_BYTES
        events: list[Event] = []
        previous: list[Entry | None] = []
        size = 0
        while watch.queue and size < room:
            revision = watch.pop()
            added = sum(map(event_bytes, revision))
            if watch.previous:
                before = await self._before(revision)
                added += sum(len(entry.value) for entry in before if entry is not None)
                if events and size + added > room:
                    watch.push_back(revision)
                    break
                previous += before
            events += revision
            size += added
        if watch.queue:
            self._news[watch] = None
        elif watch.mode is Mode.BEHIND:
            self._all.read_on(watch)
        through = events[-1].revision if watch.queue else self._all.through(watch)
        if watch.refusal is not None:
            self._watches.pop(watch.watch_id, None)
        elif not events and through <= watch.told:
            return None, 0
        watch.told = through
        return News(watch.watch_id, False, events, previous, through, watch.refusal), size + EVENT_BYTES

    async def _before(self, events: Sequence[Event]) -> list[Entry | None]:
        entries: list[Entry | None] = []
        for place in range(0, len(events), PREVIOUS_AT_ONCE):
            entries += await asyncio.gather(*map(self._all.before, events[place : place + PREVIOUS_AT_ONCE]))
        return entries

    def close(self) -> None:
        """Ends all of them."""
        for watch_id in list(self._watches):
            self.cancel(watch_id)
        self._all.streams.discard(self)

    # what the watches tell it

    def has_news(self, watch: Watch) -> None:
        """There is something of a watch to take."""
        self._news[watch] = None
        self._something.set()

    def end(self, error: Unavailable) -> None:
        """The engine stops."""
        self._error = error
        self._something.set()
