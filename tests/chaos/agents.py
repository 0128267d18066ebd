"""An agent process of a chaos run: one Agent for each namespace that it is told. Handlers answer with the fence under which they ran."""

import argparse
import asyncio
import hashlib
import json
import logging
import os
from pathlib import Path

from agent_node import Agent, Context
from agent_node.session import Session


def answer_to(payload: bytes) -> str:
    """What `work` computes: different for each payload, and nothing that anyone could have made up."""
    return hashlib.sha256(payload).hexdigest()


class Notes:
    """What handlers write down: lines of JSON in one file, each whole or not at all.

    Args:
        path: the file.
        agent: the agent's name.
    """

    def __init__(self, path: Path, agent: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._agent = agent

    def write(self, event: str, namespace: str, ctx: Context) -> None:
        line = [event, namespace, ctx.task_id, ctx.fence, self._agent, os.getpid()]
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")


def agent_for(namespace: str, *, name: str, address: str, capacity: int, notes: Notes) -> Agent:
    """An Agent that does the work of one namespace."""
    agent = Agent(name, address=address, namespace=namespace, capacity=capacity, drain_deadline_s=2.0)

    @agent.handler("work")
    async def work(ctx: Context) -> dict[str, object]:
        """Takes as many seconds as its payload says, and fails as often."""
        notes.write("began", namespace, ctx)
        try:
            asked = json.loads(ctx.payload)
            await asyncio.sleep(asked["seconds"])
            if ctx.attempt <= asked["failures"]:
                raise RuntimeError("as it was told")
            return {"fence": ctx.fence, "agent": name, "digest": answer_to(ctx.payload)}
        finally:
            notes.write("over", namespace, ctx)

    return agent


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespaces", required=True, help="separated by commas")
    parser.add_argument("--address", required=True)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--stubborn", action="store_true", help="go on with attempts that were given up, and report them all the same")
    options = parser.parse_args()
    if options.stubborn:
        Session._lose = lambda self, held, reason: []
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    notes = Notes(options.notes, options.name)
    agents = [
        agent_for(namespace, name=options.name, address=options.address, capacity=options.capacity, notes=notes)
        for namespace in options.namespaces.split(",")
    ]
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(agent.serve())


if __name__ == "__main__":
    asyncio.run(main())
