"""Which coordinator the next call goes to: the namespace's owner if one was heard of and can be reached, or else the given ones in turn.

It decides, and knows no channel: `routing` has those.
"""

import ipaddress
from collections.abc import Callable, Iterable, Sequence

import grpc

from agent_node.addresses import GRPC_SCHEMES
from agent_node.statuses import info_in

NAMESPACE_KEY = "muster-namespace"
OWNER_KEY = "muster-owner"
_SENT_AGAIN = frozenset({"SHARD_MOVED", "SHARD_UNAVAILABLE"})  # who answers these may do better in a moment, or somebody else
_ABOUT_ANOTHER = frozenset({"CreateNamespace", "DeleteNamespace"})  # its owner is the owner of the namespace in the request
_ONCE = frozenset({"DeleteNamespace"})  # a second time it would fail, although the first was well

Pairs = Iterable[tuple[str, str | bytes]]


class Routes:
    """The addresses of coordinators, and what is known of them.

    Args:
        given: where to begin, and to come back to: at least one.
        connect_timeout_s: how long none of them may answer before the first has.
        now_s: a monotonic clock.
    """

    def __init__(self, given: Sequence[str], *, connect_timeout_s: float, now_s: Callable[[], float]) -> None:
        self.given = tuple(given)
        self._are_several = len(self.given) > 1 or may_be_several(self.given[0])
        self._turn = 0
        self._owners: dict[str, str] = {}
        self._has_answered = False
        self._patience_ends_s = now_s() + connect_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self.now_s = now_s

    def choose(self, namespace: str, is_ready: Callable[[str], bool]) -> str:
        """The address for the next call.

        Args:
            namespace: the call's.
            is_ready: whether there is a connection to an address; it is sought if not. So an owner that can't be reached from here, such
                as one behind a proxy, costs nothing.
        """
        owner = self._owners.get(namespace)
        return owner if owner is not None and is_ready(owner) else self.given[self._turn]

    def answered(self, namespace: str, method: str, metadata: Pairs | None) -> str | None:
        """After a call, or at the begin of a stream. Answers the owner's address if this is the first time that it is heard of.

        Args:
            namespace: the call's.
            method: its full name.
            metadata: of its answer.
        """
        self._has_answered = True
        for key, value in metadata or ():
            if key == OWNER_KEY and isinstance(value, str) and method.rpartition("/")[2] not in _ABOUT_ANOTHER:
                return self.learn(namespace, value)
        return None

    def learn(self, namespace: str, address: str) -> str | None:
        """Where a namespace's owner is said to be. Answers it if that is news."""
        if self._owners.get(namespace) == address:
            return None
        self._owners[namespace] = address
        return address

    def failed(self, address: str, namespace: str, method: str, error: grpc.RpcError) -> bool:
        """After a call that failed: whether it had better be made again, in a moment, and perhaps elsewhere.

        Args:
            address: where it went.
            namespace: its namespace.
            method: its full name.
            error: what it failed with.
        """
        code = error.code() if isinstance(error, (grpc.aio.AioRpcError, grpc.Call)) else None
        if code is not grpc.StatusCode.UNAVAILABLE:
            self._has_answered = self._has_answered or code not in (None, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
            return False
        info = info_in(error)
        was_direct = self._owners.get(namespace) == address
        if info.reason:
            self._has_answered = True
            if info.reason not in _SENT_AGAIN:
                return False
            if info.metadata.get("owner"):
                self._owners[namespace] = info.metadata["owner"]
            else:
                self._forget(namespace)
            self._next(address)
        else:
            if was_direct:
                self._forget(namespace)
            self._next(address)
            if not was_direct and not self._are_several:
                return False
            if not self._has_answered and self.now_s() >= self._patience_ends_s:
                return False
        return method.rpartition("/")[2] not in _ONCE

    def began(self) -> None:
        """A call begins while none has been answered yet: the time for the first answer counts from here."""
        if not self._has_answered:
            self._patience_ends_s = self.now_s() + self._connect_timeout_s

    def _forget(self, namespace: str) -> None:
        self._owners.pop(namespace, None)

    def _next(self, address: str) -> None:
        if self.given[self._turn] == address:
            self._turn = (self._turn + 1) % len(self.given)


def namespace_in(metadata: Pairs | None) -> str:
    """The namespace that a call's metadata name."""
    return next((value for key, value in metadata or () if key == NAMESPACE_KEY and isinstance(value, str)), "default")


def may_be_several(address: str) -> bool:
    """Whether one address may lead to several coordinators: a name may, in what it resolves to; a number doesn't."""
    scheme, _, rest = address.partition(":")
    if scheme in GRPC_SCHEMES:
        return scheme in ("dns", "xds") or "," in rest
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
