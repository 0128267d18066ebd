"""AdminService's policies over gRPC: set, listed and deleted, over restarts, and what bad requests get."""

import grpc
import pytest
from muster.v1 import admin_pb2, policy_pb2

from coordinator.rpc import policy_calls
from tests.support.hosted import MemoryShard, hosted
from tests.support.refusals import refusal

WEIGHT = policy_pb2.POLICY_KIND_WEIGHT


def weight(key, number):
    return policy_pb2.Policy(weight=policy_pb2.WeightPolicy(fairness_key=key, weight=number))


async def put(muster, *policies):
    return (await muster.admin.SetPolicies(admin_pb2.SetPoliciesRequest(policies=policies))).policies


async def listed(muster, **options):
    answer = await muster.admin.ListPolicies(admin_pb2.ListPoliciesRequest(**options))
    return [(one.weight.fairness_key, one.weight.weight) for one in answer.policies], answer.next_page_token


async def test_they_are_there_after_a_restart():
    data = MemoryShard()
    async with hosted(data=data) as muster:
        [first, second] = await put(muster, weight("b", 2), weight("a", 3))
        assert (first.weight.fairness_key, second.weight.weight) == ("b", 3)
        assert first.set_time.seconds > 1_000_000_000
        await put(muster, weight("a", 4), weight("c", 1), weight("a", 5))
    async with hosted(data=data) as muster:
        assert await listed(muster) == ([("a", 5), ("b", 2), ("c", 1)], "")
        names = [policy_pb2.PolicyName(kind=WEIGHT, key=key) for key in ("b", "nobody", "b")]
        answer = await muster.admin.DeletePolicies(admin_pb2.DeletePoliciesRequest(names=names))
        assert list(answer.names) == names[:1]
    async with hosted(data=data) as muster:
        assert await listed(muster, kind=WEIGHT) == ([("a", 5), ("c", 1)], "")


async def test_they_come_in_pages(muster):
    await put(muster, *(weight(key, 1) for key in "abc"))
    first, token = await listed(muster, page_size=2)
    second, end = await listed(muster, page_size=2, page_token=token)
    assert ([key for key, _ in first + second], end) == (["a", "b", "c"], "")


async def test_all_or_none(muster):
    refused = await refusal(put(muster, weight("a", 1), weight("b", -1)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == ["policies[1].weight.weight"]
    assert await listed(muster) == ([], "")


@pytest.mark.parametrize(
    "request_message, field",
    [
        (admin_pb2.SetPoliciesRequest(), "policies"),
        (admin_pb2.SetPoliciesRequest(policies=[weight("a", 1)] * 1001), "policies"),
        (admin_pb2.SetPoliciesRequest(policies=[policy_pb2.Policy()]), "policies[0]"),
        (admin_pb2.DeletePoliciesRequest(), "names"),
        (admin_pb2.DeletePoliciesRequest(names=[policy_pb2.PolicyName(key="a")]), "names[0].kind"),
        (admin_pb2.ListPoliciesRequest(kind=77), "kind"),
        (admin_pb2.ListPoliciesRequest(page_size=-1), "page_size"),
        (admin_pb2.ListPoliciesRequest(page_token="?"), "page_token"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(muster, request_message, field):
    method = getattr(muster.admin, type(request_message).__name__.removesuffix("Request"))
    refused = await refusal(method(request_message))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == [field]


async def test_there_are_not_too_many(muster, monkeypatch):
    monkeypatch.setattr(policy_calls, "MAX_POLICIES", 2)
    await put(muster, weight("a", 1), weight("b", 1))
    await put(muster, weight("a", 2), weight("b", 2))
    refused = await refusal(put(muster, weight("c", 1)))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await listed(muster))[0] == [("a", 2), ("b", 2)]
