"""Whoever asks whether this coordinator lives and is ready: over HTTP, and over gRPC through `tell`. From its first moment to its last."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from coordinator.http.health import add_health
from coordinator.http.server import HttpServer

if TYPE_CHECKING:
    from coordinator.cluster.health import Health


class Probes:
    """Answers them.

    Args:
        health: what they are answered from.
        tell: is told whether the coordinator is ready, at first and whenever that changes.
        version: the coordinator's.
    """

    def __init__(self, *, health: Health, tell: Callable[[bool], Awaitable[None]], version: str) -> None:
        self.port = 0  # where it answers over HTTP; 0 where it doesn't
        self._health = health
        self._tell = tell
        app = web.Application()
        add_health(app, health=health, version=version)
        self._http = HttpServer(app)
        self._looking: asyncio.Task[None] | None = None

    async def start(self, address: str | None) -> None:
        """Begins, with HTTP on `host:port` if there is an address: it lives, and isn't ready.

        Raises:
            ListenError: the address is taken, or not ours.
        """
        if address is not None:
            self.port = await self._http.start(address)
        self._looking = asyncio.create_task(self._health.run(self._tell), name="health")

    async def started(self) -> None:
        """All is served that is ours to begin with."""
        self._health.has_started = True
        await self._health.look()

    async def ending(self) -> None:
        """It isn't ready any more: to be called before anything ends."""
        self._health.is_ending = True
        await self._health.look()

    async def stop(self) -> None:
        """It doesn't answer any more."""
        if self._looking is not None:
            self._looking.cancel()
        await self._http.stop()
