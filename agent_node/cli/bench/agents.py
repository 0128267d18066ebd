"""A process full of agents whose handler does nothing. It ends when its standard input does: when the benchmark ends, or is gone."""

import asyncio
import os
import sys

from agent_node import Agent
from agent_node.cli.bench.fleet import AgentProcessPlan
from agent_node.cli.bench.loop import loop_factory


def noop_agent(name: str, plan: AgentProcessPlan) -> Agent:
    """An agent of the plan: it answers each task at once, with nothing."""
    agent = Agent(name, address=plan.address, namespace=plan.namespace, capacity=plan.capacity)

    @agent.handler(plan.task_type)
    async def noop(_context: object) -> None:
        pass

    return agent


async def serve(plan: AgentProcessPlan) -> None:
    """Serves all agents of a plan until standard input ends."""
    agents = [asyncio.create_task(noop_agent(name, plan).serve()) for name in plan.agent_names]
    end_of_input = asyncio.create_task(_wait_for_end_of_input())
    await asyncio.wait([*agents, end_of_input], return_when=asyncio.FIRST_COMPLETED)
    for task in agents:
        if task.done():
            task.result()  # an agent that ended by itself failed: its error is the process's
        task.cancel()
    await asyncio.wait(agents, timeout=5)


async def _wait_for_end_of_input() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    """Command line: one argument, the plan."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve(AgentProcessPlan.from_argument(sys.argv[1])))


if __name__ == "__main__":
    main()
