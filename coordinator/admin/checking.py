"""Checks shards: replays each one's journal, and holds what the store has, and what a coordinator has in memory, against it.

A shard that is written to is read like any other. What was read while it changed is read again: what never rests long enough is named as
not looked at, so that nothing is called wrong that only was on its way.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from coordinator.admin.access import OpenStore
from coordinator.admin.ended_check import EndedTasks, check_ended
from coordinator.admin.errors import ToolError
from coordinator.admin.findings import Findings, Report
from coordinator.admin.journal_check import REPORT, Replayed, check_journal, digest, replay
from coordinator.admin.shard_reads import NamespacePoint, Point, ShardReads
from coordinator.admin.state_check import StateCheck
from coordinator.admin.stray_keys import check_keys

_TRIES: Final = 5

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, slots=True)
class LiveDigest:
    """What a coordinator says of a shard's live state: see GetShardDigest."""

    sequence: int
    epoch: int
    digest: bytes
    release: str


AskDigest = Callable[[int], Awaitable[LiveDigest]]
"""Asks a coordinator for a shard's digest."""


class ShardChecker:
    """The check of one shard.

    Args:
        reads: of the shard.
        number: the shard's.
    """

    def __init__(self, *, reads: ShardReads, number: int) -> None:
        self.reads = reads
        self.report = Report(number)
        self.sequence = 0
        self.is_replayed = False
        self.namespaces: tuple[str, ...] = ()
        self.deleted: tuple[str, ...] = ()
        self.ended: dict[str, EndedTasks] = {}
        self._number = number

    async def run(self) -> None:
        """Checks what the store has of the shard.

        Raises:
            JournalTooNew: a newer release wrote it.
        """
        point, replayed = await self._check_journal()
        self.sequence = point.sequence
        if replayed is None:
            self.report.findings.skipped.append(
                f"shard {self._number}: ended tasks, shared state and keys, since its journal can't be replayed to compare them with"
            )
            return
        self.is_replayed = True
        self.namespaces, self.deleted = tuple(replayed.recovered.states), tuple(replayed.recovered.deleted)
        for name in self.namespaces:
            await self._check_ended(name, replayed)
            await self._check_state(name)

    async def _check_journal(self) -> tuple[Point, Replayed | None]:
        left = _TRIES
        while True:
            report, left = Report(self._number), left - 1
            point = await self.reads.point([], elements=0)
            replayed = await check_journal(self.reads, point, report)
            is_still = (await self.reads.point([], elements=0)).snapshot_sequence == point.snapshot_sequence
            if is_still or not left or not report.findings.violations:  # else the journal was trimmed while it was read
                self.report.findings.add(report.findings)
                return point, replayed

    async def _check_ended(self, name: str, replayed: Replayed) -> None:
        async def check(point: Point, report: Report) -> None:
            self.ended[name] = await check_ended(
                self.reads, name, point.namespaces[name], replayed, report, head_sequence=point.sequence, date_ms=point.date_ms
            )

        await self._at_rest(name, "ended tasks", check, lambda one: (one.base, one.stop, one.counters))

    async def _check_state(self, name: str) -> None:
        async def check(point: Point, report: Report) -> None:
            if point.namespaces[name].meta:
                await StateCheck(reads=self.reads, name=name, report=report).run(point.namespaces[name].meta)

        await self._at_rest(name, "shared state", check, lambda one: one.meta)

    async def _at_rest(
        self, name: str, what: str, check: Callable[[Point, Report], Awaitable[None]], said: Callable[[NamespacePoint], object]
    ) -> None:
        """Runs a check until nothing changed meanwhile."""
        for _ in range(_TRIES):
            report = Report(self._number, name)
            before = await self.reads.point([name], elements=0)
            await check(before, report)
            after = await self.reads.point([name], elements=0)
            if said(before.namespaces[name]) == said(after.namespaces[name]):
                self.report.findings.add(report.findings)
                return
        if what == "ended tasks":
            self.ended.pop(name, None)
        self.report.findings.skipped.append(
            f"shard {self._number}, namespace {name}: {what} changed {_TRIES} times while read: check again when less is going on, "
            "or check an import of an export"
        )

    async def check_live(self, ask: AskDigest, *, release: str) -> None:
        """Checks that what a coordinator has in memory is what the journal says.

        Args:
            ask: asks it.
            release: ours: digests of another can't be compared.
        """
        for _ in range(_TRIES):
            live = await ask(self._number)
            if live.release != release:
                raise ToolError(f"the coordinator is of release {live.release}, and this one is {release}: check with the same release")
            point = await self.reads.point([], elements=0)
            if live.epoch != point.epoch or live.sequence > point.sequence:
                raise ToolError(
                    f"the coordinator that was asked doesn't own shard {self._number} of this store: name the one that does with --address"
                )
            if point.snapshot_sequence > live.sequence:
                continue  # a snapshot was taken meanwhile
            report = Report(self._number)
            replayed = await replay(self.reads, point, report, through=live.sequence)
            if (await self.reads.point([], elements=0)).snapshot_sequence != point.snapshot_sequence:
                continue
            if replayed is not None:
                report.looked("live states compared")
                report.hold(
                    digest(replayed).digest == live.digest,
                    "live state",
                    f"what the coordinator has in memory after journal entry {live.sequence} isn't what replay up to there makes: {REPORT}",
                )
            self.report.findings.violations += report.findings.violations
            self.report.findings.found += report.findings.found
            self.report.findings.looked_at["live states compared"] += report.findings.looked_at["live states compared"]
            return
        self.report.findings.skipped.append(f"shard {self._number}: snapshots came faster than its live state could be compared")


async def check(store: OpenStore, *, shards: Sequence[int], live: AskDigest | None, release: str, progress: Progress) -> Findings:
    """Checks shards of a deployment. Nothing is changed.

    Args:
        store: where they are.
        shards: their numbers; none for all.
        live: asks a coordinator for a shard's digest; None leaves memory out.
        release: ours.
        progress: is told.

    Raises:
        ToolError: it can't be done, in a sentence.
        JournalTooNew: a newer release wrote a shard.
    """
    deployment = await store.deployment()
    if bad := [number for number in shards if not 0 <= number < deployment.shards]:
        raise ToolError(f"there is no shard {bad[0]}: the deployment has {deployment.shards}, from 0 on")
    numbers = sorted(set(shards)) or list(range(deployment.shards))
    findings = Findings()
    checkers: dict[int, ShardChecker] = {}
    async with AsyncExitStack() as closing:
        for done, number in enumerate(numbers):
            progress(f"checking shard {number}", done, len(numbers))
            connection = await closing.enter_async_context(store.connection(number))
            checker = checkers[number] = ShardChecker(reads=ShardReads(connection=connection, keys=store.keys(number)), number=number)
            await checker.run()
            if live is not None:
                await checker.check_live(live, release=release)
        progress("looking for stray keys", len(numbers), len(numbers))
        known = {number: checker for number, checker in checkers.items() if checker.is_replayed}
        await check_keys(store, known, {number: checker.report for number, checker in known.items()})
    for checker in checkers.values():
        findings.add(checker.report.findings)
    findings.looked_at["shards"] = len(numbers)
    return findings
