"""A lock holder that was stopped for longer than its lease, then goes on, writes nothing."""

import signal
import sys

import pytest

from tests.support.eventually import eventually
from tests.support.fake_state_service import FakeStateService, serving

pytestmark = pytest.mark.e2e

HOLDER = """
import asyncio, sys
from agent_node import Client, LockLost

async def main():
    async with Client(sys.argv[1]) as client:
        try:
            async with client.state.lock("l", ttl_s=1.0):
                while True:
                    await client.state.put("k", "held", fenced=False)
                    await asyncio.sleep(0)
        except LockLost as error:
            print(f"lost: {error}", flush=True)
            sys.exit(3)

asyncio.run(main())
"""


async def test_a_stopped_holder_writes_nothing_when_it_goes_on(children):
    service = FakeStateService()
    async with serving(service) as address:
        holder = children.start([sys.executable, "-c", HOLDER, address], name="holder")
        await eventually(lambda: "k" in service.entries, within_s=20, message="the holder to write")
        holder.send(signal.SIGSTOP)
        service.take_lock_away("l")  # its lease has ended
        service.write("k", b"somebody else's")
        holder.send(signal.SIGCONT)
        assert await holder.wait_for_exit(within_s=20) == 3, holder.output()
        assert "lost: the lock l is somebody else's" in holder.output()
    assert service.entries["k"].value == b"somebody else's"
