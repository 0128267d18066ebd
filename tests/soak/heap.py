"""What a process's allocators hold, from within: it tells memory that is in use from memory that only isn't given back to the system."""

import ctypes
import sys

BLOCKS, USED, UNUSED = "python blocks", "malloc used", "malloc unused"
HELD = frozenset({BLOCKS, USED, UNUSED})


class _MallInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    )


def _mallinfo() -> ctypes._CFuncPtr | None:
    """glibc's function; None on other systems, and before glibc 2.33."""
    function = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if function is not None:
        function.restype = _MallInfo
    return function


_MALLINFO = _mallinfo()


def heap() -> dict[str, int]:
    """What is held: Python's small objects, which are exact; and in bytes, what malloc has given out, and what it keeps unused."""
    held = {BLOCKS: sys.getallocatedblocks()}
    if _MALLINFO is not None:
        info = _MALLINFO()
        held |= {USED: info.uordblks + info.hblkhd, UNUSED: info.fordblks}
    return held
