"""A Redis Cluster: its slots, and what its nodes are asked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from coordinator.journal.errors import StoreStartError
from coordinator.journal.finding_connections import Address
from coordinator.journal.topology import MovingPrimaries, ask_together, client_to_ask

SLOTS = 16384
_ASKED_AT_MOST = 9  # of the nodes: more of them say nothing new


class _Range(NamedTuple):
    """Slots that somebody serves, as a node has it."""

    epoch: int  # of the primary's configuration
    first: int
    last: int
    primary: Address
    replicas: tuple[Address, ...]


class ClusterNodes(MovingPrimaries):
    """A store that is a Redis Cluster. See `Topology`.

    Args:
        seed: asks the address that was given.
        options: of connections to nodes, and of those by which nodes are asked.
        call_timeout_s: as of MovingPrimaries.
    """

    def __init__(self, *, seed: Redis, options: Mapping[str, Any], call_timeout_s: float) -> None:
        super().__init__(options=options, call_timeout_s=call_timeout_s)
        self._seed = seed
        self._node_options = options
        self._nodes: dict[Address, Redis] = {}
        self._ranges: list[_Range] = []

    async def start(self) -> None:
        """Looks for the first time.

        Raises:
            StoreStartError: not every slot is served, and one sentence says so.
        """
        await self.look()  # raises RedisError when nobody answers
        missing = SLOTS - len({slot for found in self._ranges for slot in range(found.first, found.last + 1)})
        if missing:
            raise StoreStartError(
                f"the store is a Redis Cluster in which nobody serves {missing} of {SLOTS} slots: mend it first (redis-cli --cluster check)"
            )
        if (await self._seed.execute_command("CLUSTER INFO"))["cluster_state"] != "ok":  # type: ignore[no-untyped-call]
            raise StoreStartError("the store is a Redis Cluster that is down (cluster_state): mend it first (redis-cli --cluster check)")

    async def look(self) -> None:
        """See MovingPrimaries. Of several who are said to serve a slot, the one with the highest configuration epoch does."""
        failures: list[Exception] = []
        asked = [self._seed, *list(self._nodes.values())[:_ASKED_AT_MOST]]
        answers = await ask_together([self._ask(node) for node in asked], failures.append, enough=len(asked))  # one may know more than most
        if not answers:
            raise RedisConnectionError(f"no node of the cluster says who serves what: {failures[0] if failures else 'they do not answer'}")
        self._ranges = sorted({found for answer in answers for found in answer}, reverse=True)
        known = {node for found in self._ranges for node in (found.primary, *found.replicas)}
        for gone in self._nodes.keys() - known:
            await self._nodes.pop(gone).aclose(close_connection_pool=True)
        for host, port in known - self._nodes.keys():
            self._nodes[host, port] = client_to_ask({**self._node_options, "host": host, "port": port})

    async def _ask(self, node: Redis) -> list["_Range"]:
        async with node.pipeline(transaction=False) as pipe:
            pipe.execute_command("CLUSTER", "SLOTS")
            pipe.execute_command("CLUSTER", "NODES")
            ranges, nodes = await pipe.execute()
        epochs = {fields[0]: int(fields[6]) for fields in map(str.split, nodes.splitlines())}
        host = getattr(node.connection_pool, "connection_kwargs", {}).get("host", "localhost")  # of a node that has no name for itself

        def address(named: list[Any]) -> Address:
            return named[0] or host, int(named[1])

        return [
            _Range(epochs.get(primary[2], 0), int(first), int(last), address(primary), tuple(map(address, replicas)))
            for first, last, primary, *replicas in ranges
        ]

    def way(self, key: str) -> int:
        """See MovingPrimaries: a key's slot."""
        return key_slot(key.encode())

    def primary(self, way: int) -> Address:
        """See MovingPrimaries."""
        for found in self._ranges:  # the highest epoch first
            if found.first <= way <= found.last:
                return found.primary
        raise RedisConnectionError(f"nobody serves slot {way} of the cluster")

    async def close_sources(self) -> None:
        """See MovingPrimaries."""
        for node in [self._seed, *self._nodes.values()]:
            await node.aclose(close_connection_pool=True)
