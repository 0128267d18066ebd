"""The HTTP listener: where it listens, and its end. What it answers is each module's own affair."""

from __future__ import annotations

from aiohttp import web

from coordinator.rpc.server import ListenError

STOP_S = 1.0  # for answers that are under way


class HttpServer:
    """Serves one application on one address."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_S)

    async def start(self, address: str) -> int:
        """Listens on `host:port`, and answers the port: the one that was free, for port 0.

        Raises:
            ListenError: the address is taken, or not ours.
        """
        host, _, port = address.rpartition(":")
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port), reuse_address=True).start()
        except OSError as error:
            await self._runner.cleanup()
            raise ListenError(
                f"can't listen on {address}: it is in use, or isn't this machine's; choose another with --http-listen"
            ) from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Ends it, if it has begun."""
        await self._runner.cleanup()
