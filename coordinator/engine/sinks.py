"""Where released effects go: the streams of agents and clients, as the engine sees them. The rpc layer implements these."""

from typing import Protocol

from coordinator.core.effects import Assign, DrainSession, StopAttempt
from coordinator.core.model import Task
from coordinator.errors import Unavailable


class Stream(Protocol):
    """What ends when the shard is no longer served here."""

    def close(self, error: Unavailable) -> None:
        """End it with this."""

    def gone(self, message: str) -> None:
        """End it for good: its namespace was deleted."""


class AgentSink(Protocol):
    """An agent's stream. Nothing here blocks: what is handed over is sent when the stream is free."""

    def assign(self, effect: Assign) -> None:
        """Send an assignment."""

    def stop(self, effect: StopAttempt) -> None:
        """Tell the agent to stop an attempt."""

    def drain(self, effect: DrainSession) -> None:
        """Ask the agent to end."""

    def supersede(self, message: str) -> None:
        """End the stream: a newer session has the agent's name."""

    def close(self, error: Unavailable) -> None:
        """End the stream: the shard is not served here any more, or not yet again."""

    def gone(self, message: str) -> None:
        """End the stream for good: its namespace was deleted."""


class ClientStream(Stream, Protocol):
    """A client's stream."""

    namespace_name: str


class ClientSink(ClientStream, Protocol):
    """A client's session, waiting for tasks to end."""

    def result(self, task: Task) -> None:
        """A task that it waits for has ended."""

    def recorded(self, task_id: str, record: bytes) -> None:
        """A task that it waits for had ended before: its record says how."""
