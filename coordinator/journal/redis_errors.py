"""Which errors of a Redis server, or of the way to it, are outages. Everything else that a call raises means that the store is corrupt."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis_errors

from coordinator.ports import JournalTooNew, StoreCorrupt, StoreOutage

_OUTAGES = (
    redis_errors.ConnectionError,  # also LOADING, and too many clients
    redis_errors.TimeoutError,
    redis_errors.OutOfMemoryError,
    redis_errors.ReadOnlyError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.TryAgainError,
    redis_errors.AskError,  # also MOVED: another node has the keys, or will in a moment
    OSError,
    TimeoutError,
)

_OUTAGE_CODES = ("OOM", "MISCONF", "READONLY", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "BUSY", "TRYAGAIN", "UNKILLABLE")

_NEWER = "NEWER "  # what our scripts' own errors about a newer layout begin with


@contextmanager
def as_store_errors() -> Iterator[None]:
    """Turns what a call to Redis raises into StoreOutage, StoreCorrupt, or JournalTooNew."""
    try:
        yield
    except _OUTAGES as error:
        raise StoreOutage(_sentence(error)) from error
    except redis_errors.RedisError as error:
        if str(error).startswith(_NEWER):
            raise JournalTooNew(str(error).removeprefix(_NEWER)) from error
        if str(error).startswith(_OUTAGE_CODES):
            raise StoreOutage(_sentence(error)) from error
        raise StoreCorrupt(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    return f"the store answered: {error}" if isinstance(error, redis_errors.ResponseError) else f"the store can't be reached: {error}"
