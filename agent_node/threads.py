"""Daemon threads that run plain handlers.

Not concurrent.futures: its threads are joined when the interpreter exits, so one handler that never returns would keep the process
alive after its drain.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class HandlerThreads:
    """Starts a thread when none is idle; whoever submits holds to the capacity.

    Args:
        name: all threads' name, for debuggers.
    """

    def __init__(self, *, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._unfinished = 0
        self._lock = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        """Runs `job`, which doesn't raise, in a thread."""
        with self._lock:
            self._unfinished += 1
            needed = self._unfinished > self._threads
            self._threads += needed
        self._jobs.put(job)
        if needed:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Ends each thread when its job is done. Doesn't wait."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                with self._lock:
                    self._unfinished -= 1
