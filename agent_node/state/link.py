"""What of a client is open for shared state: its session for operations, and its stream of watches. Both connect when first used."""

import asyncio

import grpc
from muster.v1.state_pb2_grpc import StateServiceStub

from agent_node.backoff import Backoff
from agent_node.ids import new_client_id
from agent_node.state.session import StateSession
from agent_node.state.updates import AtomicUpdates
from agent_node.state.watches import Watches


class StateLink:
    """One client's connection for shared state.

    Args:
        channel: the client's.
        metadata: of every call.
        give_up_s: how many seconds broken connections are mended.
        connect_timeout_s: the same before the first answer.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, metadata: tuple[tuple[str, str], ...], give_up_s: float, connect_timeout_s: float
    ) -> None:
        stub = StateServiceStub(channel)
        self.loop = asyncio.get_running_loop()
        self.session = StateSession(
            open_call=lambda: stub.StateSession(metadata=metadata),
            client_id=new_client_id(),
            backoff=Backoff(),
            give_up_s=give_up_s,
            connect_timeout_s=connect_timeout_s,
        )
        self.watches = Watches(
            open_call=lambda: stub.Watch(metadata=metadata), backoff=Backoff(), give_up_s=give_up_s, connect_timeout_s=connect_timeout_s
        )

        self.updates = AtomicUpdates()

    async def aclose(self) -> None:
        """Closes both. Whoever still waits gets UnavailableError."""
        await self.session.aclose()
        await self.watches.aclose()
