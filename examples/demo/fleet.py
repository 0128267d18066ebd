"""Which processes the demo runs, and with what: the coordinator, a model, and the agents."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.demo.board import Board
from examples.demo.processes import Child, Processes
from examples.demo.work import REVIEW, SUMMARISE, TERMS
from examples.local_model.server import MODEL

VICTIM: Final = "analyst-1"
_SESSION_GRACE_S: Final = 3  # how long a vanished agent may come back; the default of 15 s would make most of the demo a wait
_LOCAL_WORDS_PER_S: Final = 45  # what a hosted model writes, so that streams and the kill can be seen
_PROVIDER: Final = ("MUSTER_LLM_BASE_URL", "MUSTER_LLM_API_KEY", "MUSTER_LLM_MODEL")


class ProviderError(Exception):
    """The provider's settings are incomplete; the message says which is missing."""


@dataclass(frozen=True)
class _Role:
    """One agent process: what it is for, and what runs it."""

    name: str
    role: str
    program: str  # what muster-agent runs
    task_types: tuple[str, ...] = ()  # for the built-in LLM agent
    capacity: int = 1


_ROLES: Final = (
    _Role("splitter", "cuts documents into sections", "examples.demo.agents:splitter"),
    _Role(VICTIM, "asks the model", "llm", (SUMMARISE, TERMS), capacity=3),
    _Role("analyst-2", "asks the model", "llm", (SUMMARISE, TERMS), capacity=3),
    _Role("reviewer", "asks the model", "llm", (REVIEW,), capacity=3),
    _Role("combiner", "writes the report", "examples.demo.agents:combiner"),
)


@dataclass(frozen=True)
class Fleet:
    """Everything that runs."""

    address: str
    agents: dict[str, Child]


async def start_fleet(processes: Processes, *, folder: Path, environment: Mapping[str, str], board: Board) -> Fleet:
    """Starts the coordinator, a model and the agents, and answers once the coordinator serves.

    Args:
        processes: who starts and ends them.
        folder: for the store's data and configuration files; a short path, since the store's socket lies in it.
        environment: the demo's own; a provider's settings in it replace the local model.
        board: told what was started.

    Raises:
        ProcessError: something didn't start.
        ProviderError: MUSTER_LLM_* are incomplete.
    """
    plain = {name: value for name, value in environment.items() if name not in _PROVIDER}  # the key is for the LLM agents alone
    arguments = ["--data-dir", str(folder / "data"), "--listen", "127.0.0.1:0", "--session-grace", str(_SESSION_GRACE_S)]
    coordinator = await processes.start("coordinator", ["-m", "coordinator", *arguments], environment=plain)
    given = given_provider(environment)
    if given is None:
        address, provider = await asyncio.gather(_address(processes, coordinator), _start_local_model(processes, plain))
        board.tell(f"the model is {MODEL}, computed on this machine, at {provider['MUSTER_LLM_BASE_URL']}")
    else:
        address, provider = await _address(processes, coordinator), given
        board.tell(f"the model is {provider['MUSTER_LLM_MODEL']} at {provider['MUSTER_LLM_BASE_URL']}")
    board.tell(f"the coordinator serves on {address} (pid {coordinator.pid})")
    agents: dict[str, Child] = {}
    for role in _ROLES:
        program = [role.program]
        if role.program == "llm":
            config = folder / f"{role.name}.toml"
            config.write_text(f"task_types = {json.dumps(role.task_types)}\ncapacity = {role.capacity}\n", encoding="utf-8")
            program += ["--config", str(config)]
        agents[role.name] = await processes.start(
            role.name,
            ["-m", "agent_node", *program, "--name", role.name, "--address", address],
            environment={**plain, **provider} if role.program == "llm" else plain,
        )
        board.add_agent(role.name, role=role.role, pid=agents[role.name].pid)
    return Fleet(address, agents)


def given_provider(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The provider's settings, when a base URL and a key are set; else the local model will do."""
    base_url, key, model = (environment.get(name, "") for name in _PROVIDER)
    if not base_url or not key:
        return None
    if not model:
        raise ProviderError("MUSTER_LLM_BASE_URL and a key are set: set MUSTER_LLM_MODEL too, to the name of one of its models")
    return dict(zip(_PROVIDER, (base_url, key, model), strict=True))


async def _address(processes: Processes, coordinator: Child) -> str:
    return (await processes.ready_line(coordinator, "muster-coordinator serving on ")).split()[0]


async def _start_local_model(processes: Processes, environment: Mapping[str, str]) -> dict[str, str]:
    arguments = ["-m", "examples.local_model", "--port", "0", "--words-per-s", str(_LOCAL_WORDS_PER_S)]
    model = await processes.start("local-model", arguments, environment=environment)
    base_url = await processes.ready_line(model, f"local-model serving {MODEL} on ")
    return {"MUSTER_LLM_BASE_URL": base_url, "MUSTER_LLM_MODEL": MODEL}
