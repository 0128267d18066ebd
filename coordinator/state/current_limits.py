"""What a namespace's shared state may hold: as the coordinator was started, as operators have set, and whether the store has room."""

from collections.abc import Mapping
from dataclasses import replace

from coordinator.core.policies import NO_LIMITS, NamespaceLimitsPolicy, limits_of
from coordinator.engine.namespace import Namespace
from coordinator.engine.room import StoreRoom
from coordinator.state.model import Limits


class CurrentLimits:
    """The limits of one shard's namespaces.

    Args:
        usual: those that the coordinator was started with.
        namespaces: the shard's.
        room: in the store.
    """

    def __init__(self, *, usual: Limits, namespaces: Mapping[str, Namespace], room: StoreRoom) -> None:
        self._usual = usual
        self._namespaces = namespaces
        self._room = room
        self._full = replace(usual, store_full=True)

    def __call__(self, namespace: str) -> Limits:
        """Of one namespace. It is asked for each call to the store, some 0.3 us."""
        usual = self._usual if self._room.refusal() is None else self._full
        known = self._namespaces.get(namespace)
        policy = limits_of(known.scheduler.state) if known is not None else NO_LIMITS
        return usual if policy is NO_LIMITS else _within(usual, policy)


def _within(usual: Limits, policy: NamespaceLimitsPolicy) -> Limits:
    return replace(
        usual,
        max_keys=usual.max_keys if policy.max_state_keys is None else policy.max_state_keys,
        max_bytes=usual.max_bytes if policy.max_state_bytes is None else policy.max_state_bytes,
    )
