"""What the command line calls: each tool, from opening the store to closing it."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import IO, Final

from coordinator.admin.access import Where, open_for_import, open_for_reading
from coordinator.admin.checking import AskDigest, LiveDigest, check
from coordinator.admin.errors import BadExport, ToolError, ToolRefused
from coordinator.admin.export_file import ExportWriter, packing
from coordinator.admin.exporting import ExportedShardFacts, export
from coordinator.admin.findings import Findings
from coordinator.admin.importing import Imported, import_file
from coordinator.journal.ids import new_nonce
from coordinator.ports import JournalTooNew

Progress = Callable[[str, int, int | None], None]
"""Told of what is done: what, how much of it, and of how much; None when that isn't known."""

__all__ = ["FAILURES", "REFUSALS", "LiveDigest", "check_store", "export_to", "import_from"]

REFUSALS: Final = (BadExport, ToolRefused, JournalTooNew)
"""Raised when a tool must not be used on what it was given."""
FAILURES: Final = (ToolError,)
"""Raised when it can't do its work; behind REFUSALS."""


async def export_to(where: Where, out: IO[bytes], *, name: str, shards: Sequence[int], progress: Progress) -> list[ExportedShardFacts]:
    """Writes shards to a file. `name` says whether it is packed. See `exporting.export`."""
    async with open_for_reading(where) as store:
        with packing(out, name=name) as packed:
            return await export(store, ExportWriter(packed), shards=shards, progress=progress)


async def check_store(where: Where, *, shards: Sequence[int], live: AskDigest | None, progress: Progress) -> Findings:
    """Checks shards where they lie. See `checking.check`."""
    async with open_for_reading(where) as store:
        return await check(store, shards=shards, live=live, release=version("muster-agents"), progress=progress)


async def import_from(where: Where, file: IO[bytes], *, shards: Sequence[int], progress: Progress, discard_unfinished: bool) -> Imported:
    """Brings shards in from a file. See `importing.import_file`."""
    async with open_for_import(where) as store:
        return await import_file(
            store, file, shards=shards, new_incarnation=new_nonce, progress=progress, discard_unfinished=discard_unfinished
        )
