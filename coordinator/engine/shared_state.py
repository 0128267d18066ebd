"""What a shard has to do with the shared state of its namespaces: it has it served under its claim, and says which there are.

The state package implements it; it lies above the engine, so that this is all that the engine knows of it.
"""

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Protocol


class SharedState(Protocol):
    """The shared state of a shard's namespaces. `lost_revisions` are those that the store had acknowledged, and lost, so far."""

    lost_revisions: int

    async def run(self, namespaces: Collection[str]) -> None:
        """Serves until cancelled, under the shard's present claim. Before and after, everything is refused with Unavailable.

        Args:
            namespaces: those that are there now.

        Raises:
            ShardLost: another coordinator has the shard.
            StoreCorrupt: the store answered something that must not be.
        """

    def open(self, namespace: str) -> None:
        """A namespace was made; again is no error."""

    def forget(self, namespace: str) -> None:
        """A namespace was deleted, and that is durable: what waits in it is refused, and watches end."""

    async def purge(self, namespace: str, *, limit: int) -> bool:
        """Removes a part of what the store holds of a deleted namespace, and answers whether there is more.

        Raises StoreOutage or StoreCorrupt.
        """


class NoSharedState:
    """A shard without: for tests of what has nothing to do with it."""

    lost_revisions = 0

    async def run(self, namespaces: Collection[str]) -> None:  # noqa: ARG002 - the port's
        """See SharedState."""
        await asyncio.Event().wait()

    def open(self, namespace: str) -> None:
        """See SharedState."""

    def forget(self, namespace: str) -> None:
        """See SharedState."""

    async def purge(self, namespace: str, *, limit: int) -> bool:  # noqa: ARG002 - the port's
        """See SharedState."""
        return False


async def run_together(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs all until the first ends, ends the others, and raises what it raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        first = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    first[0].result()
