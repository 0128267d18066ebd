"""The limits of a namespace and how much of each is in use, as AdminService lists them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from muster.v1 import admin_pb2

from coordinator import convert, convert_policies
from coordinator.core.limit_use import LimitUse, Place, page_of_limits, place_of
from coordinator.errors import CursorInvalid
from coordinator.rpc.pages import PageToken, page_size

if TYPE_CHECKING:
    from coordinator.engine.namespace import Namespace
    from coordinator.engine.shard import Shard


async def list_limits(shard: Shard, namespace: Namespace, request: admin_pb2.ListLimitsRequest) -> admin_pb2.ListLimitsResponse:
    """A page of them, by policy and key.

    Raises:
        InvalidRequest: a negative page_size.
        CursorInvalid: a page_token of another request.
    """
    size = page_size(request.page_size)
    token = PageToken.parse(request.page_token, query="limits")
    uses = page_of_limits(namespace.scheduler, _place(token.after), size + 1, shard.now().date_ms)
    response = admin_pb2.ListLimitsResponse(limits=map(_view, uses[:size]))
    if len(uses) > size:
        response.next_page_token = PageToken(token.query, json.dumps(place_of(uses[size - 1]))).text()
    await shard.durable()
    return response


def _place(text: str) -> Place:
    if not text:
        return 0, "", ""
    try:
        kind, policy_key, key = json.loads(text)
        return int(kind), str(policy_key), str(key)
    except (ValueError, TypeError):
        raise CursorInvalid("page_token isn't one that this request handed out: begin without one", field="page_token") from None


def _view(use: LimitUse) -> admin_pb2.LimitUse:
    message = admin_pb2.LimitUse(
        policy=convert_policies.standing_out(use.standing), key=use.key, running=use.running, waiting=use.waiting, started=use.started
    )
    if use.next_ms:
        message.next_time.CopyFrom(convert.timestamp(use.next_ms))
    return message
