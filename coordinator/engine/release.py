"""Carries out what a commit set off, once it is durable."""

from collections.abc import Callable, Iterable, Mapping

from coordinator.core.effects import (
    Assign,
    ChunkEmitted,
    CloseSession,
    DrainSession,
    Effect,
    ProgressMade,
    StopAttempt,
    TaskChanged,
    TaskEnded,
    WatchOpened,
    WebhookDue,
)
from coordinator.core.model import Task
from coordinator.core.webhooks import Delivery
from coordinator.engine.commits import PendingCommit
from coordinator.engine.namespace import Namespace
from coordinator.engine.records import RecordReader
from coordinator.engine.sinks import AgentSink


class Releaser:
    """Tells agents, clients and watchers of a shard what was decided.

    Args:
        namespaces: the shard's, by name.
        deleted: those that were deleted: what was decided before is still told.
        agent_sinks: ways to its agents, by session.
        records: who is looking for ended tasks: one is in memory until nobody is that began before it ended.
        webhooks_due: takes what is to be delivered.
    """

    def __init__(
        self,
        *,
        namespaces: Mapping[str, Namespace],
        deleted: Mapping[str, Namespace | None],
        agent_sinks: Mapping[str, AgentSink],
        records: RecordReader,
        webhooks_due: Callable[[Namespace, Iterable[Delivery]], None],
    ) -> None:
        self._namespaces = namespaces
        self._deleted = deleted
        self._agent_sinks = agent_sinks
        self._records = records
        self._webhooks_due = webhooks_due

    def release(self, commit: PendingCommit) -> None:
        """The commit is durable: carries out what was decided, in order, and lets the answers go."""
        sinks = self._agent_sinks
        for name, effect in commit.effects:
            if type(effect) is Assign:
                sink = sinks.get(effect.session)
                if sink is not None:
                    sink.assign(effect)
            elif type(effect) is TaskEnded:
                namespace = self._namespaces.get(name) or self._deleted.get(name)
                if namespace is not None:
                    self._ended(namespace, effect.task)
            else:
                self._carry_out(name, effect)
        for answer in commit.answers:
            answer()
        for waiter in commit.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _ended(self, namespace: Namespace, task: Task) -> None:
        if self._records.idle():
            namespace.scheduler.state.settle(task)
        else:
            state = namespace.scheduler.state
            self._records.when_unneeded(lambda: state.settle(task))
        namespace.deliver(task)

    def _carry_out(self, name: str, effect: Effect) -> None:
        namespace = self._namespaces.get(name) or self._deleted.get(name)
        if namespace is None:  # whoever had a stream to it has been told that it was deleted
            return
        match effect:
            case TaskChanged() | ChunkEmitted() | ProgressMade():
                namespace.watches.publish(effect)
            case WebhookDue():
                self._webhooks_due(namespace, (effect.delivery,))
            case WatchOpened():
                effect.begin()
            case StopAttempt():
                self._to_agent(effect.session, lambda sink: sink.stop(effect))
            case DrainSession():
                self._to_agent(effect.session, lambda sink: sink.drain(effect))
            case CloseSession():
                self._to_agent(effect.session, lambda sink: sink.supersede(effect.message))
            case Assign() | TaskEnded():
                raise AssertionError("they are many, and go first in release")

    def _to_agent(self, session: str, tell: Callable[[AgentSink], None]) -> None:
        sink = self._agent_sinks.get(session)
        if sink is not None:
            tell(sink)
