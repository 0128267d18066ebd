"""What a coordinator can be told, and its defaults. Nothing else holds a default, and nothing reads the environment but `__main__`."""

from dataclasses import dataclass, field
from pathlib import Path

from coordinator.convert import Bounds
from coordinator.core.model import Settings as CoreSettings
from coordinator.engine.snapshots import SnapshotSettings
from coordinator.engine.webhooks import WebhookSettings
from coordinator.ports import Retention
from coordinator.state.model import Limits as StateLimits

DEFAULT_ADDRESS = "127.0.0.1:7450"
DEFAULT_SHARDS = 16


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """A coordinator's settings. Durations in seconds, sizes in bytes."""

    listen: str = DEFAULT_ADDRESS  # loopback: anything else needs `insecure_listen` until there is authentication
    insecure_listen: bool = False  # asked for by name: anyone who can reach the port can do anything
    http_listen: str | None = None  # health over HTTP; None: not at all
    unready_after_s: float = (
        2.0  # its store may be out, or a shard being recovered, for so long: shorter is no reason to send calls elsewhere
    )
    data_dir: Path | None = None  # where the embedded store lives
    redis_url: str | None = None  # a store that somebody else runs, instead
    wait_replicas: int = 0  # of the store, which have a write before it is acknowledged; 0: the store's own promise is enough
    store_memory_bytes: int | None = None  # of the embedded store; None is half of the machine's, or of what this process may have
    shards: int = DEFAULT_SHARDS  # fixed for a deployment: the store remembers it
    key_prefix: str = "muster"  # several deployments may share a store
    coordinator_id: str | None = None  # what no other coordinator of the deployment is called; None is its address
    advertise_address: str | None = None  # where others reach it, as host:port; None is where it listens
    ownership_ttl_s: float = 3.0  # of a store that others may use: how soon they take over from a coordinator that isn't heard of
    core: CoreSettings = field(default_factory=CoreSettings)
    bounds: Bounds = field(default_factory=Bounds)
    snapshots: SnapshotSettings = field(default_factory=SnapshotSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    retention: Retention = field(
        default_factory=lambda: Retention(
            max_age_ms=24 * 3600 * 1000,  # a day: long enough to look at yesterday's failures
            max_count=1_000_000,  # about half a gigabyte of store
            max_bytes=1024 * 1024 * 1024,
        )
    )
    state: StateLimits = field(default_factory=StateLimits)  # of each namespace's shared state
    sweep_s: float = 30.0  # between looks for ended tasks past their retention
    stop_grace_s: float = 2.0  # for open calls when the coordinator ends
