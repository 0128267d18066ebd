"""`muster admin`: tools that work on a store itself, whether or not a coordinator runs. They need what a coordinator needs."""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command
from agent_node.errors import UnavailableError

if TYPE_CHECKING:
    from agent_node.cli.payloads import Json
    from coordinator.admin.access import Where
    from coordinator.admin.checking import AskDigest
    from coordinator.admin.tools import Progress

MISSING_EXTRA = "this command works on the store itself, and needs what a coordinator needs: pip install 'muster-agents[coordinator,cli]'."
STREAM = "-"
_PATIENCE = 30  # seconds that a coordinator may be busy with a snapshot

DataDirOption = Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="A coordinator's data directory; it may be running.")]
RedisUrlOption = Annotated[
    str | None, typer.Option("--redis-url", envvar="MUSTER_REDIS_URL", metavar="URL", help="The Redis or Valkey that it uses.")
]
PrefixOption = Annotated[str, typer.Option("--key-prefix", metavar="TEXT", help="What all its keys begin with.")]
ShardOption = Annotated[list[int] | None, typer.Option("--shard", min=0, metavar="N", help="This shard alone; may be repeated.")]


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Back up, restore and check a store itself, whether or not a coordinator runs.", no_args_is_help=True)
    command(app, "export")(export)
    command(app, "import")(import_)
    command(app, "check")(check)
    return app


async def export(
    invocation: Invocation,
    *,
    file: Annotated[str, typer.Argument(help="Where to; - is stdout. A name that ends in .gz is packed.")],
    data_dir: DataDirOption = None,
    redis_url: RedisUrlOption = None,
    key_prefix: PrefixOption = "muster",
    shard: ShardOption = None,
) -> None:
    """Write a deployment's shards to a file, each as it is at one moment, while its coordinators run on."""
    with _sentences(), _bar() as progress:
        from coordinator.admin.tools import export_to

        with _new_file(file) as out:
            facts = await export_to(_where(data_dir, redis_url, key_prefix), out, name=file, shards=shard or (), progress=progress)
    ended, keys = sum(one.ended for one in facts), sum(one.state_entries for one in facts)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        if file == STREAM:
            return
        shards: list[Json] = [
            {"shard": one.shard, "sequence": one.sequence, "ended": one.ended, "state_keys": one.state_entries} for one in facts
        ]
        print_record({"file": file, "shards": shards})
        return
    from agent_node.cli.terminal import stderr_console, stdout_console

    console = stderr_console() if file == STREAM else stdout_console()
    console.print(f"Exported {len(facts)} shards with {ended} ended tasks and {keys} keys of shared state.")


async def import_(
    invocation: Invocation,
    *,
    file: Annotated[str, typer.Argument(help="What `muster admin export` wrote; - is stdin.")],
    data_dir: DataDirOption = None,
    redis_url: RedisUrlOption = None,
    key_prefix: PrefixOption = "muster",
    shard: ShardOption = None,
    discard_unfinished: Annotated[
        bool, typer.Option("--discard-unfinished", help="Remove what an import that was interrupted has left in the store.")
    ] = False,
) -> None:
    """Bring an export into a store that holds nothing yet. Start its coordinator afterwards, with as many shards."""
    with _sentences(), _bar() as progress:
        from coordinator.admin.tools import import_from

        with _old_file(file) as source:
            done = await import_from(
                _where(data_dir, redis_url, key_prefix),
                source,
                shards=shard or (),
                progress=progress,
                discard_unfinished=discard_unfinished,
            )
    ended = sum(done.contents.shards[number].ended for number in done.shards)
    keys = sum(done.contents.shards[number].state_entries for number in done.shards)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record({"shards": list(done.shards), "deployment_shards": done.contents.header.shards, "ended": ended, "state_keys": keys})
        return
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(
        f"Imported {len(done.shards)} shards with {ended} ended tasks and {keys} keys of shared state. "
        f"Start its coordinator with --shards {done.contents.header.shards}."
    )


async def check(
    invocation: Invocation,
    *,
    data_dir: DataDirOption = None,
    redis_url: RedisUrlOption = None,
    key_prefix: PrefixOption = "muster",
    shard: ShardOption = None,
    live: Annotated[bool, typer.Option("--live", help="Compare with what the coordinator at --address has in memory, too.")] = False,
) -> ExitCode:
    """Replay a deployment's journals, and check all that its store holds against them. Nothing is changed. Exit 1: something is wrong."""
    with _sentences(), _bar() as progress:
        from coordinator.admin.tools import check_store

        async with contextlib.AsyncExitStack() as closing:
            ask = await _live_digests(invocation, closing) if live else None
            findings = await check_store(_where(data_dir, redis_url, key_prefix), shards=shard or (), live=ask, progress=progress)
    wrong = sum(findings.found.values())
    if invocation.as_json:
        from agent_node.cli.records import print_record

        violations: list[Json] = [
            {"shard": one.shard, "namespace": one.namespace, "kind": one.kind, "message": one.message} for one in findings.violations
        ]
        print_record(
            {
                "violations": violations,
                "found": wrong,
                "skipped": list(findings.skipped),
                "looked_at": dict(sorted(findings.looked_at.items())),
            }
        )
        return ExitCode.NEGATIVE if wrong else ExitCode.OK
    from agent_node.cli.terminal import stdout_console

    console = stdout_console()
    for one in findings.violations:
        console.print(f"shard {one.shard}{f', namespace {one.namespace}' if one.namespace else ''}: {one.message}.")
    if wrong > len(findings.violations):
        console.print(f"… and {wrong - len(findings.violations)} more like these.")
    for skipped in findings.skipped:
        console.print(f"Not looked at: {skipped}.")
    looked_at = ", ".join(f"{count} {what}" for what, count in sorted(findings.looked_at.items()))
    console.print(f"{wrong} violations found. Looked at {looked_at}.")
    return ExitCode.NEGATIVE if wrong else ExitCode.OK


async def _live_digests(invocation: Invocation, closing: contextlib.AsyncExitStack) -> "AskDigest":
    from coordinator.admin.tools import LiveDigest

    client = await closing.enter_async_context(invocation.connect())

    async def ask(number: int) -> LiveDigest:
        for _ in range(_PATIENCE):
            try:
                said = await client.shard_digest(number)
                break
            except UnavailableError:  # it takes a snapshot
                await asyncio.sleep(1.0)
        else:
            said = await client.shard_digest(number)
        return LiveDigest(said.sequence, said.epoch, said.digest, said.release)

    return ask


def _where(data_dir: Path | None, redis_url: str | None, key_prefix: str) -> "Where":
    from coordinator.admin.access import Where

    return Where(data_dir=data_dir, redis_url=None if data_dir is not None else redis_url, key_prefix=key_prefix)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Turns what a tool raises into a sentence and an exit code."""
    try:
        from coordinator.admin import tools
    except ModuleNotFoundError:
        raise CommandFailure(MISSING_EXTRA, ExitCode.USAGE) from None
    try:
        yield
    except tools.REFUSALS as error:
        raise CommandFailure(f"{error}.", ExitCode.REFUSED) from None
    except tools.FAILURES as error:
        raise CommandFailure(f"{error}.", ExitCode.UNAVAILABLE) from None


@contextlib.contextmanager
def _bar() -> "Iterator[Progress]":
    from agent_node.cli.terminal import progress_bar

    with progress_bar("opening the store", None) as bar:
        yield lambda what, done, total: bar.show(description=what, completed=done, total=total)


@contextlib.contextmanager
def _new_file(name: str) -> Iterator[IO[bytes]]:
    """A file that is there, whole and on disk, once the block has ended well; and not at all otherwise."""
    if name == STREAM:
        if sys.stdout.isatty():
            raise CommandFailure("an export isn't for a terminal: redirect it, or name a file.", ExitCode.USAGE)
        yield sys.stdout.buffer
        return
    path = Path(name)
    if path.exists():
        raise CommandFailure(f"{name} is there already: name another file, or remove it first.", ExitCode.USAGE)
    part = path.with_name(f"{path.name}.part")
    try:
        out = part.open("wb")
    except OSError as error:
        raise CommandFailure(f"{name} can't be written: {error.strerror}.", ExitCode.UNWRITABLE) from None
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _old_file(name: str) -> Iterator[IO[bytes]]:
    """A file that can be read twice: stdin is copied first."""
    if name == STREAM:
        with tempfile.TemporaryFile() as copy:
            while block := sys.stdin.buffer.read(1024 * 1024):
                copy.write(block)
            copy.seek(0)
            yield copy
        return
    try:
        with Path(name).open("rb") as file:
            yield file
    except OSError as error:
        if error.filename != name:
            raise
        raise CommandFailure(f"{name} can't be read: {error.strerror}.", ExitCode.USAGE) from None
