"""What happens to the processes of a soak while it runs: a table. A new disturbance is one entry.

Nothing restarts the coordinator in the last part of a run: how its memory goes needs a process that lives long enough to tell.
"""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.e2e.deployment import Deployment
from tests.support.processes import Child

QUIET_FROM = 0.35  # of the run: from here on the coordinator stays as it is
RESTLESS_AGENTS = 2
CAPACITY = 200


class Fleet:
    """The deployment's processes that may be restarted.

    Args:
        deployment: where they belong.
        env: of the agents.
        rng: draws who and how long.
    """

    def __init__(self, *, deployment: Deployment, env: dict[str, str], rng: random.Random) -> None:
        self.deployment = deployment
        self.env = env
        self.rng = rng
        self.restless = [self.start_agent(f"restless-{number}") for number in range(RESTLESS_AGENTS)]

    def start_agent(self, name: str) -> Child:
        return self.deployment.start_agent(name, capacity=CAPACITY, env=self.env)

    async def drain_agent(self) -> None:
        """SIGTERM: it finishes what it runs, or gives it back."""
        old = self.restless.pop(0)
        old.send(signal.SIGTERM)
        await old.wait_for_exit(within_s=30.0)
        self.restless.append(self.start_agent(old.name))

    async def kill_agent(self) -> None:
        old = self.restless.pop(0)
        old.kill()
        self.restless.append(self.start_agent(old.name))

    async def freeze_agent(self) -> None:
        """SIGSTOP for longer than its lease: what it ran goes to others, and what it says afterwards is stale."""
        agent = self.rng.choice(self.restless)
        agent.send(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(0.5, 6.0))
        agent.send(signal.SIGCONT)

    async def kill_coordinator(self) -> None:
        await self.deployment.kill_coordinator()

    async def restart_coordinator(self) -> None:
        """SIGTERM: its store ends with it."""
        self.deployment.coordinator.send(signal.SIGTERM)
        await self.deployment.coordinator.wait_for_exit(within_s=30.0)
        await self.deployment.start_coordinator()

    async def stop_store(self) -> None:
        """An outage without a broken connection."""
        async with self.deployment.stopped_store():
            await asyncio.sleep(self.rng.uniform(0.5, 3.0))

    async def kill_store(self) -> None:
        await self.deployment.kill_store()


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something that happens now and then.

    Attributes:
        what: it.
        times: how often in a run.
        until: only in this first part of it.
    """

    what: Callable[[Fleet], Awaitable[None]]
    times: int
    until: float = 1.0


DISTURBANCES = [
    Disturbance(Fleet.drain_agent, times=12),
    Disturbance(Fleet.kill_agent, times=12),
    Disturbance(Fleet.freeze_agent, times=6),
    Disturbance(Fleet.stop_store, times=8),
    Disturbance(Fleet.kill_store, times=2, until=QUIET_FROM),
    Disturbance(Fleet.kill_coordinator, times=3, until=QUIET_FROM),
    Disturbance(Fleet.restart_coordinator, times=2, until=QUIET_FROM),
]


def plan(duration_s: float, rng: random.Random, *, share: float = 1.0) -> list[tuple[float, Disturbance]]:
    """When what happens, in order. `share` is how many of the disturbances there are."""
    dates = [
        (rng.uniform(0.02, 0.95 * one.until) * duration_s, place)
        for place, one in enumerate(DISTURBANCES)
        for _ in range(max(1, round(one.times * share)))
    ]
    return [(at_s, DISTURBANCES[place]) for at_s, place in sorted(dates)]


async def disturb(fleet: Fleet, planned: list[tuple[float, Disturbance]], note: Callable[[str], None]) -> None:
    """Lets everything happen at its time, one after the other."""
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    for at_s, one in planned:
        await asyncio.sleep(max(0.0, begin_s + at_s - loop.time()))
        await one.what(fleet)
        note(one.what.__name__)
