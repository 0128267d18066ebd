"""How a command is run: the options that every command takes, its event loop, and what happens when it fails.

A command is an async function of an `Invocation` and its own options; `command` turns it into what typer expects. All errors, interrupts
and broken pipes of all commands are handled here and nowhere else.
"""

import asyncio
import errno
import inspect
import math
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_node.addresses import check_addresses
from agent_node.cli.exits import CommandFailure, ExitCode, exit_code_of, sentence_of, without_controls
from agent_node.errors import MusterError

if TYPE_CHECKING:
    from agent_node.client.client import Client

DEFAULT_ADDRESS = "127.0.0.1:7450"
DEFAULT_NAMESPACE = "default"
ADDRESS_VARIABLE = "MUSTER_ADDRESS"
CONNECT_TIMEOUT_S = 5.0  # a person waits: a wrong address should show soon
DEBUG_VARIABLE = "MUSTER_DEBUG"

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help=f"The coordinator, or several, comma separated. MUSTER_ADDRESS, else {DEFAULT_ADDRESS}."
    ),
]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", metavar="NAME", help=f"The namespace. MUSTER_NAMESPACE, else {DEFAULT_NAMESPACE}.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs: one object, or one per line.")]

CommandFunction = Callable[..., Awaitable[ExitCode | None]]  # of an Invocation and the command's own options
LoopFactoryChoice = Callable[[], Callable[[], asyncio.AbstractEventLoop] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """The options that all commands share, as given before or after the command's name."""

    address: str = ""  # as an option; empty: not given
    usual_address: str = DEFAULT_ADDRESS  # of the environment
    namespace: str = DEFAULT_NAMESPACE
    as_json: bool = False

    @property
    def coordinator_address(self) -> str:
        """Where to find the coordinator, as host:port; several are comma separated."""
        return self.address or self.usual_address

    def with_options(self, *, address: str | None, namespace: str | None, as_json: bool) -> "Invocation":
        """The same with the options that were given after the command's name, which win."""
        return replace(self, address=address or self.address, namespace=namespace or self.namespace, as_json=as_json or self.as_json)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Client"]:
        """A client of the coordinator, closed with the context."""
        from agent_node.client.client import Client

        address = usable(self.coordinator_address)
        async with Client(address, namespace=self.namespace, connect_timeout_s=CONNECT_TIMEOUT_S) as client:
            yield client


def usable(address: str) -> str:
    """The address, or the comma-separated ones, if they can be some. Raises CommandFailure."""
    try:
        check_addresses(address)
    except ValueError as error:
        raise CommandFailure(f"{error}.", ExitCode.USAGE) from None
    return address


def command(
    app: typer.Typer, name: str | None = None, *, loop_factory: LoopFactoryChoice | None = None
) -> Callable[[CommandFunction], CommandFunction]:
    """Registers an async function as a command of `app`, with the shared options added to its own.

    The function's docstring is the command's help; what it returns is the exit code, None being OK.
    `loop_factory` is asked, when the command is run, for what makes its event loop.
    """

    def register(function: CommandFunction) -> CommandFunction:
        def run(
            context: typer.Context,
            *,
            address: AddressOption = None,
            namespace: NamespaceOption = None,
            as_json: JsonOption = False,
            **options: Any,
        ) -> None:
            shared = context.find_object(Invocation) or Invocation()
            invocation = shared.with_options(address=address, namespace=namespace, as_json=as_json)
            start = partial(_start, function, invocation, context, options)
            raise typer.Exit(run_to_exit_code(start, invocation, loop_factory() if loop_factory else None))

        own = list(inspect.signature(function).parameters.values())[1:]
        added = [parameter for parameter in inspect.signature(run).parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *added)]
        run.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword_only}
        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        app.command(name)(run)
        return function

    return register


async def _start(function: CommandFunction, invocation: Invocation, context: typer.Context, options: dict[str, Any]) -> ExitCode | None:
    for name, value in options.items():
        if isinstance(value, float) and math.isnan(value):  # it is within any bounds, since no comparison with it holds
            flag = next(each.opts[0] for each in context.command.params if each.name == name)
            raise CommandFailure(f"{flag} is nan: give a number.", ExitCode.USAGE)
    return await function(invocation, **options)


def run_to_exit_code(
    start: Callable[[], Awaitable[ExitCode | None]],
    invocation: Invocation,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> ExitCode:
    """Runs a command in an event loop of its own until it ends, and says on stderr what went wrong, if anything did."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            code = runner.run(_run_until_signal(start))
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the root of the program: what isn't known here is a bug, and is said to be one
        return explain_end(_innermost(error), invocation)


def explain_end(error: Exception, invocation: Invocation) -> ExitCode:
    """Says on stderr why a command failed, in a sentence, and returns its exit code."""
    match error:
        case BrokenPipeError():
            # Nobody reads our output. What Python would still flush at exit goes nowhere, instead of failing once more.
            _discard_output()
            return ExitCode.BROKEN_PIPE
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG | errno.EIO):
            _discard_output()
            return complain(f"the output can't be written: {error.strerror or error}.", ExitCode.UNWRITABLE)
        case CommandFailure():
            return complain(str(error), error.code)
        case MusterError():
            return complain(sentence_of(error, address=invocation.coordinator_address), exit_code_of(error))
        case UnicodeEncodeError():  # what the shell handed over goes into messages that are UTF-8
            return complain("an argument isn't UTF-8 text; only a payload may be anything, from --file or stdin too.", ExitCode.USAGE)
        case _:
            if os.environ.get(DEBUG_VARIABLE):
                traceback.print_exception(error)
            return complain(
                f"this is a bug of muster: {type(error).__name__}: {error} (set {DEBUG_VARIABLE}=1 to see where).", ExitCode.BUG
            )


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _innermost(error: Exception) -> Exception:
    """The first cause in a task group's bundle of errors, which is what the user needs to hear of."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def complain(sentence: str, code: ExitCode) -> ExitCode:
    """Says on stderr what went wrong, and hands the exit code through."""
    print(f"muster: {without_controls(sentence)}", file=sys.stderr)
    return code


async def _run_until_signal(start: Callable[[], Awaitable[ExitCode | None]]) -> ExitCode:
    """Awaits the command. SIGTERM ends it as Ctrl-C does: by cancelling it, so that it can clean up."""
    terminated = False
    main = asyncio.current_task()

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        if main is not None:
            main.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await start() or ExitCode.OK
    except asyncio.CancelledError:
        if not terminated:
            raise
        return ExitCode.TERMINATED
