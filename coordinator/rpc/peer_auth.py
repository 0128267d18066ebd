"""How coordinators of one deployment know each other: what one says in another's stead is signed with the deployment's secret.

A signature covers who forwards, when, the method, the namespace and what is said of the caller. Dates are the store's, which all
coordinators of a deployment share: their own clocks may be anywhere. Within the minute that a signature lasts, whoever can read the network
could send it again, and so could have read and changed the call itself: against that there is only TLS.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from coordinator.errors import Unavailable

NAMESPACE_KEY = "muster-namespace"
FORWARDED_KEY = "muster-forwarded"  # by whom
CALLER_KEY = "muster-caller"  # for whom
SHARDS_KEY = "muster-shards"  # the shards that a call about all of them is about, here
SIGNATURE_KEY = "muster-signature"
PEER_KEYS = frozenset((FORWARDED_KEY, CALLER_KEY, SHARDS_KEY, SIGNATURE_KEY))
VALID_MS = 60_000
REUSED_MS = 10_000  # calls of one caller are alike: signed once, they are compressed to a few bytes, and checked once
MAX_KNOWN = 1024  # signatures that are kept for that

Metadata = Iterable[tuple[str, str | bytes]]
Signed = tuple[tuple[str, str], ...]
Key = TypeVar("Key")
Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class Forwarded:
    """What another coordinator of the deployment says of a call that it forwards.

    Args:
        coordinator_id: who forwards it.
        caller: who made it.
        shards: those that a call about all shards is about here; None for any other call.
    """

    coordinator_id: str
    caller: str
    shards: frozenset[int] | None = None


forwarded: ContextVar[Forwarded | None] = ContextVar("forwarded", default=None)
"""What is known of the call that is being handled; None when its caller sent it here. Nothing else may be read from a call's PEER_KEYS."""


class PeerAuth:
    """Signs and checks.

    Args:
        secret: the deployment's.
        me: this coordinator's id.
        date_ms: the date on the store's clock.
    """

    def __init__(self, *, secret: bytes, me: str, date_ms: Callable[[], int]) -> None:
        self._secret = secret
        self._me = me
        self._date_ms = date_ms
        self._signed: dict[tuple[str, str, str], tuple[int, Signed]] = {}
        self._checked: dict[tuple[str, ...], tuple[int, Forwarded]] = {}

    def sign(self, method: str, *, namespace: str, caller: str, shards: Iterable[int] | None = None) -> Signed:
        """The metadata of a call that is forwarded.

        Args:
            method: its full name.
            namespace: what its metadata say; empty when they say nothing.
            caller: who made it.
            shards: those that a call about all shards is about.
        """
        now_ms = self._date_ms()
        if shards is not None:
            numbers = ",".join(map(str, sorted(shards)))
            return (*self._sign(now_ms, method, namespace, caller, numbers), (SHARDS_KEY, numbers))
        key = (method, namespace, caller)
        signed_ms, signed = self._signed.get(key, (0, ()))
        if not 0 <= now_ms - signed_ms < REUSED_MS:
            signed = self._sign(now_ms, method, namespace, caller, "")
            _keep(self._signed, key, (now_ms, signed))
        return signed

    def _sign(self, date_ms: int, method: str, namespace: str, caller: str, numbers: str) -> Signed:
        signature = self._signature(self._me, str(date_ms), method, namespace, caller, numbers)
        return (FORWARDED_KEY, self._me), (CALLER_KEY, caller), (SIGNATURE_KEY, f"{date_ms} {signature}")

    def check(self, method: str, metadata: Metadata) -> Forwarded | None:
        """What a call's metadata say, if they are signed; None if they aren't: then whatever else they claim is nothing.

        Raises:
            Unavailable: the signature isn't one of this deployment's, or is too old (PEER_NOT_TRUSTED).
        """
        said = {key: value for key, value in metadata if isinstance(value, str) and (key in PEER_KEYS or key == NAMESPACE_KEY)}
        if SIGNATURE_KEY not in said:
            return None
        date, _, signature = said[SIGNATURE_KEY].partition(" ")
        coordinator_id, caller, numbers = said.get(FORWARDED_KEY, ""), said.get(CALLER_KEY, ""), said.get(SHARDS_KEY, "")
        covered = (coordinator_id, date, method, said.get(NAMESPACE_KEY, ""), caller, numbers)
        known = self._checked.get((*covered, signature))
        if known is None:
            expected = self._signature(*covered)
            if not hmac.compare_digest(expected.encode(), signature.encode()):
                raise Unavailable(
                    f"the call says that coordinator {coordinator_id[:64]!r} forwards it, and isn't signed with this deployment's secret: "
                    "are both started on the same store and key prefix?",
                    reason="PEER_NOT_TRUSTED",
                )
            known = int(date), Forwarded(coordinator_id, caller, frozenset(map(int, numbers.split(","))) if numbers else None)
            _keep(self._checked, (*covered, signature), known)
        date_ms, what = known
        if abs(date_ms - self._date_ms()) > VALID_MS:
            raise Unavailable(
                f"coordinator {coordinator_id[:64]!r} signed the call more than a minute ago, or ahead of the store's clock",
                reason="PEER_NOT_TRUSTED",
            )
        return what

    def _signature(self, *said: str) -> str:
        # No part can hold a line break: gRPC's metadata are printable ASCII.
        return hmac.digest(self._secret, "\n".join(said).encode(), "sha256").hex()


def _keep(known: dict[Key, Known], key: Key, value: Known) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
    known[key] = value
