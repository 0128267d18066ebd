"""The single writer of a namespace's shared state: what gathers while one call to the store is under way goes into the next one.

It must not know what a command means, but for updates, whose values are computed here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from coordinator.engine.ownership import ShardLost
from coordinator.errors import InvalidRequest, LimitReached, MusterError, Unavailable
from coordinator.ids import Entropy
from coordinator.state.hot import Expected, HotEntries, Job, Unsettled, expected, job_of
from coordinator.state.json_patch import MISSING, Missing
from coordinator.state.model import Command, Delete, Entry, ExpireDue, Grant, Limits, Outcome, Put, RevokeLease, Transaction, Verdict
from coordinator.state.outages import Outage
from coordinator.state.ports import StateStore, WriteAnswer, Written
from coordinator.state.updates import Append, JsonPatch, MergePatch, SetAdd, SetRemove, Update

MAX_COMMANDS = 256  # of one call: some milliseconds of the store
MAX_CALL_BYTES = 4 * 1024 * 1024
MAX_QUEUED = 50_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024
_COMMAND_BYTES = 300  # of one beside its values, about


class Header(NamedTuple):
    """Where a namespace's state is: for every answer. One object serves all answers of one call to the store."""

    revision: int
    incarnation: str


WriteAnswered = Callable[[Verdict | MusterError, Header], None]


class Chores(Protocol):
    """What a namespace does by itself."""

    def due(self) -> Sequence[Command]:
        """What is to be done now."""

    def done(self, command: Command, verdict: Verdict) -> None:
        """What became of one of them."""


class Follower(Protocol):
    """Who is told of each call that was written."""

    def written(self, written: Written) -> None:
        """Everybody is answered, but for updates that are computed again."""

    def lost(self, revisions: int) -> None:
        """The store has lost writes, so many revisions at least: it has another incarnation."""

    def granted(self, grants: Sequence[Grant]) -> None:
        """Locks were handed on."""

    def look_up(self, job: Job, verdict: Verdict, answered: WriteAnswered) -> None:
        """Answers an update that had been done before with what it made."""


@dataclass(slots=True)
class _Queued:
    command: Command | Job
    answered: WriteAnswered
    number: int
    size: int


class Writer:
    """Writes what it is given, in order.

    Args:
        namespace: whose state.
        store: where it is.
        entropy: where nonces come from.
        limits: says what holds for the namespace now.
        hot: values of keys that are updated.
        outage: what is known of the store.
        chores: what the namespace does by itself.
        follower: who is told of what was written.
    """

    def __init__(
        self,
        *,
        namespace: str,
        store: StateStore,
        entropy: Entropy,
        limits: Callable[[], Limits],
        hot: HotEntries,
        outage: Outage,
        chores: Chores,
        follower: Follower,
    ) -> None:
        self._namespace = namespace
        self._store = store
        self._entropy = entropy
        self._limits = limits
        self._outage = outage
        self._chores = chores
        self._follower = follower
        self._queue: deque[_Queued] = deque()
        self._queued_bytes = 0
        self._number = 0  # of the last write that was taken
        self._under_way: list[_Queued] = []
        self._wake = asyncio.Event()
        self._is_behind = False  # the store has shown less than we know: it is written to, so that it goes on above that
        self._hot = hot
        self._space = hot.new_space()
        self._is_hot = False  # since something was updated: until then nobody looks at which keys are written
        self._loaded: dict[str, Entry | None] = {}  # read for the next call, however large
        self._written_revision = 0  # after the last call
        self.seen_revision = 0  # the highest one that anybody has seen
        self.header = Header(0, "")
        self.closed: Unavailable | None = None

    # --- taking -----------------------------------------------------------------------------------------------------------------

    def write(self, command: Command | Update, answered: WriteAnswered) -> int:
        """See StateEngine.write and StateEngine.update."""
        refusal = self._refusal()
        if refusal is None and isinstance(command, Update):
            try:
                return self._take(job_of(command), answered, _size(command))
            except InvalidRequest as error:
                refusal = error
        if refusal is not None:
            answered(refusal, self.header)
            return self._number
        assert not isinstance(command, Update)  # noqa: S101 - it was taken, or refused
        return self._take(command, answered, _size(command))

    def _refusal(self) -> MusterError | None:
        if self.closed is not None:
            return self.closed
        if self._outage.since_s is not None:
            return Unavailable("the store can't be reached: nothing new is taken until it is back")
        if len(self._queue) >= MAX_QUEUED:
            return _too_much("state_writes_queued", len(self._queue), MAX_QUEUED)
        if self._queued_bytes >= MAX_QUEUED_BYTES:
            return _too_much("state_bytes_queued", self._queued_bytes, MAX_QUEUED_BYTES)
        return None

    def _take(self, command: Command | Job, answered: WriteAnswered, size: int) -> int:
        self._number += 1
        self._queue.append(_Queued(command, answered, self._number, size))
        self._queued_bytes += size
        if not self._is_hot and isinstance(command, Job):
            self._is_hot = True
        self._wake.set()
        return self._number

    def store_is_behind(self) -> None:
        """The store has shown a revision below one that it had shown before: it has lost writes."""
        self._is_behind = True
        self._wake.set()

    def wake(self) -> None:
        """A chore is due."""
        self._wake.set()

    @property
    def taken(self) -> int:
        """The number of the last write that was taken."""
        return self._number

    @property
    def done(self) -> int:
        """All writes up to this number are answered."""
        if self._under_way:
            return self._under_way[0].number - 1
        return self._queue[0].number - 1 if self._queue else self._number

    def opened(self, header: Header, known: Header) -> None:
        """The state is there, and where it is; and where it was when it was last seen here, if it was."""
        self.header = header
        self._written_revision = self.seen_revision = header.revision
        if header.revision < known.revision and header.incarnation == known.incarnation:
            self.header = known  # as its first write will make it be: nobody is told of a revision that is used again
            self.seen_revision = known.revision
            self.store_is_behind()

    def seen(self, revision: int) -> None:
        """The store has shown a revision."""
        if revision > self.seen_revision:
            self.seen_revision = revision
            self.header = Header(revision, self.header.incarnation)

    def close(self, error: Unavailable) -> None:
        """Refuses what waits, and what comes."""
        self.closed = error
        waiting = [*self._under_way, *self._queue]
        self._under_way = []
        self._queue.clear()
        for queued in waiting:
            queued.answered(error, self.header)

    # --- writing ----------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Writes until cancelled. Raises ShardLost and StoreCorrupt."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_next()

    async def _write_next(self) -> None:
        call = _Call(self._space, self._hot, self._loaded, is_hot=self._is_hot)
        self._fill(call)
        chores = self._chores.due()
        cold = self._cold(call) if self._is_hot else []
        self._loaded = {}
        if self._queue:
            self._wake.set()
        loading = asyncio.get_running_loop().create_task(self._load(cold), name="state load") if cold else None
        try:
            if call.commands or chores or self._is_behind:
                await self._write(call, chores)
            if loading is not None:
                self._loaded = await loading
        finally:
            if loading is not None:
                loading.cancel()

    def _fill(self, call: "_Call") -> None:
        """Takes what fits, up to an update that can't be computed yet."""
        queue, size = self._queue, 0
        while queue and len(call.commands) < MAX_COMMANDS:
            queued = queue[0]
            if size and size + queued.size > MAX_CALL_BYTES:
                break
            grown = call.add(queued.command)
            if grown is None:
                break
            size += queued.size + grown
            self._queued_bytes -= queued.size
            self._under_way.append(queue.popleft())
            if _may_delete_many(queued.command):
                break

    def _cold(self, call: "_Call") -> list[str]:
        """The keys of the next updates that nothing is known of, and that this call doesn't change."""
        if call.touches_all:
            return []
        keys: dict[str, None] = {}
        for place, queued in enumerate(self._queue):
            if place >= MAX_COMMANDS:
                break
            if isinstance(queued.command, Job):
                key = queued.command.update.key
                if key not in call.touched and key not in call.expected and call.known(key) is MISSING:
                    keys[key] = None
        return list(keys)

    async def _load(self, keys: Sequence[str]) -> dict[str, Entry | None]:
        revision, entries = await self._outage.until_answered(lambda: self._store.get(self._namespace, keys))
        self.seen(revision)
        loaded = dict(zip(keys, entries, strict=False))  # fewer than were asked for when all would be too large
        for key, entry in loaded.items():
            self._hot.put(self._space, key, entry)
        return loaded

    async def _write(self, call: "_Call", chores: Sequence[Command]) -> None:
        commands, nonce, known_revision = [*call.commands, *chores], self._entropy.nonce(), self.seen_revision
        limits = self._limits()
        written = await self._outage.until_answered(
            lambda: self._store.write(self._namespace, commands, nonce=nonce, limits=limits, known_revision=known_revision)
        )
        if written.answer is WriteAnswer.FENCED:
            raise ShardLost(f"the shard of namespace {self._namespace!r} was taken over by another coordinator")
        self._is_behind = False
        before, self._written_revision = self._written_revision, written.revision
        incarnation, self.seen_revision = self.header.incarnation, max(self.seen_revision, written.revision)
        self.header = Header(self.seen_revision, written.incarnation)
        if incarnation and written.incarnation != incarnation:
            self._space = self._hot.new_space()
            self._follower.lost(max(written.lost, 1))
        self._settle(call, written.verdicts, before, limits.max_read_bytes)
        for chore, verdict in zip(chores, written.verdicts[len(call.commands) :], strict=True):
            if isinstance(chore, ExpireDue) and verdict.number:
                self._space = self._hot.new_space()
            self._chores.done(chore, verdict)
            self._follower.granted(verdict.grants)
        self._follower.written(written)

    def _settle(self, call: "_Call", verdicts: Sequence[Verdict], before: int, max_read_bytes: int) -> None:
        under_way, self._under_way = self._under_way, []
        if self._is_hot:
            self._remember(call, under_way, verdicts)
        again: list[_Queued] = []
        answers: list[tuple[WriteAnswered, Verdict | MusterError]] = []
        for queued, verdict in zip(under_way, verdicts, strict=False):
            if verdict.grants:
                self._follower.granted(verdict.grants)
            if verdict.outcome is Outcome.READ_TOO_LARGE and verdict.number < max_read_bytes:
                again.append(queued)  # too much only together with those before it: it did nothing
                continue
            if not isinstance(queued.command, Job):
                answers.append((queued.answered, verdict))
                continue
            settled = queued.command.settle(verdict, before)
            if settled is Unsettled.AGAIN:
                again.append(queued)
            elif settled is Unsettled.LOOK_UP:
                self._follower.look_up(queued.command, verdict, queued.answered)
            else:
                if isinstance(settled, Verdict) and settled.outcome is Outcome.DONE:
                    self._hot.put(self._space, queued.command.update.key, settled.entries[0])
                answers.append((queued.answered, settled))
        if again:
            self._queue.extendleft(reversed(again))
            self._queued_bytes += sum(queued.size for queued in again)
            self._wake.set()
        for answered, answer in answers:
            answered(answer, self.header)

    def _remember(self, call: "_Call", under_way: Sequence[_Queued], verdicts: Sequence[Verdict]) -> None:
        """Forgets what this call has changed. What its updates made comes anew with their verdicts."""
        if call.touches_all:
            self._space = self._hot.new_space()
        for key in call.touched:
            self._hot.drop(self._space, key)
        for key in call.expected:
            self._hot.drop(self._space, key)
        for queued, verdict in zip(under_way, verdicts, strict=False):
            if isinstance(queued.command, Job) and verdict.outcome is Outcome.COMPARE_FAILED:
                self._hot.put(self._space, queued.command.update.key, verdict.entries[0] if verdict.entries else None)


class _Call:
    """What goes into one call: for each key either updates, or whatever else writes it, so that what will be there is known."""

    def __init__(self, space: int, hot: HotEntries, loaded: dict[str, Entry | None], *, is_hot: bool) -> None:
        self._space = space
        self._hot = hot
        self._loaded = loaded
        self._is_hot = is_hot
        self.commands: list[Command] = []
        self.expected: dict[str, Expected] = {}  # of keys that updates of this call write
        self.touched: set[str] = set()  # of keys that anything else of it may write
        self.touches_all = False

    def add(self, command: Command | Job) -> int | None:
        """Takes a command in, and answers by how many bytes more than it came with; None if it must wait for the next call."""
        if isinstance(command, Job):
            return self._add_update(command)
        if self._is_hot and not self._touch(command):
            return None
        self.commands.append(command)
        return 0

    def _add_update(self, job: Job) -> int | None:
        key = job.update.key
        if self.touches_all or key in self.touched:
            return None
        before = self.expected.get(key)
        if before is None:
            entry = self.known(key)
            if isinstance(entry, Missing):
                return None
            before = expected(entry)
        if not before.can_be_compared:
            return None
        transaction, self.expected[key] = job.attempt(before)
        self.commands.append(transaction)
        return len(job.value)

    def known(self, key: str) -> Entry | Missing | None:
        """What a key had before this call; MISSING if it isn't known."""
        entry = self._hot.get(self._space, key)
        return self._loaded.get(key, MISSING) if isinstance(entry, Missing) else entry

    def _touch(self, command: Command) -> bool:
        """Notes which keys a command may write; False if updates of this call do."""
        if isinstance(command, RevokeLease):
            self.touches_all = True
        elif isinstance(command, Transaction):
            for op in (*command.then_ops, *command.else_ops):
                if isinstance(op, Put | Delete):
                    if op.key in self.expected:
                        return False
                    self.touched.add(op.key)
                    if isinstance(op, Delete) and op.prefix:
                        self.touches_all = True
        return not (self.touches_all and self.expected)


def _may_delete_many(command: Command | Job) -> bool:
    """Whether it may keep the store busy for longer than a whole call of others, some 60 ms."""
    if isinstance(command, Transaction):
        return any(isinstance(op, Delete) and op.prefix for op in (*command.then_ops, *command.else_ops))
    return isinstance(command, RevokeLease)


def _size(command: Command | Update) -> int:
    """Bytes of a command, about."""
    if isinstance(command, Transaction):
        values = sum(len(op.value) for op in (*command.then_ops, *command.else_ops) if isinstance(op, Put))
        return _COMMAND_BYTES + values + sum(len(compare.value) for compare in command.compares)
    if isinstance(command, Update):
        change = command.change
        match change:
            case MergePatch(patch) | JsonPatch(patch):
                return _COMMAND_BYTES + len(patch)
            case Append(items) | SetAdd(items) | SetRemove(items):
                return _COMMAND_BYTES + sum(map(len, items))
            case _:
                return _COMMAND_BYTES + len(change.number)
    return _COMMAND_BYTES


def _too_much(limit: str, used: int, allowed: int) -> LimitReached:
    return LimitReached(
        f"{used} wait to be written in this namespace ({limit}), and {allowed} may: try again shortly",
        limit=limit,
        used=used,
        allowed=allowed,
        retry_after_s=1.0,
    )
