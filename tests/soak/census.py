"""What a process holds, counted from within: the length of every container of our own objects, by class and attribute.

It walks over whatever there is, so what is added later is counted too. Processes of a soak write their counts down every few seconds.
"""

import asyncio
import json
import os
import threading
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.soak.heap import heap

PERIOD_S = 2.0
FOLLOWED = 64  # elements of a container that are walked into: more are alike, and counting must stay cheap
_CONTAINERS = (dict, list, set, frozenset, deque, tuple)


def count(root: object, *, package: str) -> dict[str, int]:
    """How many elements all containers have that can be reached from `root`, by `Class.attribute`. Empty ones are left out.

    Args:
        root: where to begin.
        package: objects of its classes are walked into, and containers.
    """
    counts: Counter[str] = Counter()
    seen: set[int] = set()
    stack: list[tuple[str, object]] = [("", root)]
    while stack:
        name, value = stack.pop()
        if id(value) in seen:
            continue
        if isinstance(value, _CONTAINERS):
            seen.add(id(value))
            counts[name] += len(value)
            if len(value) <= FOLLOWED:
                stack.extend((f"{name}[]", element) for element in _elements(value))
        elif value is root or _is_own(value, package):
            seen.add(id(value))
            counts[type(value).__name__] += 1
            stack.extend((f"{type(value).__name__}.{attribute}", held) for attribute, held in _attributes(value))
        elif isinstance(value, asyncio.Queue):
            counts[name] += value.qsize()
    return {name: total for name, total in sorted(counts.items()) if total and isinstance(name, str)}


def _is_own(value: object, package: str) -> bool:
    module = getattr(type(value), "__module__", "")
    return isinstance(module, str) and module.partition(".")[0] == package and not isinstance(value, type)


def _elements(value: Any) -> Iterator[object]:
    """What a container holds. Another thread may be changing it."""
    try:
        yield from list(value)
        if isinstance(value, dict):
            yield from list(value.values())
    except RuntimeError:
        return


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    yield from list(getattr(value, "__dict__", {}).items())
    for owner in type(value).__mro__:
        slots = owner.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            try:
                yield slot, getattr(value, slot)
            except AttributeError:
                continue


def write(file: Path, counts: dict[str, int], **more: int) -> None:
    """Adds a line to a process's file."""
    with file.open("a") as sink:
        sink.write(json.dumps({**counts, **more}) + "\n")


def file_of(role: str) -> Path:
    """Where this process writes."""
    return Path(os.environ["SOAK_CENSUS"]) / f"{role}-{os.getpid()}.jsonl"


async def report_in_loop(role: str, root: object, *, package: str) -> None:
    """Counts again and again, in the loop that everything belongs to, until cancelled."""
    file = file_of(role)
    while True:
        write(file, count(root, package=package), **{"asyncio tasks": len(asyncio.all_tasks())}, **heap())
        await asyncio.sleep(PERIOD_S)


def report_in_thread(role: str, root: object, *, package: str) -> None:
    """The same beside a program whose loop isn't ours."""
    file = file_of(role)

    def report() -> None:
        while not stop.wait(PERIOD_S):
            write(file, count(root, package=package), **heap())

    stop = threading.Event()
    threading.Thread(target=report, name="census", daemon=True).start()


def last_of(folder: Path, role: str, pid: int) -> dict[str, int]:
    """What a process wrote last; empty when it wrote nothing."""
    file = folder / f"{role}-{pid}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(json.loads(lines[-1])) if lines else {}
