"""Who follows a namespace's keys. One reader reads each event once, whoever follows; who starts in the past, or is slow, reads apart.

A watch has seen everything up to its `position`. The reader has handed out everything up to its own; a watch goes over to it as soon as its
position is no less, and takes from it only what lies above: so nothing is missed at the seam, and nothing comes twice.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import groupby
from operator import attrgetter

from coordinator.errors import MusterError, RevisionOutOfRange, Unavailable
from coordinator.state.model import Entry, Event
from coordinator.state.outages import keep_asking
from coordinator.state.ports import EventPage, StateStore
from coordinator.state.watch import EVENT_BYTES, Mode, Stream, Watch, event_bytes
from coordinator.state.watch_index import WatchIndex
from coordinator.state.writer import Header

PAGE_EVENTS = 1_000
PAGE_BYTES = 1024 * 1024
PROGRESS_S = 30.0  # how often a watch that sees nothing learns how far it has come
DELIVERED_AT_ONCE = 2_000  # events to watches, until others may run
RECENT_BYTES = 4 * 1024 * 1024  # of entries, which are soon what was there before

_revision_of = attrgetter("revision")


class Watches:
    """All watches of one namespace.

    Args:
        namespace: whose state.
        store: where it is.
        header: where the state is.
        seen: told of each revision that the store shows.
    """

    def __init__(
        self,
        *,
        namespace: str,
        store: StateStore,
        header: Callable[[], Header],
        seen: Callable[[int], None],
    ) -> None:
        self._namespace = namespace
        self._store = store
        self.header = header
        self._seen = seen
        self._index: WatchIndex[Watch] = WatchIndex()
        self._position = 0  # the reader has handed out all up to here
        self._behind: deque[Watch] = deque()  # those that read by themselves and have room, in turn
        self._wake = asyncio.Event()
        self._wake_behind = asyncio.Event()
        self._progress: asyncio.TimerHandle | None = None
        self._recent: OrderedDict[tuple[str, int], Entry] = OrderedDict()
        self._recent_bytes = 0
        self._followed: set[Watch] = set()
        self._with_previous: set[Watch] = set()
        self.streams: set[Stream] = set()
        self.opened = False
        self.closed: Unavailable | None = None

    # --- what happens ---------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """It is known where the state is."""
        self.opened = True
        self._position = self.header().revision
        for stream in self.streams:
            stream.begin()

    def lost(self) -> None:
        """The store has lost writes, and what they had made: whoever followed must list again."""
        for watch in list(self._followed):
            self._refuse(watch, _lost(self.header()))
        self._recent.clear()
        self._recent_bytes = 0

    def written(self) -> None:
        """The revision may have grown."""
        if self._index:
            self._wake.set()

    def close(self, error: Unavailable) -> None:
        """Ends all streams."""
        self.closed = error
        if self._progress is not None:
            self._progress.cancel()
        for stream in list(self.streams):
            stream.end(error)

    # --- watches --------------------------------------------------------------------------------------------------------------------

    def follow(self, watch: Watch) -> None:
        """A watch begins. Its position is below 0 for what comes from now on."""
        revision = max(self.header().revision, self._position)
        self._followed.add(watch)
        if watch.previous:
            self._with_previous.add(watch)
        if not self._index:
            self._position = revision  # nobody has missed what the reader left out
        if watch.position > revision:
            self._refuse(watch, _future(watch.position + 1, revision))
            return
        if watch.position < 0:
            watch.position = revision
        watch.told = watch.position
        if not self._join(watch):
            watch.stream.has_news(watch)  # that it has begun
            self.read_on(watch)

    def leave(self, watch: Watch) -> None:
        """A watch ends."""
        self._followed.discard(watch)
        self._with_previous.discard(watch)
        self._index.remove(watch, watch.key, is_prefix=watch.is_prefix)
        watch.mode = Mode.ENDED
        watch.queue.clear()
        if not self._with_previous:
            self._recent.clear()
            self._recent_bytes = 0

    def read_on(self, watch: Watch) -> None:
        """A watch that is behind has room."""
        if not watch.in_turn:
            watch.in_turn = True
            self._behind.append(watch)
            self._wake_behind.set()

    def through(self, watch: Watch) -> int:
        """Up to which revision it has been handed everything."""
        return max(watch.position, self._position) if watch.mode is Mode.LIVE else watch.position

    def _join(self, watch: Watch) -> bool:
        """Goes over to the reader, if it has come so far."""
        if watch.position < self._position:
            return False
        if not self._index:
            self._position = watch.position  # nobody needs what lies between
        watch.mode = Mode.LIVE
        self._index.add(watch, watch.key, is_prefix=watch.is_prefix)
        watch.stream.has_news(watch)
        self._wake.set()
        self._arm_progress()
        return True

    def _refuse(self, watch: Watch, error: MusterError) -> None:
        self.leave(watch)
        watch.refusal = error
        watch.stream.has_news(watch)

    # --- the reader -----------------------------------------------------------------------------------------------------------------

    async def run_live(self) -> None:
        """Reads what is new, for all that have caught up. Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._index and self._position < self.header().revision:
                known = self.header().revision
                page = await self._read(self._position)
                if self._position < page.compact_revision - 1 or page.revision < known:
                    for watch in list(self._index):
                        self._refuse(watch, _compacted(self._position + 1, page))
                    self._position = max(known, page.revision)
                else:
                    await self._hand_out(page)

    async def _hand_out(self, page: EventPage) -> None:
        handed_out = 0
        for revision, events in groupby(page.events, _revision_of):
            for event in events:
                self._remember(event)
                for watch in self._index.concerned(event.key):
                    if (watch.position < revision or watch.taking == revision) and watch.wants(event):
                        handed_out += 1
                        self._hand(watch, event)
            self._position = max(self._position, revision)
            if handed_out >= DELIVERED_AT_ONCE:
                handed_out = 0
                await asyncio.sleep(0)
        self._position = max(self._position, page.through)

    def _hand(self, watch: Watch, event: Event) -> None:
        if watch.taking != event.revision and watch.is_full():
            watch.mode = Mode.BEHIND  # it reads on by itself once it has taken what it has
            watch.position = event.revision - 1
            self._index.remove(watch, watch.key, is_prefix=watch.is_prefix)
        else:
            watch.taking = event.revision
            watch.add(event)

    async def _read(self, after: int) -> EventPage:
        page = await keep_asking(lambda: self._store.events(self._namespace, after=after, limit=PAGE_EVENTS, max_bytes=PAGE_BYTES))
        self._seen(page.revision)
        return page

    # --- those behind ---------------------------------------------------------------------------------------------------------------

    async def run_behind(self) -> None:
        """Reads for those that are behind, a page a turn; whoever is within that page gets it as well. Until cancelled."""
        while True:
            await self._wake_behind.wait()
            self._wake_behind.clear()
            while self._behind:
                first = self._behind[0]
                if first.mode is not Mode.BEHIND:
                    self._behind.popleft()
                    continue
                after, known = first.position, self._position
                page = await self._read(after)
                self._catch_up(page, after, lost=page.revision < known)
                await asyncio.sleep(0)

    def _catch_up(self, page: EventPage, after: int, *, lost: bool) -> None:
        """Hands a page to whoever is within it. With `lost`, the store no longer has what the reader has seen."""
        turn, self._behind = self._behind, deque()
        had_its_turn: list[Watch] = []
        for place, watch in enumerate(turn):
            watch.in_turn = False
            if watch.mode is not Mode.BEHIND:
                continue
            if lost or watch.position < page.compact_revision - 1:
                self._refuse(watch, _compacted(watch.position + 1, page))
                continue
            if after <= watch.position <= page.through:
                self._fill(watch, page)
            if watch.is_full() or self._join(watch):
                continue
            watch.in_turn = True
            (self._behind if place else had_its_turn).append(watch)
        self._behind.extend(had_its_turn)
        for event in page.events:
            self._remember(event)

    def _fill(self, watch: Watch, page: EventPage) -> None:
        had, taking = watch.position, 0
        for event in page.events:
            if event.revision <= had:
                continue
            if event.revision != taking and watch.is_full():
                watch.position = event.revision - 1
                return
            taking = event.revision
            if watch.sees(event):
                watch.add(event)
        watch.position = max(watch.position, page.through)

    # --- progress -------------------------------------------------------------------------------------------------------------------

    def _arm_progress(self) -> None:
        if self._progress is None:
            self._progress = asyncio.get_running_loop().call_later(PROGRESS_S, self._tell_progress)

    def _tell_progress(self) -> None:
        self._progress = None
        if self._index and self.closed is None:
            for watch in self._index:
                if watch.told < self.through(watch):
                    watch.stream.has_news(watch)
            self._arm_progress()

    # --- what was there before ------------------------------------------------------------------------------------------------------

    def _remember(self, event: Event) -> None:
        if self._with_previous and event.entry is not None and (event.key, event.revision) not in self._recent:
            self._recent[event.key, event.revision] = event.entry
            self._recent_bytes += event_bytes(event)
            while self._recent_bytes > RECENT_BYTES:
                _, gone = self._recent.popitem(last=False)
                self._recent_bytes -= EVENT_BYTES + len(gone.key) + len(gone.value)

    async def before(self, event: Event) -> Entry | None:
        """What an event's key had before it, if it is still kept."""
        if not event.previous_revision:
            return None
        found = self._recent.get((event.key, event.previous_revision))
        if found is not None:
            return found
        return await keep_asking(lambda: self._store.entry_at(self._namespace, event.key, event.previous_revision))


def _compacted(wanted: int, page: EventPage) -> RevisionOutOfRange:
    return RevisionOutOfRange(
        f"revision {wanted} is no longer kept, the first that is is {page.compact_revision}: list the keys again, and watch from there",
        reason="COMPACTED",
        metadata={"compact_revision": str(page.compact_revision), "revision": str(page.revision)},
    )


def _lost(header: Header) -> RevisionOutOfRange:
    return RevisionOutOfRange(
        "the store has lost writes that were acknowledged: list the keys again, and watch from there",
        reason="COMPACTED",
        metadata={"compact_revision": str(header.revision), "revision": str(header.revision)},
    )


def _future(wanted: int, revision: int) -> RevisionOutOfRange:
    return RevisionOutOfRange(
        f"revision {wanted} hasn't come yet, the namespace is at {revision}: list the keys again, and watch from there",
        reason="FUTURE_REVISION",
        metadata={"revision": str(revision)},
    )
