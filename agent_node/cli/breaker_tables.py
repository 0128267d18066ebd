"""Circuit breakers as tables."""

from collections.abc import Iterable, Sequence

from muster.v1 import agent_pb2
from rich.table import Table
from rich.text import Text

from agent_node.cli.tables import new_table, short_name
from agent_node.cli.times import NONE, local_time

STYLES = {
    agent_pb2.BREAKER_STATE_OPEN: "red",
    agent_pb2.BREAKER_STATE_HALF_OPEN: "yellow",
    agent_pb2.BREAKER_STATE_TOLERATED: "yellow",
}


def breakers_table(breakers: Iterable[agent_pb2.Breaker]) -> Table:
    """Breakers, one a row."""
    table = new_table("agent", "type", "state", "since", "next probe", "why")
    for breaker in breakers:
        state = short_name(agent_pb2.BreakerState.Name(breaker.state), "BREAKER_STATE_")
        table.add_row(
            Text(breaker.agent_name),
            Text(breaker.task_type or "all"),
            Text(state, STYLES.get(breaker.state, "")),
            local_time(breaker.since_time),
            Text(_next_probe(breaker)),
            Text(breaker.reason),
        )
    return table


def _next_probe(breaker: agent_pb2.Breaker) -> str:
    if breaker.state == agent_pb2.BREAKER_STATE_OPEN:
        return local_time(breaker.until_time)
    if breaker.state == agent_pb2.BREAKER_STATE_HALF_OPEN:
        return breaker.probe_task_id or "the next task"
    return NONE


def failing_everywhere(agents: Sequence[agent_pb2.AgentInfo]) -> list[str]:
    """A line for each task type that fails at all of several agents that take it: the fault is hardly theirs."""
    offering: dict[str, int] = {}
    failing: dict[str, int] = {}
    for agent in agents:
        if agent.state == agent_pb2.AGENT_STATE_CONNECTED:
            for capability in agent.capabilities:
                offering[capability.task_type] = offering.get(capability.task_type, 0) + 1
            for breaker in agent.breakers:
                failing[breaker.task_type] = failing.get(breaker.task_type, 0) + 1
    everywhere = sorted(name for name, count in failing.items() if count > 1 and count == offering.get(name))
    return [f"{name} fails at all {failing[name]} agents that offer it, so it is hardly the agents' fault." for name in everywhere]
