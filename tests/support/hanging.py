"""A test that never ends, for the one that ends its run from outside: `python -m pytest tests/support/hanging.py`."""

import asyncio
import sys

from tests.support.processes import Children


async def test_that_hangs(children: Children) -> None:
    child = children.start([sys.executable, "-c", "import signal; signal.pause()"], name="idle")
    print(f"started {child.pid}", file=sys.__stderr__, flush=True)
    await asyncio.Event().wait()
