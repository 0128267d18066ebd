"""What agents tell of themselves in shared state: a status and a progress each, for anybody to read and to watch.

Times are the store's; no agent's clock is written down.
"""

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_node.arguments import text, unencodable
from agent_node.errors import InvalidArgumentError, PayloadError
from agent_node.state.values import Entry, EventKind
from agent_node.typed import to_json

if TYPE_CHECKING:
    from agent_node.state.state import State

PREFIX, PRESENCE = "agents/", "/presence"
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What an agent says of itself.

    Args:
        status: a word of its own, such as "working".
        metadata: anything that JSON can hold.
        revision: of the write.
        update_time_ms: when, in milliseconds since 1970 by the store's clock; 0 when not told.
    """

    status: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0
    update_time_ms: int = 0


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """How far an agent is with a task.

    Args:
        current: units done.
        total: units in all; 0 when not known.
        task_id: with which task.
        revision: of the write.
        update_time_ms: when, in milliseconds since 1970 by the store's clock; 0 when not told.
    """

    current: float
    total: float = 0
    task_id: str = ""
    revision: int = 0
    update_time_ms: int = 0

    @property
    def percentage(self) -> float | None:
        """In percent, from 0 to 100; None when the total isn't known."""
        return None if self.total <= 0 else min(max(100.0 * self.current / self.total, 0.0), 100.0)


@dataclass(frozen=True, slots=True)
class AgentPresence:
    """A connected agent, as its coordinator writes it down.

    Args:
        capabilities: the task types that it can run, by name.
        labels: what its tasks may be placed by.
        max_concurrent_tasks: its capacity.
        sdk: what it is made with.
        since_time_ms: since when it is connected, in milliseconds since 1970 by the store's clock.
        revision: of the write.
    """

    capabilities: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    max_concurrent_tasks: int = 0
    sdk: str = ""
    since_time_ms: int = 0
    revision: int = 0


class AgentState:
    """One agent's corner of shared state.

    The agent writes the keys `agents/ID/status` and `agents/ID/progress`. Its coordinator writes `agents/ID/presence` when it connects, and
    deletes it when it leaves; should the coordinator be gone, it ends some time after the next one has started, if the agent isn't back.

    Args:
        agent_id: the agent's name.
        state: where it is: `client.state`, or `ctx.state` in a handler.

    Raises:
        InvalidArgumentError: the name is empty or holds a slash.
    """

    def __init__(self, agent_id: str, state: "State") -> None:
        if not text("agent_id", agent_id) or "/" in agent_id:
            raise InvalidArgumentError("agent_id", f"is {agent_id!r}: give a name, without a slash")
        self.agent_id = agent_id
        self._state = state
        self._status_key = f"{PREFIX}{agent_id}/status"
        self._progress_key = f"{PREFIX}{agent_id}/progress"
        self._presence_key = f"{PREFIX}{agent_id}{PRESENCE}"

    async def update_status(self, status: str, metadata: Mapping[str, Any] | None = None) -> int:
        """Says how the agent is, in place of what it said before. Returns the revision. Errors as of `State.put`.

        Args:
            status: a word of its own.
            metadata: anything that JSON can hold.
        """
        return await self._put(self._status_key, {"status": text("status", status), "metadata": dict(metadata or {})}, about="metadata")

    async def get_status(self) -> AgentStatus | None:
        """What the agent said last; None when it has said nothing. PayloadError when something else is there, as of all that reads here."""
        entry = await self._state.get(self._status_key)
        return None if entry is None else _status(entry)

    async def update_progress(self, current: float, total: float = 0, task_id: str = "") -> int:
        """Says how far the agent is with a task. Returns the revision. Errors as of `State.put`.

        Args:
            current: units done.
            total: units in all; 0 when not known.
            task_id: with which task.
        """
        for name, number in (("current", current), ("total", total)):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise TypeError(f"{name} is {number!r}: give a number")
            if not math.isfinite(number) or number < 0:
                raise InvalidArgumentError(name, f"is {number}: give a number of units, at least 0")
        return await self._put(
            self._progress_key, {"current": current, "total": total, "task_id": text("task_id", task_id)}, about="task_id"
        )

    async def get_progress(self) -> TaskProgress | None:
        """How far the agent said it is; None when it has said nothing."""
        entry = await self._state.get(self._progress_key)
        return None if entry is None else _progress(entry)

    async def get_presence(self) -> AgentPresence | None:
        """What is known of the agent while it is connected; None when it isn't."""
        entry = await self._state.get(self._presence_key)
        return None if entry is None else _presence(entry)

    async def watch_presence(self) -> AsyncIterator[AgentPresence | None]:
        """Whether it is connected, then every coming and going; None is gone. Errors as of `State.watch`."""
        async for entry in self._follow(self._presence_key):
            yield None if entry is None else _presence(entry)

    async def watch_status(self) -> AsyncIterator[AgentStatus | None]:
        """The present status, then every new one; None is none. Errors as of `State.watch`."""
        async for entry in self._follow(self._status_key):
            yield None if entry is None else _status(entry)

    async def watch_progress(self) -> AsyncIterator[TaskProgress | None]:
        """The present progress, then every new one; None is none. Errors as of `State.watch`."""
        async for entry in self._follow(self._progress_key):
            yield None if entry is None else _progress(entry)

    async def _put(self, key: str, value: Mapping[str, Any], *, about: str) -> int:
        try:
            data = to_json(value)
        except (TypeError, ValueError) as error:
            raise unencodable(about, error) from None
        return await self._state.put(key, data, content_type=_JSON)

    async def _follow(self, key: str) -> AsyncIterator[Entry | None]:
        async with self._state.watch(key) as watch:
            present = await self._state.get(key)  # read after the watch has begun: a change in between is seen twice at worst, and skipped
            seen = present.revision if present else 0
            yield present
            async for event in watch:
                if event.revision > seen:
                    yield event.entry if event.kind is EventKind.PUT else None


def _read(entry: Entry, what: str, *needed: str) -> dict[str, Any]:
    """A value, as this module writes it. Raises PayloadError for one that something else has written there."""
    try:
        value = entry.json()
    except ValueError:
        value = None
    if not isinstance(value, dict) or not value.keys() >= set(needed):
        raise PayloadError(f"the key {entry.key!r} holds no agent's {what}: something else was written there at revision {entry.revision}")
    return value


def _status(entry: Entry) -> AgentStatus:
    value = _read(entry, "status", "status")
    return AgentStatus(value["status"], value.get("metadata") or {}, entry.revision, entry.write_time_ms)


def _progress(entry: Entry) -> TaskProgress:
    value = _read(entry, "progress", "current")
    return TaskProgress(value["current"], value.get("total", 0), value.get("task_id", ""), entry.revision, entry.write_time_ms)


def _presence(entry: Entry) -> AgentPresence:
    value = _read(entry, "presence", "capabilities")
    return AgentPresence(
        tuple(value["capabilities"]),
        value.get("labels") or {},
        value.get("max_concurrent_tasks", 0),
        value.get("sdk", ""),
        value.get("since_time_ms", 0),
        entry.revision,
    )
