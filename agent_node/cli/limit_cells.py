"""Limits in a cell of a table each."""

from muster.v1 import policy_pb2

TYPE_KEY = "task_type="


def concurrency_cells(policy: policy_pb2.Policy) -> tuple[str, str]:
    """A concurrency limit's key, and what it says."""
    limit = policy.concurrency_limit
    way = policy_pb2.WhenFull.Name(limit.when_full).removeprefix("WHEN_FULL_").lower().replace("_", "-")
    return limit.concurrency_key or TYPE_KEY + limit.task_type, f"{limit.max_running} running, when full {way}"


def rate_cells(policy: policy_pb2.Policy) -> tuple[str, str]:
    """A rate limit's key, and what it says."""
    limit = policy.rate_limit
    return limit.rate_key or TYPE_KEY + limit.task_type, f"{limit.count} in {limit.period.ToMilliseconds() / 1000:g} s"
