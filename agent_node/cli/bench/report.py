"""What a run found, as the object that --json prints and as a table. The keys are an interface: they keep their names."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from agent_node.cli.bench.loop import loop_name
from agent_node.cli.bench.measures import GroupUsage, percentile
from agent_node.cli.payloads import Json

if TYPE_CHECKING:
    from rich.console import Group

DISTRIBUTIONS = ("muster-agents", "grpcio", "protobuf", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchOptions:
    """What was asked for."""

    tasks: int
    in_flight: int
    capacity: int  # of each working agent
    payload_bytes: int
    agents: int  # working streams
    connected: int  # streams in all: idle agents fill up to it


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """The coordinator and its store, in its own words."""

    version: str
    store: str
    durability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchReport:
    """What a run found. `usage` holds what each role used while the tasks ran, and `start_s` is None for somebody else's coordinator."""

    options: DispatchOptions
    tasks_per_s: float
    submitted: int
    completed: int
    latencies_s: Sequence[float]
    unary_tasks_per_s: float
    cpu_s: Mapping[str, float]
    rss_mb: Mapping[str, float]
    ceiling_tasks_per_s: float
    ceiling_latency_ms: float
    coordinator: StoreFacts
    start_s: float | None
    first_error: str = ""

    def latency_ms(self) -> "dict[str, Json]":
        """The percentiles of sequential submit-to-result, in milliseconds."""
        return {f"p{percent}": round(percentile(self.latencies_s, percent) * 1000, 3) for percent in (50, 99)}

    def cpu_s_per_1000(self) -> dict[str, float]:
        """CPU seconds of each role for a thousand completed tasks."""
        return {role: round(cpu_s * 1000 / max(1, self.completed), 5) for role, cpu_s in self.cpu_s.items()}

    def record(self) -> "dict[str, Json]":
        """The object that --json prints."""
        return {
            "tasks_per_s": round(self.tasks_per_s, 1),
            "submitted": self.submitted,
            "completed": self.completed,
            "latency_ms": self.latency_ms(),
            "unary_tasks_per_s": round(self.unary_tasks_per_s, 1),
            "cpu_s_per_1000": {**self.cpu_s_per_1000()},
            "rss_mb": {role: round(size, 1) for role, size in self.rss_mb.items()},
            "ceiling_tasks_per_s": round(self.ceiling_tasks_per_s, 1),
            "ceiling_latency_ms": round(self.ceiling_latency_ms, 3),
            "share_of_ceiling": round(self.tasks_per_s / self.ceiling_tasks_per_s, 4),
            "coordinator_start_s": None if self.start_s is None else round(self.start_s, 3),
            "first_error": self.first_error,
            "options": asdict(self.options),
            "coordinator": asdict(self.coordinator),
            "machine": {
                "cores": os.cpu_count(),
                "system": f"{platform.system()} {platform.machine()}",
                "python": platform.python_version(),
                "event_loop": loop_name(),
            },
            "versions": {**installed_versions(DISTRIBUTIONS)},
        }

    def table(self) -> "Group":
        """The same for a person."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        latency = self.latency_ms()
        facts = Table(box=None, show_header=False, pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(justify="right", no_wrap=True)
        facts.add_column(style="dim", overflow="fold")
        all_done = self.completed == self.submitted
        share = 100 * self.tasks_per_s / self.ceiling_tasks_per_s
        facts.add_row("tasks/s", Text(f"{self.tasks_per_s:,.0f}", "bold green"), f"{share:.1f} % of the ceiling")
        facts.add_row("completed", Text(f"{self.completed:,}", "" if all_done else "bold red"), f"of {self.submitted:,} submitted")
        facts.add_row("latency p50", f"{latency['p50']} ms", "submit to result, one task at a time")
        facts.add_row("latency p99", f"{latency['p99']} ms", "")
        facts.add_row("unary submits/s", f"{self.unary_tasks_per_s:,.0f}", "one task per SubmitTasks call, 100 in flight")
        facts.add_row("ceiling tasks/s", f"{self.ceiling_tasks_per_s:,.0f}", "a bare gRPC stream, 100 tasks a message, no store")
        facts.add_row("ceiling latency", f"{self.ceiling_latency_ms:.3f} ms", "one ping-pong on it")
        if self.start_s is not None:
            facts.add_row("start", f"{self.start_s:.2f} s", "until the coordinator served")
        facts.add_row("store", "", f"{self.coordinator.store}: {self.coordinator.durability}")
        if self.first_error:
            facts.add_row("first error", "", Text(self.first_error, "red"))
        roles = Table("process", "CPU s per 1,000 tasks", "memory MB", box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for role, cpu_s in self.cpu_s_per_1000().items():
            roles.add_row(role, f"{cpu_s:.4f}", f"{self.rss_mb.get(role, 0):.0f}")
        return Group(facts, roles)


def used_between(before: Mapping[str, GroupUsage], after: Mapping[str, GroupUsage]) -> dict[str, float]:
    """CPU seconds that each role used between two looks; roles that were not seen both times are left out."""
    return {role: after[role].cpu_s - before[role].cpu_s for role in after if role in before}


def installed_versions(distributions: Iterable[str]) -> dict[str, str]:
    """The version of each distribution that is installed."""
    versions: dict[str, str] = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
