"""Circuit breakers in a cell of a table each."""

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2, policy_pb2


def breaker_line(breakers: Sequence[agent_pb2.Breaker]) -> str:
    """An agent's breakers beside its state; empty when all are closed."""
    said = {agent_pb2.BREAKER_STATE_OPEN: "open", agent_pb2.BREAKER_STATE_HALF_OPEN: "half-open"}
    shown = [f"{breaker.task_type or 'all'} {said[breaker.state]}" for breaker in breakers if breaker.state in said]
    return f" (breakers: {', '.join(shown)})" if shown else ""


def breaker_cells(policy: policy_pb2.Policy) -> tuple[str, str]:
    """A breaker policy's key, and what it sets."""
    said = []
    for field, value in policy.breaker.ListFields():
        if field.name != "task_type":
            shown = f"{value.ToMilliseconds() / 1000:g} s" if isinstance(value, Duration) else f"{value:g}"
            said.append(f"{field.name} {shown}")
    return policy.breaker.task_type, ", ".join(said)
