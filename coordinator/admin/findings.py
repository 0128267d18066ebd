"""What a check has found: violations, a sentence each with where and what to do, and how much was looked at."""

from collections import Counter
from dataclasses import dataclass, field

MAX_PER_KIND = 20  # one fault often shows in a million places


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must hold and doesn't.

    Attributes:
        shard: where.
        namespace: where in it; empty for the shard itself.
        kind: which rule, by a name for programs.
        message: what is wrong, and what to do, in a sentence.
    """

    shard: int
    namespace: str
    kind: str
    message: str


@dataclass(slots=True)
class Findings:
    """Of any number of shards.

    Attributes:
        violations: in the order in which they were found; of one kind in one namespace, the first twenty.
        found: how many of each kind there are, all counted.
        looked_at: how much there was of what.
        skipped: what could not be looked at, and why, a sentence each.
    """

    violations: list[Violation] = field(default_factory=list)
    found: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Takes in others."""
        self.violations += other.violations
        self.found += other.found
        self.looked_at += other.looked_at
        self.skipped += other.skipped


@dataclass(slots=True)
class Report:
    """The findings about one shard, or one namespace of it."""

    shard: int
    namespace: str = ""
    findings: Findings = field(default_factory=Findings)

    def wrong(self, kind: str, message: str) -> None:
        """Something must hold and doesn't."""
        key = (self.shard, self.namespace, kind)
        self.findings.found[key] += 1
        if self.findings.found[key] <= MAX_PER_KIND:
            self.findings.violations.append(Violation(self.shard, self.namespace, kind, message))

    def hold(self, condition: bool, kind: str, otherwise: str) -> None:  # noqa: FBT001 - as an assertion
        """`condition` must hold."""
        if not condition:
            self.wrong(kind, otherwise)

    def looked(self, what: str, count: int = 1) -> None:
        """So much was looked at."""
        self.findings.looked_at[what] += count
