"""Shared state for code without an event loop: State's methods, blocking; all but the watches."""

import builtins
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from agent_node.client.loop_thread import LoopThread
from agent_node.client.tasks import Payload
from agent_node.state.locks import Lease, Lock
from agent_node.state.state import MAX_RETRIES
from agent_node.state.txn import Txn, TxnResult
from agent_node.state.values import Entry, LockInfo, StateEvent, StateStats

if TYPE_CHECKING:
    from agent_node.state.state import State

T = TypeVar("T")


class BlockingLock:
    """A lock for `with state.lock("name") as lock`: see `State.lock`.

    A loss can't interrupt the block: the next write inside raises LockLost, and so does `check`.
    """

    def __init__(self, loop_thread: LoopThread, make: Callable[[], Lock]) -> None:
        self._loop_thread = loop_thread
        self._make = make
        self._lock: Lock | None = None

    @property
    def token(self) -> int:
        """The fencing token; 0 before it is held."""
        return self._lock.token if self._lock else 0

    def check(self) -> None:
        """Raises LockLost when it is known to be lost."""
        if self._lock is not None:
            self._lock.check()

    def __enter__(self) -> Self:
        self._lock = lock = self._loop_thread.run(self._acquire())
        lock.enter_context()
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.leave_context()
            self._loop_thread.run(self._lock.release())

    async def _acquire(self) -> Lock:
        lock = self._make()
        await lock.acquire()
        return lock


class BlockingLease:
    """A lease for `with state.lease(30) as lease`: see `State.lease`."""

    def __init__(self, loop_thread: LoopThread, lease: Lease) -> None:
        self._loop_thread = loop_thread
        self.lease = lease

    @property
    def lease_id(self) -> int:
        """Its id."""
        return self.lease.lease_id

    def revoke(self) -> None:
        """Ends it, and deletes its keys."""
        self._loop_thread.run(self.lease.revoke())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.lease.lost.is_set():
            self.revoke()


class BlockingState:
    """A namespace's shared state, from `BlockingClient.state`. Methods take and raise what those of `State` do.

    Args:
        loop_thread: where the asynchronous one runs.
        make: makes the asynchronous one, in that thread.
    """

    def __init__(self, loop_thread: LoopThread, make: "Callable[[], State]") -> None:
        self._loop_thread = loop_thread
        self._make = make

    def get(self, key: str) -> Entry | None:
        """One key as it is now; None when it isn't there."""
        return self._run(lambda state: state.get(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        """Those of these keys that are there, all as of one revision."""
        return self._run(lambda state: state.get_many(keys))

    def list(self, prefix: str = "", *, page_size: int = 0, keys_only: bool = False) -> Iterator[Entry]:
        """The keys with this prefix, by name, fetched page by page as they are read."""
        return self._loop_thread.iterate(lambda: self._make().list(prefix, page_size=page_size, keys_only=keys_only))

    def history(self, key: str, *, page_size: int = 0) -> Iterator[StateEvent]:
        """What has happened to a key, the oldest first, as far back as is kept."""
        return self._loop_thread.iterate(lambda: self._make().history(key, page_size=page_size))

    def stats(self) -> StateStats:
        """How much the namespace holds."""
        return self._run(lambda state: state.stats())

    def put(
        self,
        key: str,
        value: Payload,
        *,
        content_type: str | None = None,
        ttl_s: float | None = None,
        lease: BlockingLease | int | None = None,
        if_revision: int | None = None,
        fenced: bool = False,
    ) -> int:
        """Sets a key, and returns the revision of that, when it is durable; see `State.put`."""
        lease_id = lease.lease_id if isinstance(lease, BlockingLease) else lease
        return self._run(
            lambda state: state.put(
                key, value, content_type=content_type, ttl_s=ttl_s, lease=lease_id, if_revision=if_revision, fenced=fenced
            )
        )

    def delete(self, key: str, *, if_revision: int | None = None, fenced: bool = False) -> bool:
        """Deletes a key, and says whether it was there."""
        return self._run(lambda state: state.delete(key, if_revision=if_revision, fenced=fenced))

    def delete_prefix(self, prefix: str, *, fenced: bool = False) -> int:
        """Deletes all keys with this prefix, in one revision, and says how many there were."""
        return self._run(lambda state: state.delete_prefix(prefix, fenced=fenced))

    def txn(self, *, fenced: bool = False) -> "BlockingTxn":
        """A transaction to build; see `State.txn`."""
        return BlockingTxn(self._loop_thread, self._loop_thread.run(self._txn(fenced)))

    def merge_patch(self, key: str, patch: Mapping[str, Any], *, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Changes a JSON value by a merge patch (RFC 7396)."""
        return self._run(lambda state: state.merge_patch(key, patch, if_revision=if_revision, fenced=fenced))

    def json_patch(
        self, key: str, operations: Iterable[Mapping[str, Any]], *, if_revision: int | None = None, fenced: bool = False
    ) -> Entry:
        """Changes a JSON value by a patch (RFC 6902)."""
        return self._run(lambda state: state.json_patch(key, operations, if_revision=if_revision, fenced=fenced))

    def add(self, key: str, number: float = 1, *, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Adds to a number."""
        return self._run(lambda state: state.add(key, number, if_revision=if_revision, fenced=fenced))

    def append(self, key: str, *items: Any, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Appends to a JSON list."""
        return self._run(lambda state: state.append(key, *items, if_revision=if_revision, fenced=fenced))

    def set_add(self, key: str, *items: Any, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Adds to a JSON list those items that it hasn't got."""
        return self._run(lambda state: state.set_add(key, *items, if_revision=if_revision, fenced=fenced))

    def set_remove(self, key: str, *items: Any, if_revision: int | None = None, fenced: bool = False) -> Entry:
        """Takes items out of a JSON list."""
        return self._run(lambda state: state.set_remove(key, *items, if_revision=if_revision, fenced=fenced))

    def atomic_update(
        self,
        key: str,
        fn: Callable[[Entry | None], Payload],
        *,
        max_retries: int = MAX_RETRIES,
        lock: bool = False,
        content_type: str | None = None,
        fenced: bool = False,
    ) -> Entry:
        """Sets a key to what a function makes of it; see `State.atomic_update`. The function runs in the client's thread."""
        return self._run(
            lambda state: state.atomic_update(key, fn, max_retries=max_retries, lock=lock, content_type=content_type, fenced=fenced)
        )

    def lease(self, ttl_s: float) -> BlockingLease:
        """A lease that keys can end with; see `State.lease`."""
        return BlockingLease(self._loop_thread, self._run(lambda state: state.lease(ttl_s)))

    def lock(self, name: str, *, ttl_s: float = 15.0, wait_s: float | None = None) -> BlockingLock:
        """A lock, for `with state.lock("name")`; see `State.lock`, and `BlockingLock` for what differs."""
        return BlockingLock(self._loop_thread, lambda: self._make().lock(name, ttl_s=ttl_s, wait_s=wait_s))

    def locks(self, prefix: str = "") -> builtins.list[LockInfo]:
        """The locks that are held or waited for."""
        return self._run(lambda state: state.locks(prefix))

    def compact(self, revision: int) -> None:
        """Forgets the history before a revision."""
        self._run(lambda state: state.compact(revision))

    def _run(self, call: "Callable[[State], Coroutine[Any, Any, T]]") -> T:
        async def run() -> T:
            return await call(self._make())

        return self._loop_thread.run(run())

    async def _txn(self, fenced: bool) -> Txn:  # noqa: FBT001 - passed on
        return self._make().txn(fenced=fenced)


class BlockingTxn:
    """A transaction to build and to `commit`: Txn's methods."""

    def __init__(self, loop_thread: LoopThread, txn: Txn) -> None:
        self._loop_thread = loop_thread
        self._txn = txn

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._txn, name)

        def build(*args: Any, **options: Any) -> "BlockingTxn":
            if isinstance(lease := options.get("lease"), BlockingLease):
                options["lease"] = lease.lease
            method(*args, **options)
            return self

        return build

    def commit(self) -> TxnResult:
        """Makes it happen, or not; see `Txn.commit`."""
        return self._loop_thread.run(self._txn.commit())
