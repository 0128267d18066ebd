"""Namespaces that are deleted: gone at once for every caller, and bit by bit from the store.

A shard's `deleted` has their names until nothing of them is left there. So long none of such a name can be made: whatever is found under
it would be the old one's. The value is the namespace while its deletion isn't durable yet: then nothing may be removed. A deletion is
journalled when it begins and when it is done, and stands in snapshots in between, so that whoever takes over after a crash goes on with it.
"""

import logging

from coordinator.core.effects import StopAttempt
from coordinator.core.events import NamespaceDeleted
from coordinator.engine.namespace import Namespace
from coordinator.engine.shard import Shard

log = logging.getLogger(__name__)


def delete_namespace(shard: Shard, namespace: Namespace) -> None:
    """Deletes a namespace with all that it holds. Answers to whoever asked wait for the commit, as always.

    Raises:
        Unavailable: the shard was rebuilt since the namespace was looked up.
        NotFound: somebody else has deleted it.
    """
    shard.require_current(namespace)
    name = namespace.name
    del shard.namespaces[name]
    shard.deleted[name] = namespace
    shard.journal(name, NamespaceDeleted(purged=False))
    shard.when_durable(lambda: _is_durable(shard, namespace))


def _is_durable(shard: Shard, namespace: Namespace) -> None:
    """From now on nothing brings it back: whoever has a stream to it is told, and its records may go."""
    name = namespace.name
    message = f"namespace {name!r} was deleted"
    for agent in namespace.scheduler.load.agents.values():
        sink = shard.agent_sinks.get(agent.session)
        if sink is None:
            continue
        for attempt in agent.running.values():
            sink.stop(StopAttempt(agent.session, attempt.task.spec.task_id, attempt.task.fence, message, lost=True))
        sink.gone(message)
    for client in [one for one in shard.client_streams if one.namespace_name == name]:
        client.gone(message)
    namespace.gone(message)
    shard.state.forget(name)
    if shard.deleted.get(name) is namespace:
        shard.deleted[name] = None
    log.info("namespace.deleted shard=%d namespace=%s", shard.number, name)


async def purge(shard: Shard, name: str, *, limit: int, calls: int) -> None:
    """Removes some of what the store holds of a deleted namespace, once that is durable.

    Args:
        shard: where it was.
        name: its name.
        limit: how many ended tasks a call removes at most.
        calls: how many calls are made at most.

    Raises:
        StoreOutage: the store can't be reached.
        StoreCorrupt: it answered something that must not be.
    """
    for _ in range(calls):
        if name not in shard.deleted or shard.deleted[name] is not None:
            return
        if not (await shard.store.purge_namespace(name, limit=limit) or await shard.state.purge(name, limit=limit)):
            if name in shard.deleted and shard.outage_since_s is None:
                shard.journal(name, NamespaceDeleted(purged=True))
                del shard.deleted[name]
                log.info("namespace.purged shard=%d namespace=%s", shard.number, name)
            return
