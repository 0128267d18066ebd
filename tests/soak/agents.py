"""The agent of a soak: `python -m agent_node tests.soak.agents:agent`."""

import os

from agent_node import Agent
from tests.soak.census import report_in_thread
from tests.soak.leak import leak_a_task
from tests.soak.work import KINDS, task_type_of

agent = Agent(drain_deadline_s=5.0)
for _name, _kind in KINDS.items():
    if _kind.handler is not None:
        agent.handler(task_type_of(_name), isolation=_kind.isolation)(_kind.handler)  # type: ignore[arg-type]  # one of its literals

if "SOAK_CENSUS" in os.environ:
    report_in_thread("agent", agent, package="agent_node")
    leak_a_task("agent")
