"""Shared state as a program uses it: keys and values with revisions, updates that count once, watches, leases and locks."""

import asyncio
import builtins
import dataclasses
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from muster.v1.state_pb2 import StateAnswer, StateOp

from agent_node.arguments import count, function, no_text, text, unencodable
from agent_node.backoff import Backoff
from agent_node.client.tasks import Payload, encode_payload
from agent_node.errors import ConflictError, InvalidArgumentError
from agent_node.ids import own_identity
from agent_node.state import wire
from agent_node.state.link import StateLink
from agent_node.state.locks import Lease, Lock, held_locks, lease_id_of
from agent_node.state.txn import Txn
from agent_node.state.values import Author, Entry, EventKind, LockInfo, StateEvent, StateStats
from agent_node.state.watches import StateWatch
from agent_node.typed import to_json

Change = Callable[[Entry | None], Payload | Awaitable[Payload]]
"""What `atomic_update` makes the next value with: of the present entry, None where there is none. It may be called several times."""

MAX_RETRIES = 64
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.05  # between tries of an atomic update: a commit takes about 2 ms


class State:
    """A namespace's shared state. Get it from `client.state`, or in a handler from `ctx.state`, which fills in who writes.

    Values are bytes as they are, text as UTF-8, and anything else as JSON. A call made twice because its connection broke counts once.
    Writes inside `async with state.lock(...)` carry the lock's token, so that the store refuses them once the lock is lost.

    Every method raises RefusedError (or a subclass) for what the coordinator refuses, ValueError or TypeError for what is wrong in itself,
    and UnavailableError when it can't be reached; a write that ended with UnavailableError may have been made all the same.

    Args:
        connect: gives the connection, which belongs to the running event loop.
        author: who writes.
        attempt: the task's id and the fence of the attempt that `fenced` writes are tied to; None outside of handlers.
    """

    def __init__(self, connect: Callable[[], StateLink], *, author: Author | None = None, attempt: tuple[str, int] | None = None) -> None:
        self._connect = connect
        self._author = author or Author(client=own_identity())
        self._attempt = attempt

    @property
    def _link(self) -> StateLink:
        return self._connect()

    # reading

    async def get(self, key: str) -> Entry | None:
        """One key as it is now; None when it isn't there.

        Args:
            key: its name, 1 byte to 1 KiB of UTF-8.
        """
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Those of these keys that are there, all as of one revision."""
        answer = await self._link.session.call(wire.get_op(keys))
        return {entry.key: entry for entry in wire.entries_got(answer)}

    async def list(self, prefix: str = "", *, page_size: int = 0, keys_only: bool = False) -> AsyncIterator[Entry]:
        """The keys with this prefix, by name, fetched page by page as they are read.

        Args:
            prefix: what the keys begin with; empty is all.
            page_size: keys per call; 0 is the coordinator's default.
            keys_only: without values.
        """
        token = ""
        while True:
            answer = await self._link.session.call(wire.list_op(prefix, page_size=page_size, page_token=token, keys_only=keys_only))
            entries, token = wire.listed(answer)
            for entry in entries:
                yield entry
            if not token:
                return

    async def history(self, key: str, *, page_size: int = 0) -> AsyncIterator[StateEvent]:
        """What has happened to a key, the oldest first, as far back as is kept: who wrote what, when, from which task and attempt.

        Args:
            key: its name.
            page_size: events per call; 0 is the coordinator's default.
        """
        token = ""
        while True:
            answer = await self._link.session.call(wire.history_op(key, page_size=page_size, page_token=token))
            events, token = wire.history_of(answer)
            for event in events:
                yield event
            if not token:
                return

    async def stats(self) -> StateStats:
        """How much the namespace holds, at which revision, and up to which one history is compacted."""
        return wire.stats_of(await self._link.session.call(wire.stats_op()))

    # writing

    async def put(
        self,
        key: str,
        value: Payload,
        *,
        content_type: str | None = None,
        ttl_s: float | None = None,
        lease: Lease | int | None = None,
        if_revision: int | None = None,
        fenced: bool = False,
    ) -> int:
        """Sets a key, and returns the revision of that, when it is durable.

        Args:
            key: its name.
            value: its value.
            content_type: the value's media type; by default the one that fits its Python type.
            ttl_s: seconds after which it is deleted; None is never. Not beside `lease`.
            lease: what it ends with.
            if_revision: only if this is the revision of the key's last write; 0: only if there is no such key.
            fenced: only while the attempt that this handler runs is the current one.

        Raises:
            ConflictError: `if_revision` didn't hold; `entry` is what is there.
            LockLost: a lock that this write is inside of is no longer held.
            AttemptLostError: `fenced`, and the attempt is no longer current.
        """
        data, usual_type = encode_payload(value, name="value")
        op = wire.put_op(key, data, usual_type if content_type is None else content_type, ttl_s=ttl_s, lease_id=lease_id_of(lease))
        return wire.revision_of(await self.write(op, key=key, if_revision=if_revision, fenced=fenced))

    async def delete(self, key: str, *, if_revision: int | None = None, fenced: bool = False) -> bool:
        """Deletes a key, and says whether it was there. Arguments and errors as of `put`."""
        answer = await self.write(wire.delete_op(key), key=key, if_revision=if_revision, fenced=fenced)
        return wire.deleted_count(answer) > 0

    async def delete_prefix(self, prefix: str, *, fenced: bool = False) -> int:
        """Deletes all keys with this prefix, in one revision, and says how many there were.

        Args:
            prefix: what the keys begin with; not empty.
            fenced: as of `put`.
        """
        if not text("prefix", prefix):
            raise InvalidArgumentError("prefix", "is empty, which is every key of the namespace: give what the keys to delete begin with")
        return wire.deleted_count(await self.write(wire.delete_op(prefix, prefix=True), fenced=fenced))

    def txn(self, *, fenced: bool = False) -> Txn:
        """A transaction to build: conditions, what to do if all hold, and what if not. All of it happens in one revision, or nothing.

        Args:
            fenced: as of `put`.
        """
        return Txn(self, fenced=fenced)

    # updates, computed where the key is

    async def merge_patch(self, key: str, patch: Mapping[str, Any], *, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Changes a JSON value by a merge patch (RFC 7396): what is None goes. A key that isn't there begins as {}. Returns the new entry.

        Args:
            key: its name.
            patch: the members to set, and those to take out.
            if_revision: as of `put`.
            fenced: as of `put`.
        """
        if not isinstance(patch, Mapping):
            raise TypeError(f"patch is {patch!r}: give a dict of the members to set")
        return await self._update(wire.merge_patch_op(key, _as_json("patch", patch)), key, if_revision, fenced=fenced)

    async def json_patch(
        self, key: str, operations: Iterable[Mapping[str, Any]], *, if_revision: int | None = None, fenced: bool = False
    ) -> Entry:
        """Changes a JSON value by a patch (RFC 6902), all of it or nothing. Returns the new entry.

        Args:
            key: its name.
            operations: such as `{"op": "replace", "path": "/state", "value": "done"}`.
            if_revision: as of `put`.
            fenced: as of `put`.
        """
        if isinstance(operations, Mapping):
            raise TypeError(f"operations is {operations!r}: give a list of them, even if it is one")
        no_text("operations", operations)
        return await self._update(
            wire.json_patch_op(key, _as_json("operations", builtins.list(operations))), key, if_revision, fenced=fenced
        )

    async def add(self, key: str, number: float = 1, *, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Adds to a number. A key that isn't there begins at 0. Returns the new entry: `(await state.add("count")).json()`.

        Args:
            key: its name.
            number: what to add; an int stays exact, of any size.
            if_revision: as of `put`.
            fenced: as of `put`.
        """
        return await self._update(wire.add_op(key, number), key, if_revision, fenced=fenced)

    async def append(self, key: str, *items: Any, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Appends to a JSON list. A key that isn't there begins as []. Returns the new entry. Arguments as of `add`."""
        return await self._update(wire.append_op(key, _items(items)), key, if_revision, fenced=fenced)

    async def set_add(self, key: str, *items: Any, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Adds to a JSON list those items that it hasn't got. A key that isn't there begins as []. Returns the new entry."""
        return await self._update(wire.set_add_op(key, _items(items)), key, if_revision, fenced=fenced)

    async def set_remove(self, key: str, *items: Any, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Takes items out of a JSON list. Returns the new entry."""
        return await self._update(wire.set_remove_op(key, _items(items)), key, if_revision, fenced=fenced)

    async def atomic_update(
        self,
        key: str,
        fn: Change,
        *,
        max_retries: int = MAX_RETRIES,
        lock: bool = False,
        content_type: str | None = None,
        fenced: bool = False,
    ) -> Entry:
        """Sets a key to what a function makes of it, with nothing lost in between: when somebody else was faster, it is called again.

        What `add`, `append` and the patches can do needs no function, and is many times faster on a busy key.

        Args:
            key: its name.
            fn: makes the next value of the present entry, None where there is none. Plain or async; called again after each conflict, so it
                must not do anything else that counts. On a busy key the entry is what is just being written, and its `revision` is still 0.
            max_retries: conflicts before it gives up.
            lock: take turns under a lock of the key's name, for a function that is slow or dear to call.
            content_type: as of `put`.
            fenced: as of `put`.

        Returns:
            The new entry.

        Raises:
            ConflictError: there were more than `max_retries` conflicts.
            What `fn` raises: nothing is written then.
        """
        function("fn", fn)
        text("key", key)
        count("max_retries", max_retries)
        if lock:
            async with self.lock(f"atomic_update/{key}"):
                return await self.atomic_update(key, fn, max_retries=max_retries, content_type=content_type, fenced=fenced)

        async def change(entry: Entry | None) -> StateOp:
            made = fn(entry)
            value: Any = await made if inspect.isawaitable(made) else made
            data, usual_type = encode_payload(value, name="value")
            return wire.put_op(key, data, usual_type if content_type is None else content_type)

        backoff: Backoff | None = None  # made when it is needed: drawing a random source takes longer than all the rest
        for tries in range(max_retries + 1):
            if tries > 1:
                backoff = backoff or Backoff(first_s=_FIRST_PAUSE_S, limit_s=_LONGEST_PAUSE_S)
                await asyncio.sleep(backoff.next_s())
            entry = await self._link.updates.once(
                key, read=lambda: self.get(key), change=change, write=lambda op: self.write(op, fenced=fenced)
            )
            if entry is not None:
                return dataclasses.replace(entry, author=self._author)
        raise ConflictError(f"{key!r} was changed by somebody else at each of {max_retries + 1} tries", entry=await self.get(key))

    # watching

    def watch(
        self,
        key: str = "",
        *,
        prefix: str | None = None,
        start_revision: int | None = None,
        previous: bool = False,
        kinds: Iterable[EventKind] = (),
    ) -> StateWatch:
        """Follows a key, or all keys with a prefix: an asynchronous iterator of events, in order, each once, over broken connections too.

        It begins at once: use it as `async with state.watch(...) as watch`, and what is written inside is seen. Leaving the block, or
        `aclose`, ends it.

        Args:
            key: one key.
            prefix: instead of it, what the keys begin with; "" is all.
            start_revision: the first revision to see; None is what comes from now on.
            previous: events have the entry before, too.
            kinds: only events of these kinds, such as `{EventKind.DELETED, EventKind.EXPIRED}`; none is all.

        Raises:
            ValueError: not exactly one of key and prefix is given.
            CompactedError: while iterating: the revisions from `start_revision` on are no longer kept. List the keys, and watch again.
            UnavailableError: while iterating: it could not be resumed within the client's `give_up_s`, or the client was closed.
        """
        if bool(key) == (prefix is not None):
            raise ValueError("give a key or a prefix, and not both")
        return self._link.watches.open(
            text("key", key) if prefix is None else text("prefix", prefix),
            is_prefix=prefix is not None,
            start_revision=count("start_revision", start_revision or 0),
            previous=previous,
            kinds=_kinds(kinds),
        )

    async def subscribe(
        self, key: str, callback: Callable[[StateEvent], object], *, prefix: bool = False, previous: bool = False
    ) -> "asyncio.Task[None]":
        """Calls a function with every change of a key from now on, wherever it is made. Returns when nothing can be missed any more.

        Args:
            key: the key.
            callback: plain or async; the next event waits until it has returned. What it raises ends the subscription.
            prefix: all keys that begin with `key`.
            previous: as of `watch`.

        Returns:
            The task that does it: cancel it to end the subscription, await it to see how it ended.
        """
        function("callback", callback)
        watch = self.watch("" if prefix else key, prefix=key if prefix else None, previous=previous)
        await watch.started()

        async def call() -> None:
            async with watch:
                async for event in watch:
                    answer = callback(event)
                    if inspect.isawaitable(answer):
                        await answer

        return asyncio.get_running_loop().create_task(call(), name=f"muster-state-subscription {key}")

    # leases and locks

    async def lease(self, ttl_s: float) -> Lease:
        """A lease that keys can end with, kept alive by itself until it is revoked or its block is left.

        Args:
            ttl_s: how many seconds after the last sign of life of this program its keys are deleted.
        """
        lease = Lease(self._link, ttl_s)
        await lease.grant()
        return lease

    def lock(self, name: str, *, ttl_s: float = 15.0, wait_s: float | None = None) -> Lock:
        """A lock, for `async with state.lock("name") as lock`. Who waits is served first come, first served.

        Writes of this state made inside the block carry `lock.token`, and the store refuses them (LockLost) once somebody else may hold the
        lock. As soon as it can't be renewed, the block is cancelled, and LockLost comes out of it.

        Args:
            name: the lock's.
            ttl_s: seconds after the last sign of life of this program until the next one gets it.
            wait_s: how many seconds to wait for it at most; None waits as long as it takes.

        Raises:
            TimeoutError: `wait_s` was not enough.
            LockLost: it was lost inside the block.
        """
        return Lock(self._link, text("name", name), ttl_s=ttl_s, wait_s=wait_s, author=self._author)

    async def locks(self, prefix: str = "") -> builtins.list[LockInfo]:
        """The locks that are held or waited for, with holders and waiters.

        Args:
            prefix: those whose names begin with it.
        """
        found: builtins.list[LockInfo] = []
        token = ""
        while True:
            page, token = wire.locks_of(await self._link.session.call(wire.locks_op(prefix, page_token=token)))
            found += page
            if not token:
                return found

    async def compact(self, revision: int) -> None:
        """Forgets the history before a revision. Keys and their values stay.

        Args:
            revision: the first one to keep.
        """
        await self._link.session.call(wire.compact_op(revision), writes=True)

    async def write(self, op: StateOp, *, key: str = "", if_revision: int | None = None, fenced: bool = False) -> StateAnswer:
        """For what builds on it: makes a write by whoever this state speaks for, inside the locks that are held.

        Raises:
            ConflictError: `if_revision` didn't hold.
        """
        if fenced and self._attempt is None:
            raise ValueError("only a handler's ctx.state has an attempt that a write can be tied to")
        wire.stamp(op, self._author, held_locks(self._link), self._attempt if fenced else None, if_revision)
        answer = await self._link.session.call(op, writes=True)
        if if_revision is not None and wire.conflicts(answer):
            raise ConflictError(f"{key!r} is at another revision than {if_revision}: read it again", entry=wire.conflicting_entry(answer))
        return answer

    async def _update(self, op: StateOp, key: str, if_revision: int | None, *, fenced: bool) -> Entry:
        return wire.entry_updated(await self.write(op, key=key, if_revision=if_revision, fenced=fenced))


def _kinds(kinds: Iterable[EventKind]) -> frozenset[EventKind]:
    no_text("kinds", kinds)
    found = frozenset(kinds)
    for kind in found:
        if not isinstance(kind, EventKind):
            raise TypeError(f"kinds has {kind!r}: give members of EventKind")
    return found


def _as_json(name: str, value: object) -> bytes:
    try:
        return to_json(value)
    except (TypeError, ValueError) as error:
        raise unencodable(name, error) from None


def _items(items: Iterable[object]) -> builtins.list[bytes]:
    return [_as_json("an item", item) for item in items]
