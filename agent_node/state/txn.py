"""A transaction as it is built: conditions, what happens if all of them hold, and what if not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from muster.v1.state_pb2 import StateOp

from agent_node.arguments import count, text
from agent_node.client.tasks import Payload, encode_payload
from agent_node.state import wire
from agent_node.state.locks import Lease, lease_id_of
from agent_node.state.values import Entry

if TYPE_CHECKING:
    from agent_node.state.state import State


@dataclass(frozen=True, slots=True)
class TxnResult:
    """What a transaction came to.

    Args:
        succeeded: whether all conditions held.
        revision: of its writes; the namespace's present one, if it wrote nothing.
        entries: what it read, by key, as it was before its writes.
    """

    succeeded: bool
    revision: int
    entries: dict[str, Entry]


class Txn:
    """A transaction to build, and to `commit`. Methods return it, so that they can be chained.

        result = await state.txn().if_missing("leader").put("leader", "me").otherwise_get("leader").commit()

    Args:
        state: where it happens.
        fenced: as of `State.put`.
    """

    def __init__(self, state: "State", *, fenced: bool) -> None:
        self._state = state
        self._fenced = fenced
        self._compares: list[wire.Compare] = []
        self._then: list[StateOp] = []
        self._otherwise: list[StateOp] = []

    def if_revision(self, key: str, revision: int) -> Self:
        """Only if the key's last write was at this revision."""
        return self._if(key, wire.Target.REVISION, number=count("revision", revision))

    def if_create_revision(self, key: str, revision: int) -> Self:
        """Only if the key was made at this revision."""
        return self._if(key, wire.Target.CREATE_REVISION, number=count("revision", revision))

    def if_version(self, key: str, version: int) -> Self:
        """Only if the key has had so many writes since it was made."""
        return self._if(key, wire.Target.VERSION, number=count("version", version))

    def if_value(self, key: str, value: Payload) -> Self:
        """Only if the key has this value, byte for byte."""
        return self._if(key, wire.Target.VALUE, value=encode_payload(value, name="value")[0])

    def if_exists(self, key: str) -> Self:
        """Only if the key is there."""
        return self._if(key, wire.Target.EXISTS, number=1)

    def if_missing(self, key: str) -> Self:
        """Only if the key isn't there."""
        return self._if(key, wire.Target.EXISTS, number=0)

    def put(
        self, key: str, value: Payload, *, content_type: str | None = None, ttl_s: float | None = None, lease: Lease | int | None = None
    ) -> Self:
        """Then sets a key. Arguments as of `State.put`."""
        data, usual_type = encode_payload(value, name="value")
        self._then.append(
            wire.put_op(key, data, usual_type if content_type is None else content_type, ttl_s=ttl_s, lease_id=lease_id_of(lease))
        )
        return self

    def delete(self, key: str) -> Self:
        """Then deletes a key."""
        self._then.append(wire.delete_op(key))
        return self

    def get(self, *keys: str) -> Self:
        """Then reads keys."""
        self._then.append(wire.get_op(keys))
        return self

    def otherwise_put(self, key: str, value: Payload, *, content_type: str | None = None) -> Self:
        """If a condition doesn't hold: sets a key."""
        data, usual_type = encode_payload(value, name="value")
        self._otherwise.append(wire.put_op(key, data, usual_type if content_type is None else content_type))
        return self

    def otherwise_delete(self, key: str) -> Self:
        """If a condition doesn't hold: deletes a key."""
        self._otherwise.append(wire.delete_op(key))
        return self

    def otherwise_get(self, *keys: str) -> Self:
        """If a condition doesn't hold: reads keys."""
        self._otherwise.append(wire.get_op(keys))
        return self

    async def commit(self) -> TxnResult:
        """Makes it happen, or not. Conditions that don't hold are no error: `succeeded` says so.

        Raises:
            LockLost, AttemptLostError: as of `State.put`.
        """
        answer = await self._state.write(wire.txn_op(self._compares, self._then, self._otherwise), fenced=self._fenced)
        succeeded, revision, entries = wire.txn_result(answer)
        return TxnResult(succeeded, revision, {entry.key: entry for entry in entries})

    def _if(self, key: str, target: wire.Target, *, number: int = 0, value: bytes = b"") -> Self:
        self._compares.append(wire.Compare(text("key", key), target, number, value))
        return self
