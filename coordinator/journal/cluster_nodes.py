"""A Redis Cluster: its slots, and what its nodes are asked."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError

from coordinator.journal.errors import StoreStartError
from coordinator.journal.finding_connections import Address
from coordinator.journal.topology import MovingPrimaries, ask_most, client_to_ask

SLOTS = 16384
_ASKED_AT_MOST = 9  # of the nodes: more of them say nothing new


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
        self._ranges: list[tuple[int, int, Address]] = []

    async def start(self) -> None:
        """Looks for the first time.

        Raises:
            StoreStartError: not every slot is served, and one sentence says so.
        """
        await self.look()  # raises RedisError when nobody answers
        missing = SLOTS - sum(last - first + 1 for first, last, _ in self._ranges)
        if missing:
            raise StoreStartError(
                f"the store is a Redis Cluster in which nobody serves {missing} of {SLOTS} slots: mend it first (redis-cli --cluster check)"
            )
        if (await self._seed.execute_command("CLUSTER INFO"))["cluster_state"] != "ok":  # type: ignore[no-untyped-call]
            raise StoreStartError("the store is a Redis Cluster that is down (cluster_state): mend it first (redis-cli --cluster check)")

    async def look(self) -> None:
        """See MovingPrimaries. Of those who answer, the one that knows the highest epoch holds."""
        failures: list[Exception] = []
        asked = [self._seed, *list(self._nodes.values())[:_ASKED_AT_MOST]]
        answers = await ask_most([self._ask(node) for node in asked], failures.append)
        if not answers:
            raise RedisConnectionError(f"no node of the cluster says who serves what: {failures[0] if failures else 'they do not answer'}")
        _, ranges = max(answers, key=lambda answer: answer[0])
        self._ranges = [(first, last, primary) for first, last, primary, _ in ranges]
        known = {node for _, _, primary, replicas in ranges for node in (primary, *replicas)}
        for gone in self._nodes.keys() - known:
            await self._nodes.pop(gone).aclose(close_connection_pool=True)
        for found in known - self._nodes.keys():
            self._nodes[found] = client_to_ask({**self._node_options, "host": found[0], "port": found[1]})

    async def _ask(self, node: Redis) -> tuple[int, list[tuple[int, int, Address, list[Address]]]]:
        async with node.pipeline(transaction=False) as pipe:
            pipe.execute_command("CLUSTER INFO")
            pipe.execute_command("CLUSTER", "SLOTS")
            info, ranges = await pipe.execute()
        host = getattr(node.connection_pool, "connection_kwargs", {}).get(
            "host", "localhost"
        )  # what a node calls itself that knows no other name

        def address(named: list[Any]) -> Address:
            return named[0] or host, int(named[1])

        return int(info["cluster_current_epoch"]), [
            (int(first), int(last), address(primary), [address(replica) for replica in replicas])
            for first, last, primary, *replicas in ranges
        ]

    def way(self, key: str) -> int:
        """See MovingPrimaries: a key's slot."""
        return key_slot(key.encode())

    def primary(self, way: int) -> Address:
        """See MovingPrimaries."""
        for first, last, address in self._ranges:
            if first <= way <= last:
                return address
        raise RedisConnectionError(f"nobody serves slot {way} of the cluster")

    async def close_sources(self) -> None:
        """See MovingPrimaries."""
        for node in [self._seed, *self._nodes.values()]:
            await node.aclose(close_connection_pool=True)
