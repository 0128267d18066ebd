"""`muster state`: the namespace's shared state."""

import asyncio
import sys
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_node.cli.exits import CommandFailure, ExitCode
from agent_node.cli.invocation import Invocation, command
from agent_node.cli.payloads import BINARY_TYPE, guess_content_type
from agent_node.cli.submit_command import read_payload

if TYPE_CHECKING:
    from agent_node.state.state import State
    from agent_node.state.values import Entry, StateEvent

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key.")]
PrefixArgument = Annotated[str, typer.Argument(metavar="[PREFIX]", help="What the keys begin with; none at all is all keys.")]
_MAX_REVISION = 2**53 - 1
IfRevision = Annotated[
    int | None,
    typer.Option(
        "--if-revision",
        min=0,
        max=_MAX_REVISION,
        metavar="N",
        help="Only if the key was last written at this revision; 0: only if it isn't there.",
    ),
]
_IMPORTS_AT_A_TIME = 256


class Kind(Enum):
    """What happened to a key, as it is typed."""

    PUT = "put"
    DELETED = "deleted"
    EXPIRED = "expired"


def build() -> typer.Typer:
    """The command group."""
    app = typer.Typer(help="Read, write and follow the state that agents share.", no_args_is_help=True)
    for name, function in (
        ("get", get),
        ("put", put),
        ("delete", delete),
        ("list", list_keys),
        ("watch", watch),
        ("history", history),
        ("diff", diff),
        ("restore", restore),
        ("locks", locks),
        ("export", export),
        ("import", import_lines),
    ):
        command(app, name)(function)
    return app


async def get(invocation: Invocation, *, keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="The keys.")]) -> ExitCode:
    """Print the values of keys: of one key as it is, of several as a table.

    Exits 3 when one isn't there.
    """
    from agent_node.cli.records import print_record
    from agent_node.cli.state_records import entries_table, entry_record

    async with invocation.connect() as client:
        found = await client.state.get_many(keys)
    entries = [found[key] for key in keys if key in found]
    if invocation.as_json:
        for entry in entries:
            print_record(entry_record(entry))
    elif len(keys) == 1 and entries:
        _write_value(entries[0])
    elif entries:
        from agent_node.cli.terminal import stdout_console

        stdout_console().print(entries_table(entries, keys_only=False))
    missing = [key for key in keys if key not in found]
    if missing:
        raise CommandFailure(
            f"there is no key {', '.join(map(repr, missing))}; `muster state list` shows those there are.", ExitCode.NOT_FOUND
        )
    return ExitCode.OK


async def put(
    invocation: Invocation,
    *,
    key: KeyArgument,
    value: Annotated[str | None, typer.Argument(help="The value, as it is; - reads it from stdin. None at all is an empty one.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Take the value from this file; - is stdin.")] = None,
    content_type: Annotated[str, typer.Option("--content-type", metavar="TYPE", help="Its media type; by default as it looks.")] = "",
    ttl: Annotated[float | None, typer.Option("--ttl", metavar="S", help="Delete it after so many seconds.")] = None,
    if_revision: IfRevision = None,
) -> None:
    """Set a key, and print the revision of that."""
    content = read_payload(value, file)
    async with invocation.connect() as client:
        revision = await client.state.put(
            key, content, content_type=content_type or guess_content_type(content), ttl_s=ttl, if_revision=if_revision
        )
    _say(invocation, {"key": key, "revision": str(revision)}, str(revision))


async def delete(
    invocation: Invocation,
    *,
    key: KeyArgument,
    prefix: Annotated[bool, typer.Option("--prefix", help="All keys that begin with KEY, in one revision.")] = False,
    if_revision: IfRevision = None,
) -> None:
    """Delete a key, or all keys with a prefix.

    Exits 3 when there is nothing to delete.
    """
    if prefix and (if_revision is not None or not key):
        raise CommandFailure("--prefix needs a KEY that isn't empty, and goes without --if-revision.", ExitCode.USAGE)
    async with invocation.connect() as client:
        if prefix:
            count = await client.state.delete_prefix(key)
        else:
            count = int(await client.state.delete(key, if_revision=if_revision))
    if not count:
        raise CommandFailure(f"there is no key {key!r}{' or longer' if prefix else ''}.", ExitCode.NOT_FOUND)
    _say(invocation, {"key": key, "deleted": count}, f"{count} deleted.")


async def list_keys(
    invocation: Invocation,
    *,
    prefix: PrefixArgument = "",
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Without values: one key a line.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many keys; 0 is all.")] = 50,
) -> None:
    """List the keys with a prefix, by name."""
    from agent_node.cli.records import print_record
    from agent_node.cli.state_records import entries_table, entry_record
    from agent_node.cli.terminal import stderr_console, stdout_console

    shown: list[Entry] = []
    more = False
    async with invocation.connect() as client:
        async for entry in client.state.list(prefix, keys_only=keys_only, page_size=min(limit + 1, 1000) if limit else 0):
            if limit and len(shown) == limit:
                more = True
                break
            shown.append(entry)
            if invocation.as_json:
                print_record(entry_record(entry, keys_only=keys_only))
            elif keys_only:
                print(entry.key)
    if not invocation.as_json and not keys_only:
        stdout_console().print(entries_table(shown, keys_only=False) if shown else "No keys.")
    if more:
        stderr_console().print(f"There are more than {limit}: --limit 0 shows all.")


async def watch(
    invocation: Invocation,
    *,
    key: KeyArgument = "",
    prefix: Annotated[bool, typer.Option("--prefix", help="All keys that begin with KEY; without one, all.")] = False,
    from_revision: Annotated[
        int | None,
        typer.Option(
            "--from", min=1, max=_MAX_REVISION, metavar="REVISION", help="Begin with this revision; by default with what comes now."
        ),
    ] = None,
    previous: Annotated[bool, typer.Option("--previous", help="Print the value before, too (with --json).")] = False,
    only: Annotated[list[Kind] | None, typer.Option("--only", help="Print events of this kind alone. May be repeated.")] = None,
) -> None:
    """Follow a key, or all keys with a prefix, until Ctrl-C."""
    from agent_node.cli.records import print_record
    from agent_node.cli.state_records import event_line, event_record
    from agent_node.cli.terminal import stdout_console
    from agent_node.state.values import EventKind

    whole = prefix or not key
    console = stdout_console()
    async with invocation.connect() as client:
        watched = client.state.watch(
            "" if whole else key,
            prefix=key if whole else None,
            start_revision=from_revision,
            previous=previous,
            kinds=[EventKind[kind.name] for kind in only or ()],
        )
        async with watched:
            async for event in watched:
                if invocation.as_json:
                    print_record(event_record(event))
                else:
                    console.print(event_line(event))


async def history(invocation: Invocation, *, key: KeyArgument) -> None:
    """Show what has happened to a key: each value, who wrote it, and from which task and attempt."""
    from agent_node.cli.records import print_record
    from agent_node.cli.state_records import event_record, history_table
    from agent_node.cli.terminal import stdout_console

    events = await _history(invocation, key)
    if invocation.as_json:
        for event in events:
            print_record(event_record(event))
    else:
        stdout_console().print(history_table(events))


async def diff(
    invocation: Invocation,
    *,
    key: KeyArgument,
    before: Annotated[int, typer.Argument(metavar="REVISION", min=1, help="The older revision.")],
    after: Annotated[int | None, typer.Argument(metavar="[REVISION]", min=1, help="The newer one; by default the present.")] = None,
) -> ExitCode:
    """Show how a key differs between two revisions. Exits 1 when it does, as `diff` does."""
    from agent_node.cli.state_records import at_revision, difference

    async with invocation.connect() as client:
        events = await _events(client.state, key)
        if events:
            await _check_known(client.state, key, events, *filter(None, (before, after)))
    _check_any(key, events)
    newer = events[-1] if after is None else at_revision(events, after)
    lines = difference(key, at_revision(events, before), newer)
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record({"key": key, "diff": [*lines]})
    else:
        from agent_node.cli.exits import without_controls

        for line in lines:
            print(without_controls(line))
    return ExitCode.NEGATIVE if lines else ExitCode.OK


async def restore(
    invocation: Invocation,
    *,
    key: KeyArgument,
    revision: Annotated[int, typer.Argument(metavar="REVISION", min=1, help="The revision whose value it gets again.")],
) -> ExitCode:
    """Give a key the value again that it had at a revision. If it wasn't there then, it is deleted.

    It is a write like any other, refused if the key changes meanwhile (exit 4), and it can be undone in the same way.
    """
    from agent_node.cli.state_records import at_revision

    async with invocation.connect() as client:
        events = await _events(client.state, key)
        if events:
            await _check_known(client.state, key, events, revision)
        then = at_revision(events, revision)
        if then is None:
            raise CommandFailure(f"what {key!r} was at revision {revision} is no longer kept, or never was.", ExitCode.NOT_FOUND)
        present = await client.state.get(key)
        if_revision = present.revision if present else 0
        if then.entry is not None:
            now = await client.state.put(key, then.entry.value, content_type=then.entry.content_type, if_revision=if_revision)
            _say(invocation, {"key": key, "revision": str(now)}, f"{key} is as at revision {revision} again, since revision {now}.")
        else:
            if present is not None:
                await client.state.delete(key, if_revision=if_revision)
            _say(invocation, {"key": key, "revision": None}, f"{key} is deleted, as at revision {revision}.")
    return ExitCode.OK


async def locks(
    invocation: Invocation,
    *,
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="What the locks' names begin with; none at all is all.")] = "",
) -> None:
    """Show the locks: who holds each since when, and who waits in which order."""
    async with invocation.connect() as client:
        known = await client.state.locks(prefix)
    if invocation.as_json:
        from agent_node.cli.records import print_record
        from agent_node.cli.state_records import lock_record

        for each in known:
            print_record(lock_record(each))
        return
    from agent_node.cli.state_records import locks_table
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(locks_table(known) if known else "No locks.")


async def export(invocation: Invocation, *, prefix: PrefixArgument = "") -> None:
    """Print the keys with a prefix as lines of JSON, for `muster state import`.

    Leases, ttls and revisions are not part of it, nor which agents are connected (agents/NAME/presence).
    """
    from agent_node.cli.state_records import export_line
    from agent_node.state.agent_state import PREFIX, PRESENCE

    async with invocation.connect() as client:
        async for entry in client.state.list(prefix):
            if not (
                entry.key.startswith(PREFIX) and entry.key.endswith(PRESENCE)
            ):  # set again elsewhere, it would name an agent that isn't there
                sys.stdout.write(export_line(entry) + "\n")
    sys.stdout.flush()


async def import_lines(
    invocation: Invocation,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `muster state export` printed; - is stdin.")],
    missing_only: Annotated[bool, typer.Option("--missing-only", help="Leave keys that are there as they are.")] = False,
) -> None:
    """Set the keys that an export holds. All lines are read first: if one is wrong, nothing is set.

    What only the coordinator can refuse, such as a value over the namespace's limit, stops it: then it says how many keys are set.
    """
    from agent_node.cli.state_records import Line, import_line
    from agent_node.errors import ConflictError, RefusedError, UnavailableError

    texts = read_payload(None, file).decode(errors="surrogateescape").split("\n")
    lines = [import_line(text, number) for number, text in enumerate(texts, start=1) if text.strip()]
    written = left = 0
    async with invocation.connect() as client:
        state = client.state

        async def put_one(line: Line) -> bool:
            try:
                await state.put(line.key, line.value, content_type=line.content_type, if_revision=0 if missing_only else None)
            except ConflictError:
                return False
            return True

        try:
            for start in range(0, len(lines), _IMPORTS_AT_A_TIME):
                batch = lines[start : start + _IMPORTS_AT_A_TIME]
                answers = await asyncio.gather(*map(put_one, batch), return_exceptions=True)
                written += sum(answer is True for answer in answers)
                left += sum(answer is False for answer in answers)
                for line, answer in zip(batch, answers, strict=True):
                    if isinstance(answer, RefusedError):
                        raise CommandFailure(f"{line.key!r} is refused: {answer}; {written} others are imported.", ExitCode.REFUSED)
                    if isinstance(answer, BaseException):
                        raise answer
        except (asyncio.CancelledError, UnavailableError):
            print(f"muster: at least {written} of {len(lines)} lines are imported, and the others can be: do it again.", file=sys.stderr)
            raise
    _say(invocation, {"imported": written, "left": left}, f"{written} imported" + (f", {left} were there already." if left else "."))


async def _history(invocation: Invocation, key: str) -> "list[StateEvent]":
    async with invocation.connect() as client:
        events = await _events(client.state, key)
    _check_any(key, events)
    return events


def _check_any(key: str, events: "list[StateEvent]") -> None:
    if not events:
        raise CommandFailure(f"nothing is known of a key {key!r}; `muster state list` shows those there are.", ExitCode.NOT_FOUND)


async def _check_known(state: "State", key: str, events: "list[StateEvent]", *revisions: int) -> None:
    """Raises CommandFailure for a revision that hasn't come yet, or at which it isn't known any more what the key was."""
    from agent_node.cli.state_records import at_revision

    stats = await state.stats()
    for revision in revisions:
        if revision > stats.revision:
            raise CommandFailure(f"revision {revision} hasn't come yet: the namespace is at {stats.revision}.", ExitCode.REFUSED)
        if revision < stats.compact_revision and at_revision(events, revision) is None:
            raise CommandFailure(f"what {key!r} was at revision {revision} is no longer kept, or never was.", ExitCode.NOT_FOUND)


async def _events(state: "State", key: str) -> "list[StateEvent]":
    events: AsyncIterator[StateEvent] = state.history(key)
    return [event async for event in events]


def _say(invocation: Invocation, record: "dict[str, str | int | None]", sentence: str) -> None:
    if invocation.as_json:
        from agent_node.cli.records import print_record

        print_record({**record})
        return
    from agent_node.cli.terminal import stdout_console

    stdout_console().print(sentence)


def _write_value(entry: "Entry") -> None:
    """The value byte for byte; on a terminal as text without what would steer it, or how many bytes it is."""
    if sys.stdout.isatty():
        from agent_node.cli.exits import without_controls

        try:
            print(without_controls(entry.value.decode()).removesuffix("\n"))
        except UnicodeDecodeError:
            print(f"{len(entry.value)} bytes of {entry.content_type or BINARY_TYPE}: redirect them to a file.")
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(entry.value)
    sys.stdout.buffer.flush()
