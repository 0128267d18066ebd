"""The end of a namespace, as AdminService brings it about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.v1 import admin_pb2

from coordinator.engine.deletion import delete_namespace
from coordinator.engine.shard import DEFAULT_NAMESPACE
from coordinator.errors import InvalidRequest, PreconditionFailed, Unavailable
from coordinator.ports import StoreCorrupt, StoreOutage

if TYPE_CHECKING:
    from coordinator.engine.shard import Shard


async def delete(shard: Shard, request: admin_pb2.DeleteNamespaceRequest) -> admin_pb2.DeleteNamespaceResponse:
    """Deletes a namespace, or says what that would come to.

    Raises:
        InvalidRequest: it is the default one.
        NotFound: it doesn't exist.
        PreconditionFailed: it has live tasks, and the caller doesn't insist.
        Unavailable: the store can't be reached.
    """
    if request.name == DEFAULT_NAMESPACE:
        raise InvalidRequest(f"namespace {DEFAULT_NAMESPACE!r} can't be deleted: callers that name none use it", field="name")
    shard.require_store()
    namespace = shard.namespace(request.name)
    await shard.durable()
    try:
        retained = await shard.store.count_ended(namespace.name)
    except (StoreOutage, StoreCorrupt) as error:
        raise Unavailable(f"the store can't be read now ({error}): try again") from error
    scheduler = namespace.scheduler
    live = len(scheduler.state.tasks)
    response = admin_pb2.DeleteNamespaceResponse(live_tasks=live, retained_tasks=retained, agents=len(scheduler.load.agents))
    if request.dry_run:
        return response
    if live and not request.force:
        raise PreconditionFailed(
            f"namespace {namespace.name!r} has live tasks ({live}): wait for them, cancel them, or set force: it cancels them, too",
            reason="NAMESPACE_NOT_EMPTY",
            metadata={"live_tasks": str(live)},
        )
    delete_namespace(shard, namespace)
    await shard.durable_write()
    return response
