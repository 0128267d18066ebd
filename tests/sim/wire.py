"""A bidirectional stream between a client or agent and a coordinator: ordered, late, and sometimes cut."""

import asyncio

from coordinator.errors import MusterError
from coordinator.rpc.outgoing import serve_stream


class Wire:
    """One stream. What is sent arrives in order, each way after a delay of its own.

    `cut` breaks it as a network does: each side learns of it in its own time, and what was on its way may arrive or not.
    """

    def __init__(self, *, sim, owner, coordinator):
        self.sim = sim
        self.owner = owner  # has received(wire, message) and ended(wire)
        self.coordinator = coordinator
        self.batches = {}  # what the owner sent, by batch id: for the auditor
        self._loop = sim.loop
        self._rng = sim.rng
        self._inbox = asyncio.Queue()
        self._last_in = self._last_out = 0.0
        self._reaches_server_until = self._reaches_owner_until = float("inf")
        self._server = None

    # --- the owner's side ---

    def send(self, message):
        self._last_in = max(self._loop.time() + self.sim.latency_s(), self._last_in + 1e-6)
        self._loop.call_at(self._last_in, self._to_server, message)

    def cut(self):
        """The owner gives up on it at once; the coordinator notices later."""
        if self._reaches_owner_until == float("inf"):
            now = self._loop.time()
            self._reaches_owner_until = now
            self._reaches_server_until = now + self._rng.choice([0.0, 0.005, 0.05])
            self._loop.call_at(now + self._rng.choice([0.05, 0.05, 0.3, 3.0]), self._stop_server)

    # --- the coordinator's side ---

    def serve(self, stream):
        self._server = self._loop.create_task(self._serve(stream), name="stream")
        self._server.add_done_callback(self._served)

    async def _serve(self, stream):
        await serve_stream(self, stream.sender, stream.read(self._messages()))

    async def write(self, blob):
        """What the stream's sender calls."""
        message = self.owner.RESPONSE.FromString(blob)
        self.sim.auditor.released(self, message)
        self._last_out = max(self._loop.time() + self.sim.latency_s(), self._last_out + 1e-6)
        self._loop.call_at(self._last_out, self._to_owner, message)
        await asyncio.sleep(self._rng.choice([0.0, 0.0, 0.001]))

    def sever(self):
        """The coordinator's machine is gone: nothing of it gets out any more."""
        self._reaches_owner_until = self._reaches_server_until = self._loop.time()
        self._stop_server()
        self._loop.call_later(self.sim.latency_s(), self.owner.ended, self)

    async def _messages(self):
        while True:
            yield await self._inbox.get()

    def _to_server(self, message):
        if self._loop.time() <= self._reaches_server_until:
            self._inbox.put_nowait(message)

    def _to_owner(self, message):
        if self._loop.time() < self._reaches_owner_until:
            self.owner.received(self, message)

    def _stop_server(self):
        if self._server is not None:
            self._server.cancel()

    def _served(self, server):
        self.coordinator.wires.pop(self, None)
        error = None if server.cancelled() else server.exception()
        if error is not None and not isinstance(error, MusterError):
            self.sim.fail(error)
        if not server.cancelled():
            self._loop.call_later(self.sim.latency_s(), self._end_owner)

    def _end_owner(self):
        if self._loop.time() < self._reaches_owner_until:
            self._reaches_owner_until = self._loop.time()
            self.owner.ended(self)
