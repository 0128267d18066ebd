"""Runs a module under cProfile in all its threads, and writes the statistics of all of them to one file when it ends.

python -m agent_node.cli.bench.profiled FILE MODULE [ARGUMENT]...
"""

import cProfile
import io
import pstats
import runpy
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ThreadProfiler:
    """A profile per thread: before Python 3.12 a profile sees the thread that enabled it and no other."""

    def __init__(self) -> None:
        self._profiles: list[cProfile.Profile] = []

    def start(self) -> None:
        """Profiles this thread, and each thread that starts from now on."""
        if sys.version_info < (3, 12):
            threading.setprofile(lambda *_event: self._profile_this_thread())
        self._profile_this_thread()

    def _profile_this_thread(self) -> None:
        profile = cProfile.Profile()
        self._profiles.append(profile)
        profile.enable()

    def write(self, file: Path) -> None:
        """Ends profiling and writes the sum of all threads."""
        threading.setprofile(None)
        total = pstats.Stats(stream=io.StringIO())
        for profile in self._profiles:
            profile.disable()
            profile.create_stats()
            if profile.stats:
                total.add(profile)
        total.dump_stats(file)


@contextmanager
def profiled_here(file: Path | None) -> Iterator[None]:
    """Profiles this thread while the context lasts, and writes the statistics to `file`; does nothing without one."""
    if file is None:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    profile.dump_stats(file)


def main() -> None:
    """Command line: the file for the statistics, the module, its arguments."""
    file, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a module without a handler of its own leaves its statistics
    profiler = ThreadProfiler()
    profiler.start()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        profiler.write(file)


if __name__ == "__main__":
    main()
