"""A namespace as its shard runs it: the scheduler, and who waits for what."""

from collections.abc import Callable

from coordinator.core.model import Task
from coordinator.core.scheduler import Scheduler
from coordinator.engine.sinks import ClientSink
from coordinator.engine.watches import WatchRegistry
from coordinator.errors import Unavailable


class Namespace:
    """One namespace of a shard.

    Args:
        name: its name.
        scheduler: its scheduler.
        created_ms: when it was created, by the store's clock.
    """

    def __init__(self, *, name: str, scheduler: Scheduler, created_ms: int) -> None:
        self.name = name
        self.scheduler = scheduler
        self.created_ms = created_ms
        self.watches = WatchRegistry(scheduler)
        self._waiting: dict[str, ClientSink | list[ClientSink]] = {}  # nearly always one, so nearly never a list
        self._let_go: list[Callable[[], None]] = []

    def when_over(self, let_go: Callable[[], None]) -> None:
        """Calls `let_go` once nothing more is decided here: whoever holds on to all these tasks then needs them no longer."""
        self._let_go.append(let_go)

    def close(self, error: Unavailable) -> None:
        """The shard is not served here any more, or is rebuilt with another object in its place."""
        self.watches.close(error)
        self._over()

    def gone(self, message: str) -> None:
        """It was deleted, and that is durable."""
        self.watches.gone(message)
        self._over()

    def _over(self) -> None:
        for let_go in self._let_go:
            let_go()
        self._let_go.clear()

    def wait_for(self, task_id: str, sink: ClientSink) -> None:
        """Has `sink` told when the task ends."""
        others = self._waiting.setdefault(task_id, sink)
        if others is sink:
            return
        if isinstance(others, list):
            if sink not in others:
                others.append(sink)
        else:
            self._waiting[task_id] = [others, sink]

    def leave(self, task_id: str, sink: ClientSink) -> None:
        """`sink` doesn't wait for the task any more."""
        others = self._waiting.get(task_id)
        if others is sink:
            del self._waiting[task_id]
        elif isinstance(others, list) and sink in others:
            others.remove(sink)
            if not others:
                del self._waiting[task_id]

    def deliver(self, task: Task) -> None:
        """A task's end is durable: whoever waits for it is told."""
        waiting = self._waiting.pop(task.spec.task_id, None)
        if waiting is None:
            return
        if isinstance(waiting, list):
            for sink in waiting:
                sink.result(task)
        else:
            waiting.result(task)
