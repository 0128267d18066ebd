"""Who waits for a lock here. The line is in the store; nobody here asks whether it has moved: the call that hands a lock on says so.

While somebody waits here, its place is kept alive; once it is gone, the place ends by its own time to live.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from coordinator.errors import MusterError, Unavailable
from coordinator.state.model import AcquireLock, Command, ConfirmLock, Grant, Outcome, Verdict
from coordinator.state.writer import Header, WriteAnswered

SIGNS_OF_LIFE = 3  # in a waiter's time to live

_WAITS_ON = Verdict(Outcome.WAITING)


@dataclass(slots=True, eq=False)
class LockWait:
    """Somebody who waits for a lock here."""

    acquire: AcquireLock
    answered: WriteAnswered
    forget: Callable[[], None]
    """The caller is gone: it gets no answer. Its place in the line stays until its time to live is over, so it may come back."""
    ends: asyncio.TimerHandle | None = None
    keeps: asyncio.TimerHandle | None = None
    asking: bool = False  # the store is being asked for it, or told that it was granted
    granted: int = 0  # by a token that is to be confirmed
    over: bool = False  # answered, or forgotten


class LockWaits:
    """Of one namespace.

    Args:
        write: writes a command: Writer.write.
        header: where the state is.
    """

    def __init__(self, *, write: Callable[[Command, WriteAnswered], int], header: Callable[[], Header]) -> None:
        self._write = write
        self._header = header
        self._waits: dict[tuple[str, str], LockWait] = {}

    def lock(self, acquire: AcquireLock, wait_s: float, answered: WriteAnswered) -> LockWait:
        """See StateEngine.lock."""
        wait = LockWait(acquire, answered, forget=lambda: self._leave(wait))
        place = (acquire.name, acquire.waiter_id)
        if (earlier := self._waits.get(place)) is not None:
            self._answer(earlier, _WAITS_ON, self._header())
        self._waits[place] = wait
        if acquire.wait:
            wait.ends = asyncio.get_running_loop().call_later(wait_s, self._end, wait)
        self._ask(wait)
        return wait

    def granted(self, grants: Sequence[Grant]) -> None:
        """Locks were handed on: those who wait for them here confirm it."""
        for grant in grants:
            wait = self._waits.get((grant.name, grant.waiter_id))
            if wait is not None:
                wait.granted = grant.token
                if not wait.asking:
                    self._confirm(wait)

    def ask_again(self) -> None:
        """After an outage: what was granted meanwhile may have been told to nobody."""
        for wait in list(self._waits.values()):
            if not wait.asking:
                self._ask(wait)

    def close(self, error: Unavailable) -> None:
        """Nobody waits here any longer."""
        for wait in list(self._waits.values()):
            self._answer(wait, error, self._header())

    def _ask(self, wait: LockWait) -> None:
        wait.asking = True
        self._write(wait.acquire, lambda verdict, header: self._asked(wait, verdict, header))

    def _asked(self, wait: LockWait, verdict: Verdict | MusterError, header: Header) -> None:
        wait.asking = False
        if wait.over:
            return
        if wait.granted and not (isinstance(verdict, Verdict) and verdict.outcome is Outcome.DONE):
            self._confirm(wait)
        elif _waits_on(wait, verdict):
            self._keep(wait)
        else:
            self._answer(wait, verdict, header)

    def _confirm(self, wait: LockWait) -> None:
        wait.asking = True
        token, wait.granted = wait.granted, 0
        self._write(ConfirmLock(wait.acquire.name, token), lambda verdict, header: self._confirmed(wait, token, verdict, header))

    def _confirmed(self, wait: LockWait, token: int, verdict: Verdict | MusterError, header: Header) -> None:
        wait.asking = False
        if wait.over:
            return
        if isinstance(verdict, Verdict) and verdict.outcome is Outcome.DONE:
            self._answer(wait, replace(verdict, revision=token), header)
        elif isinstance(verdict, Unavailable):
            self._keep(wait)
        else:  # it came too late: the lock went to the next one
            self._ask(wait)

    def _keep(self, wait: LockWait) -> None:
        if wait.keeps is not None:
            wait.keeps.cancel()
        wait.keeps = asyncio.get_running_loop().call_later(wait.acquire.ttl_ms / 1000 / SIGNS_OF_LIFE, self._keep_now, wait)

    def _keep_now(self, wait: LockWait) -> None:
        if not wait.asking:
            self._ask(wait)

    def _end(self, wait: LockWait) -> None:
        if not wait.asking:  # else it is answered with what comes of that
            self._answer(wait, _WAITS_ON, self._header())
        else:
            wait.acquire = replace(wait.acquire, wait=False)

    def _leave(self, wait: LockWait) -> None:
        wait.over = True
        for timer in (wait.ends, wait.keeps):
            if timer is not None:
                timer.cancel()
        place = (wait.acquire.name, wait.acquire.waiter_id)
        if self._waits.get(place) is wait:
            del self._waits[place]

    def _answer(self, wait: LockWait, verdict: Verdict | MusterError, header: Header) -> None:
        if not wait.over:
            self._leave(wait)
            wait.answered(verdict, header)


def _waits_on(wait: LockWait, verdict: Verdict | MusterError) -> bool:
    if isinstance(verdict, Verdict):
        return verdict.outcome is Outcome.WAITING and wait.acquire.wait
    return isinstance(verdict, Unavailable) and wait.keeps is not None  # it has a place, which is kept again after the outage
