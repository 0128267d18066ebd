"""Namespaces as AdminService lists them, and the end of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.v1 import admin_pb2

from coordinator import convert
from coordinator.engine.deletion import delete_namespace
from coordinator.engine.shard import DEFAULT_NAMESPACE
from coordinator.errors import InvalidRequest, PreconditionFailed, Unavailable
from coordinator.ports import StoreCorrupt, StoreOutage
from coordinator.rpc.pages import PageToken, page_size

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard
    from coordinator.rpc.everywhere import Others
    from coordinator.rpc.shards import Shards

_LIST = "/muster.v1.AdminService/ListNamespaces"


async def list_namespaces(
    shards: Shards, others: Others, request: admin_pb2.ListNamespacesRequest, context: Any
) -> admin_pb2.ListNamespacesResponse:
    """A page of all namespaces, of all shards whoever owns them.

    Raises:
        Unavailable: a shard isn't served, or a coordinator doesn't answer.
    """
    size = page_size(request.page_size)
    token = PageToken.parse(request.page_token, query="namespaces")
    ours = [shard for shard in shards.all if shard.number in others.ours()]
    asked = await others.ask(_LIST, request, admin_pb2.ListNamespacesResponse, context)
    for shard in ours:
        shard.require_served()
    found = {name: (shard, shard.namespaces[name]) for shard in ours for name in shard.namespaces if name > token.after}
    listed = [namespace_view(*found[name]) for name in sorted(found)[: size + 1]]
    listed += [namespace for answer in asked for namespace in answer.namespaces]
    listed.sort(key=lambda namespace: namespace.name)
    response = admin_pb2.ListNamespacesResponse(namespaces=listed[:size])
    if len(listed) > size or any(answer.next_page_token for answer in asked):
        response.next_page_token = PageToken("namespaces", listed[size - 1].name).text()
    shown = {namespace.shard for namespace in listed[:size]}
    for shard in ours:
        if shard.number in shown:
            await shard.durable()
    return response


def namespace_view(shard: Shard, namespace: Namespace) -> admin_pb2.Namespace:
    """A namespace as callers see it."""
    return admin_pb2.Namespace(name=namespace.name, create_time=convert.timestamp(namespace.created_ms), shard=shard.number)


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
