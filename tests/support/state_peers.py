"""Raw peers of StateService, message by message."""

from typing import Any

from muster.v1 import state_pb2 as pb

from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, Peer


class SessionPeer(Peer[pb.StateSessionRequest, pb.StateSessionResponse]):
    """A client's side of StateSession."""

    def __init__(self, call: Any) -> None:
        super().__init__(call)
        self._ids = 0

    def op(self, **what: Any) -> pb.StateOp:
        """An operation under the next number."""
        self._ids += 1
        return pb.StateOp(op_id=self._ids, **what)

    async def ask(self, *ops: pb.StateOp, client_id: str = "") -> list[pb.StateAnswer]:
        """Sends operations, and answers what they came to."""
        await self.send(pb.StateSessionRequest(client_id=client_id, ops=ops))
        return [await self.answer(op.op_id) for op in ops]

    async def answer(self, op_id: int) -> pb.StateAnswer:
        """Waits for an operation's one answer."""
        found = await eventually(
            lambda: [answer for message in self.received for answer in message.answers if answer.op_id == op_id],
            within_s=PATIENT_S,
            message=f"the answer to {op_id}",
        )
        assert len(found) == 1
        return found[0]


class WatchPeer(Peer[pb.WatchRequest, pb.WatchResponse]):
    """A client's side of Watch."""

    async def begin(self, *creates: pb.CreateWatch) -> None:
        """Begins watches, and waits until they have begun, or were refused."""
        await self.send(pb.WatchRequest(create=creates))
        wanted = {create.watch_id for create in creates}
        await eventually(
            lambda: wanted <= {one.watch_id for one in self.news() if one.created or one.HasField("refusal")},
            within_s=PATIENT_S,
            message="the watches to begin",
        )

    def news(self, watch_id: int | None = None) -> list[pb.WatchNews]:
        """What was told, of one watch or of all."""
        return [one for message in self.received for one in message.news if watch_id in (None, one.watch_id)]

    def events(self, watch_id: int) -> list[pb.StateEvent]:
        """What a watch has seen."""
        return [event for one in self.news(watch_id) for event in one.events]

    async def events_of(self, watch_id: int, number: int) -> list[pb.StateEvent]:
        """Waits until a watch has seen so many events."""
        await eventually(lambda: len(self.events(watch_id)) >= number, within_s=PATIENT_S, message=f"{number} events")
        return self.events(watch_id)


def put(key: str, value: bytes = b"v", **fields: Any) -> pb.PutRequest:
    """A request to set a key."""
    return pb.PutRequest(key=key, value=value, **fields)
