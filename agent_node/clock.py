"""The SDK's one clock for durations. Everything else is given a time, or a function like `now_s`."""

import time

# Goes on while the machine sleeps, so that a lease that ran out meanwhile is not believed in. Linux has it, macOS doesn't need it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def now_s() -> float:
    """Seconds from an arbitrary start; never backwards, never comparable between machines."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def wall_ms() -> int:
    """Milliseconds since 1970, for the in-memory store of `agent_node.testing` and the age of files: no agent's clock decides anything."""
    return int(time.time() * 1000)
