"""Leases that keep themselves alive, and locks whose token goes with every write made under them.

A program that was stopped for longer than a lease (a debugger, a sleeping laptop) can't know that in time; so what it writes under a lock
carries the token, and the store refuses it. Renewals here only make the loss known early.
"""

import asyncio
import contextvars
from contextlib import suppress
from types import TracebackType
from typing import Self

from agent_node.clock import now_s
from agent_node.connection import duration
from agent_node.errors import LockLost, MusterError, RefusedError, UnavailableError
from agent_node.ids import new_waiter_id
from agent_node.state import wire
from agent_node.state.link import StateLink
from agent_node.state.values import Author

RENEWALS = 3  # in a lease
_ASKED_S = 30.0  # an answer comes at least so often, so that a dead coordinator isn't waited for

_held: contextvars.ContextVar[tuple["Lock", ...]] = contextvars.ContextVar("muster_held_locks", default=())


def held_locks(link: StateLink) -> list[tuple[str, int]]:
    """The names and tokens of the locks that the running code is inside of, on this connection.

    Raises:
        LockLost: one of them is known to be lost.
    """
    held = _held.get()
    if not held:
        return []
    mine = [lock for lock in held if lock.link is link and not lock.released]
    for lock in mine:
        lock.check()
    return [(lock.name, lock.token) for lock in mine]


def lease_id_of(lease: "Lease | int | None") -> int:
    """The id of a lease that a key may end with; 0 is none."""
    return lease.lease_id if isinstance(lease, Lease) else lease or 0


class Lease:
    """What keys can end with. As `async with await state.lease(30) as lease` it is revoked, and its keys deleted, with the block.

    Args:
        link: the connection.
        ttl_s: seconds that it lasts without a sign of life.
    """

    def __init__(self, link: StateLink, ttl_s: float) -> None:
        self._link = link
        self.ttl_s = ttl_s
        self.lease_id = 0
        self.lost = asyncio.Event()  # it ended without us
        self._keeper: asyncio.Task[None] | None = None

    async def grant(self) -> None:
        """Asks for it, and begins to keep it alive."""
        self.lease_id = wire.lease_granted(await self._link.session.call(wire.grant_lease_op(self.ttl_s), writes=True))
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"muster-state-lease {self.lease_id}")

    async def keep_alive(self) -> None:
        """One sign of life; nothing that is needed, for they are sent by themselves. Raises RefusedError when the lease has ended."""
        await self._link.session.call(wire.keep_lease_op(self.lease_id))

    async def revoke(self) -> None:
        """Ends it, and deletes its keys."""
        self.stop()
        await self._link.session.call(wire.revoke_lease_op(self.lease_id), writes=True)

    def stop(self) -> None:
        """Keeps it alive no longer: it ends by itself."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.lost.is_set():
            await self.revoke()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self.ttl_s / RENEWALS)
            try:
                await self.keep_alive()
            except UnavailableError:
                continue
            except RefusedError:
                self.lost.set()
                return


class Lock:
    """One acquisition of a lock: see `State.lock`. `token` is its fencing token, which grows with every acquisition by anybody.

    Args:
        link: the connection.
        name: the lock's.
        ttl_s: how long it is believed in without a sign of life.
        wait_s: how long to wait for it; None is as long as it takes.
        author: who takes it.
    """

    def __init__(self, link: StateLink, name: str, *, ttl_s: float, wait_s: float | None, author: Author) -> None:
        self.link = link
        self.name = name
        self.token = 0
        self.ttl_s = ttl_s
        self.released = False  # what is still inside of it by its context is so no longer
        self._wait_s = wait_s
        self._author = author
        self._waiter_id = new_waiter_id()
        self._body: asyncio.Task[object] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._reset: contextvars.Token[tuple[Lock, ...]] | None = None
        self._loss: LockLost | None = None
        self._interrupted = False
        self._asked = False
        self._believed_until_s = 0.0

    @property
    def lost(self) -> bool:
        """Whether it is known to be lost."""
        return self._loss is not None

    def check(self) -> None:
        """Raises LockLost when it is known to be lost."""
        if self._loss is not None:
            raise self._loss

    async def __aenter__(self) -> Self:
        await self.acquire()
        self._body = asyncio.current_task()
        self.enter_context()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave_context()
        body, self._body = self._body, None
        await self.release()
        if self._interrupted and body is not None and body.uncancel() <= 0 and isinstance(error, asyncio.CancelledError):
            raise self._loss_or_unknown() from None

    def enter_context(self) -> None:
        """From now on the running code is inside of it. `async with` does that."""
        self._reset = _held.set((*_held.get(), self))

    def leave_context(self) -> None:
        """It is no longer. `async with` does that."""
        if self._reset is not None:
            with suppress(ValueError):  # elsewhere than it was entered: a generator that was left in the middle is closed by the event loop
                _held.reset(self._reset)
            self._reset = None

    async def acquire(self) -> None:
        """Waits for it. `async with` does that.

        Raises:
            TimeoutError: it took longer than `wait_s`.
            RuntimeError: it was asked for before.
        """
        if self._asked:  # its token may be somebody else's by now, and its waiter's id is used up
            raise RuntimeError(f"this is one acquisition of the lock {self.name!r}, already used: call state.lock() for each block")
        for name, seconds in (("ttl_s", self.ttl_s), ("wait_s", self._wait_s or 0.0)):
            duration(seconds, name=name)
        self._asked = True
        give_up_s = None if self._wait_s is None else now_s() + self._wait_s
        try:
            while not self.token:
                wait_s = _ASKED_S if give_up_s is None else min(max(give_up_s - now_s(), 0.0), _ASKED_S)
                op = wire.lock_op(self.name, waiter_id=self._waiter_id, ttl_s=self.ttl_s, wait_s=wait_s, author=self._author)
                token = wire.lock_granted(await self.link.session.call(op))
                if token is None and give_up_s is not None and now_s() >= give_up_s:
                    self._forget()
                    raise TimeoutError(
                        f"the lock {self.name!r} was not free in {self._wait_s:g} s; `muster state locks` shows who holds it"
                    )
                self.token = token or 0
        except asyncio.CancelledError:
            self._forget()
            raise
        self._believed_until_s = now_s() + self.ttl_s
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"muster-state-lock {self.name}")

    async def release(self) -> None:
        """Lets it go; one that is lost already is just forgotten. `async with` does that."""
        self.released = True
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if self.token and self._loss is None:
            try:
                await self.link.session.call(wire.unlock_op(self.name, self.token), writes=True)
            except RefusedError as error:
                self._loss = _as_lost(self.name, error)
                if self._body is None:
                    return
            except UnavailableError:
                return  # it ends with its lease

    async def _keep(self) -> None:
        """Renews the lock until it is lost. Every wait ends in time to say so before somebody else can have it."""
        period_s = self.ttl_s / RENEWALS
        while True:
            await asyncio.sleep(period_s)
            asked_s = now_s()
            try:
                async with asyncio.timeout(max(self._believed_until_s - asked_s, 0.0)):
                    await self.link.session.call(wire.keep_lock_op(self.name, self.token))
            except (TimeoutError, UnavailableError):
                if now_s() >= self._believed_until_s:
                    self._lose(LockLost(f"the lock {self.name!r} could not be renewed for {self.ttl_s:g} s: somebody else may hold it"))
                    return
            except MusterError as error:
                self._lose(_as_lost(self.name, error))
                return
            else:
                self._believed_until_s = asked_s + self.ttl_s

    def _lose(self, loss: LockLost) -> None:
        self._loss = loss
        if self._body is not None and not self._body.done():
            self._interrupted = True
            self._body.cancel(str(loss))

    def _loss_or_unknown(self) -> LockLost:
        return self._loss or LockLost(f"the lock {self.name!r} is lost")

    def _forget(self) -> None:
        """A waiter that was cancelled gives its place up, without anybody waiting for that."""
        task = asyncio.get_running_loop().create_task(self._leave(), name=f"muster-state-lock {self.name} leaving")
        _leaving.add(task)
        task.add_done_callback(_leaving.discard)

    async def _leave(self) -> None:
        try:
            await self.link.session.call(wire.leave_lock_op(self.name, self._waiter_id), writes=True)
        except MusterError:
            return  # the lease ends it


_leaving: set["asyncio.Task[None]"] = set()


def _as_lost(name: str, error: MusterError) -> LockLost:
    return error if isinstance(error, LockLost) else LockLost(f"the lock {name!r} is lost: {error}")
