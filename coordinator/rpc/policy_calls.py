"""The policies of a namespace, as AdminService sets, deletes and lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from muster.v1 import admin_pb2

from coordinator import convert_policies
from coordinator.core.policies import MAX_POLICIES, PolicyName, delete_policy, set_policy
from coordinator.errors import InvalidRequest, LimitReached
from coordinator.rpc.pages import PageToken, page_size
from coordinator.webhook_urls import WebhookRules

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard

MAX_PER_CALL = 1000


async def set_policies(
    shard: Shard, namespace: Namespace, request: admin_pb2.SetPoliciesRequest, rules: WebhookRules
) -> admin_pb2.SetPoliciesResponse:
    """Sets all of them, or none.

    Raises:
        InvalidRequest: one of them isn't right.
        LimitReached: the namespace would have too many.
        Unavailable: the store is out.
    """
    _check_count(request.policies, "policies")
    policies = [convert_policies.policy_in(one, f"policies[{place}]", rules) for place, one in enumerate(request.policies)]
    shard.require_store()
    scheduler = namespace.scheduler
    count = len(scheduler.state.policies.keys() | {policy.name for policy in policies})
    if count > MAX_POLICIES:
        raise LimitReached(
            f"the namespace would have {count} policies: at most {MAX_POLICIES} are allowed; delete some",
            limit="policies",
            used=len(scheduler.state.policies),
            allowed=MAX_POLICIES,
            retry_after_s=None,
        )
    now = shard.now()
    standing = [set_policy(scheduler, policy, now) for policy in policies]
    shard.decided(namespace, now)
    await shard.durable_write()
    return admin_pb2.SetPoliciesResponse(policies=map(convert_policies.standing_shown, standing))


async def delete_policies(shard: Shard, namespace: Namespace, request: admin_pb2.DeletePoliciesRequest) -> admin_pb2.DeletePoliciesResponse:
    """Deletes those that are there.

    Raises:
        InvalidRequest: a name isn't right; then none is deleted.
        Unavailable: the store is out.
    """
    _check_count(request.names, "names")
    names = [convert_policies.name_in(one, f"names[{place}]") for place, one in enumerate(request.names)]
    shard.require_store()
    now = shard.now()
    deleted = [name for name in names if delete_policy(namespace.scheduler, name, now)]
    shard.decided(namespace, now)
    await shard.durable_write()
    return admin_pb2.DeletePoliciesResponse(names=map(convert_policies.name_out, deleted))


async def list_policies(shard: Shard, namespace: Namespace, request: admin_pb2.ListPoliciesRequest) -> admin_pb2.ListPoliciesResponse:
    """A page of them, by kind and key.

    Raises:
        InvalidRequest: an unknown kind, or a negative page_size.
        CursorInvalid: a page_token of another request.
    """
    kind = convert_policies.kind_in(request.kind, "kind") if request.kind else None
    size = page_size(request.page_size)
    token = PageToken.parse(request.page_token, query=f"policies {request.kind}")
    standing = namespace.scheduler.state.policies
    names = sorted(name for name in standing if kind in (None, name.kind) and (not token.after or _place(name) > token.after))
    response = admin_pb2.ListPoliciesResponse(policies=[convert_policies.standing_shown(standing[name]) for name in names[:size]])
    if len(names) > size:
        response.next_page_token = PageToken(token.query, _place(names[size - 1])).text()
    await shard.durable()
    return response


def _place(name: PolicyName) -> str:
    return f"{name.kind.value:04}{name.key}"  # sorts as the names do


def _check_count(given: Sequence[object], field: str) -> None:
    if not 1 <= len(given) <= MAX_PER_CALL:
        raise InvalidRequest(f"{field} has {len(given)} entries: give 1 to {MAX_PER_CALL}", field=field)
