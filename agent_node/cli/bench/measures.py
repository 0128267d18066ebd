"""Numbers: percentiles, and what a process has used of the machine.

CPU and memory come from /proc where there is one, and from `ps` elsewhere (macOS): the same meaning, in coarser steps.
"""

import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_PS_TIMEOUT_S = 5.0


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest sample that at least `percent` % of the samples don't exceed.

    Raises ValueError without samples, or for a percent outside 0 to 100.
    """
    if not samples:
        raise ValueError("a percentile needs at least one sample")
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not at {percent}")
    rank = max(1, math.ceil(len(samples) * percent / 100))
    return sorted(samples)[rank - 1]


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What one process has used: CPU seconds of all its threads since it started, and resident memory now."""

    parent_pid: int
    name: str
    cpu_s: float
    rss_mb: float


def parse_proc_stat(text: str, *, ticks_per_s: int, page_bytes: int) -> ProcessUsage:
    """Reads a line of /proc/PID/stat. The name is in brackets and may hold spaces and brackets itself."""
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    cpu_ticks = int(fields[11]) + int(fields[12])
    return ProcessUsage(int(fields[1]), name, cpu_ticks / ticks_per_s, int(fields[21]) * page_bytes / 1e6)


def parse_ps_time(text: str) -> float:
    """Seconds of a `ps -o time` column: [[days-]hours:]minutes:seconds[.hundredths]."""
    days, _, clock = text.strip().rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)


def parse_ps_line(text: str) -> tuple[int, ProcessUsage]:
    """Reads a line of `ps -o pid=,ppid=,rss=,time=,comm=`; the answer is the process id and its usage."""
    pid, parent, rss_kib, cpu_time, command = text.split(None, 4)
    return int(pid), ProcessUsage(int(parent), Path(command.strip()).name, parse_ps_time(cpu_time), int(rss_kib) * 1024 / 1e6)


def process_table() -> Mapping[int, ProcessUsage]:
    """Every process that can be seen, by id; empty where neither /proc nor `ps` answers."""
    if (PROC / "self" / "stat").exists():
        return _table_from_proc()
    return _table_from_ps()


def _table_from_proc() -> dict[int, ProcessUsage]:
    ticks_per_s, page_bytes = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    table: dict[int, ProcessUsage] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            table[int(entry.name)] = parse_proc_stat((entry / "stat").read_text(), ticks_per_s=ticks_per_s, page_bytes=page_bytes)
        except OSError:  # it ended while we looked
            continue
    return table


def _table_from_ps() -> dict[int, ProcessUsage]:
    command = ["ps", "-A", "-o", "pid=,ppid=,rss=,time=,comm="]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=_PS_TIMEOUT_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(parse_ps_line(line) for line in listing.splitlines() if line.strip())


def children_of(pid: int, table: Mapping[int, ProcessUsage]) -> list[int]:
    """The ids of the direct children of `pid`."""
    return sorted(child for child, usage in table.items() if usage.parent_pid == pid)


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """What the processes of one role have used together."""

    cpu_s: float
    rss_mb: float


def usage_by_role(roles: Mapping[str, Sequence[int]], table: Mapping[int, ProcessUsage]) -> dict[str, GroupUsage]:
    """Adds up the processes of each role. A role with a process that can't be seen is left out: half a sum would mislead."""
    return {
        role: GroupUsage(sum(table[pid].cpu_s for pid in pids), sum(table[pid].rss_mb for pid in pids))
        for role, pids in roles.items()
        if pids and all(pid in table for pid in pids)
    }
