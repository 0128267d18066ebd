"""Values from any thread to one event loop: however many gather, the loop is woken once."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Delivers in the order of `put`, in the thread of `loop`, all that has gathered at a time.

    Waking another thread's loop costs a system call and a fight for the interpreter; a task costs a tenth of that. What goes in
    is bounded by its users: an attempt's end once, its reports once until they are taken.

    Args:
        loop: whose thread receives.
        deliver: called there with what gathered, never with nothing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[T] = deque()
        self._woken = False

    def put(self, item: T) -> None:
        """Hands `item` over; from any thread. Once the loop is closed nobody is left to receive it, and it is dropped."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._empty)
            except RuntimeError:
                if not self._loop.is_closed():
                    raise

    def put_all(self, items: list[T]) -> None:
        """Hands several over at once."""
        if items:
            self._items.extend(items[:-1])
            self.put(items[-1])

    def _empty(self) -> None:
        self._woken = False  # before the first item is taken: a later one wakes the loop again
        items = [self._items.popleft() for _ in range(len(self._items))]
        if items:
            self._deliver(items)
