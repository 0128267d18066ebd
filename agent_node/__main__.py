"""muster-agent: runs an Agent object of a user's module, or the built-in LLM agent.

Exit codes: 0 drained, 1 the coordinator refused the agent, 2 wrong usage or configuration, 128 + n ended by a second signal n.
"""

import argparse
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_node.agent import Agent

EXIT_REFUSED = 1
EXIT_USAGE = 2


class UsageError(Exception):
    """What was asked for can't be run; the message says why in one sentence."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits the process."""
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    from agent_node.addresses import check_addresses
    from agent_node.errors import MusterError, NotFoundError

    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    try:
        if options.address is not None:
            check_addresses(options.address)
        agent = _llm_agent(options.config) if options.agent == "llm" else load_agent(options.agent)
        agent.override(name=options.name, address=options.address, namespace=options.namespace, capacity=options.capacity)
    except (UsageError, ValueError) as error:
        return _fail(str(error), EXIT_USAGE)
    try:
        agent.run()
    except NotFoundError as error:  # what follows is advice for programs
        return _fail(f"{str(error).partition(':')[0]}: create it with `muster namespaces create`, or name another", EXIT_REFUSED)
    except MusterError as error:
        return _fail(str(error), EXIT_REFUSED)
    except RuntimeError as error:
        return _fail(str(error), EXIT_USAGE)
    return 0


def load_agent(where: str) -> "Agent":
    """The Agent that `module:attribute` names. The current directory is searched first, as with `python -m`.

    Raises:
        UsageError: there is none.
    """
    from agent_node.agent import Agent

    module_name, colon, attribute = where.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"{where!r} doesn't say where the agent is: write module:attribute, such as myapp.agents:agent")
    if sys.path[:1] not in ([""], [str(Path.cwd())]):
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {module_name!r} here or among the installed packages") from None
        raise UsageError(f"module {module_name!r} imports {error.name!r}, which is not installed") from None
    except Exception as error:  # a user's module may fail in any way
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"module {module_name!r} can't be imported: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        ) from error
    try:
        found = getattr(module, attribute)
    except AttributeError:
        raise UsageError(f"module {module_name!r} has no {attribute!r}") from None
    if not isinstance(found, Agent):
        raise UsageError(f"{where} is a {type(found).__name__}, not an agent_node.Agent")
    return found


def _llm_agent(config: Path | None) -> "Agent":
    try:
        from agent_node.llm.agent import build_agent
    except ModuleNotFoundError as error:
        raise UsageError(f"the built-in LLM agent needs {error.name!r}: pip install 'muster-agents[llm]'") from None
    try:
        return build_agent(config)
    except OSError as error:
        raise UsageError(f"{config} can't be read: {error.strerror or error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="muster-agent",
        description="Runs an agent until SIGTERM or Ctrl-C, which drain it; a second one ends it at once.",
        epilog="What is given here goes before what the agent was constructed with.",
    )
    parser.add_argument("agent", help="module:attribute of an agent_node.Agent, or llm for the built-in one")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the built-in LLM agent's configuration, unless the environment says it all"
    )
    parser.add_argument(
        "--address",
        default=os.environ.get("MUSTER_ADDRESS") or None,
        metavar="HOST:PORT",
        help="the coordinator, or several, comma separated [MUSTER_ADDRESS]",
    )
    parser.add_argument(
        "--namespace", default=os.environ.get("MUSTER_NAMESPACE") or None, help="the namespace to work in [MUSTER_NAMESPACE]"
    )
    parser.add_argument("--capacity", type=int, metavar="N", help="tasks at a time")
    parser.add_argument("--name", help="the agent's name, unique among those that are live")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: %(default)s")
    return parser


def _fail(message: str, code: int) -> int:
    print(f"muster-agent: {message}", file=sys.stderr)  # noqa: T201 - a command's answer
    return code


if __name__ == "__main__":
    main()
