"""`muster-coordinator`: reads the command line and the environment, runs the coordinator, and turns errors into sentences."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coordinator.core.model import Settings as CoreSettings
    from coordinator.settings import CoordinatorSettings

EXIT_FAILED = 1
EXIT_USAGE = 2
MIN_STORE_MEMORY = 32 * 1024 * 1024  # with less, a few large tasks would fill it
MAX_WAIT_REPLICAS = 16
MAX_SHARDS = 1024  # each has up to three connections to the store, and a tick a second
MIN_DURATION_S, MAX_DURATION_S = 0.1, 86_400.0
MAX_ID_CHARS = 128
MIN_OWNERSHIP_TTL_S, MAX_OWNERSHIP_TTL_S = 0.5, 300.0  # with less, a busy machine would lose shards that nobody wants
MAX_PERIOD_S = 366 * 24 * 3600


def main(argv: list[str] | None = None) -> None:
    """Runs a coordinator until SIGTERM or SIGINT. Exits 0 when told to end, 1 when it can't go on, 2 on a wrong command line."""
    options = _parser().parse_args(argv)
    sys.exit(_run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="muster-coordinator", description="Owns the queue and the load map of a fleet of agents, and keeps both in its store."
    )
    store = parser.add_mutually_exclusive_group()
    store.add_argument("--data-dir", type=Path, metavar="DIR", help="keep the embedded store here (default ./muster-data)")
    store.add_argument(
        "--redis-url",
        default=os.environ.get("MUSTER_REDIS_URL"),
        metavar="URL",
        help="use this Redis (7.0 or later) or Valkey instead: redis://, rediss://, unix:// or redis+sentinel:// [MUSTER_REDIS_URL]",
    )
    parser.add_argument(
        "--durability",
        default="store",
        metavar="MODE",
        help="what an acknowledgement waits for: store, or wait-replicas:N for N of its replicas, too (default store)",
    )
    parser.add_argument(
        "--store-memory",
        type=int,
        metavar="N",
        help="the embedded store may use N bytes of memory: submits are refused from 80 %% on (default half of the machine's)",
    )
    parser.add_argument(
        "--listen",
        default=os.environ.get("MUSTER_LISTEN", "127.0.0.1:7450"),
        metavar="HOST:PORT",
        help="serve gRPC here; port 0 takes a free one (default 127.0.0.1:7450) [MUSTER_LISTEN]",
    )
    parser.add_argument(
        "--http-listen",
        default=os.environ.get("MUSTER_HTTP_LISTEN"),
        metavar="HOST:PORT",
        help="answer /livez, /readyz and /healthz over HTTP here; port 0 takes a free one (default off) [MUSTER_HTTP_LISTEN]",
    )
    parser.add_argument(
        "--insecure-listen", action="store_true", help="allow an address other than loopback, without TLS and authentication"
    )
    parser.add_argument("--shards", type=int, default=16, metavar="N", help="fixed for a deployment: the store remembers it (default 16)")
    parser.add_argument(
        "--coordinator-id",
        default=os.environ.get("MUSTER_COORDINATOR_ID"),
        metavar="TEXT",
        help="what no other coordinator of the store is called (default its address) [MUSTER_COORDINATOR_ID]",
    )
    parser.add_argument(
        "--advertise-address",
        default=os.environ.get("MUSTER_ADVERTISE_ADDRESS"),
        metavar="HOST:PORT",
        help="where other coordinators, agents and clients reach this one (default where it listens) [MUSTER_ADVERTISE_ADDRESS]",
    )
    parser.add_argument(
        "--ownership-ttl",
        type=float,
        default=3.0,
        metavar="S",
        help="others take over a coordinator's shards when it isn't heard of for S seconds (default 3)",
    )
    parser.add_argument("--key-prefix", default="muster", metavar="TEXT", help="what all keys in the store begin with (default muster)")
    parser.add_argument(
        "--lease", type=float, metavar="S", help="give an attempt up when nothing is heard of it for S seconds (default 30)"
    )
    parser.add_argument("--session-grace", type=float, metavar="S", help="how long a broken agent stream may come back (default 15)")
    parser.add_argument("--ack-timeout", type=float, metavar="S", help="how soon agents must acknowledge assignments (default 10)")
    parser.add_argument("--max-live-tasks", type=int, metavar="N", help="refuse submits beyond this many live tasks (default 2000000)")
    parser.add_argument(
        "--max-live-bytes", type=int, metavar="N", help="refuse submits beyond this many bytes of live tasks (default 2147483648)"
    )
    parser.add_argument(
        "--ageing-period", type=float, metavar="S", help="a ready task gets one priority more for each S seconds; 0 is off (default 60)"
    )
    parser.add_argument(
        "--share-by", choices=("tasks", "cost", "seconds"), help="what fairness keys share: tasks, their costs, or run time (default cost)"
    )
    parser.add_argument(
        "--weight", action="append", default=[], metavar="KEY=N", help="a fairness key's share beside the others' 1; may be repeated"
    )
    parser.add_argument(
        "--webhook-allow",
        action="append",
        default=[],
        metavar="CIDR",
        help="let webhooks go to this network, too: by default they go to public addresses alone; may be repeated",
    )
    parser.add_argument(
        "--max-pending-webhooks",
        type=int,
        metavar="N",
        help="refuse submits with a webhook beyond this many undelivered ones (default 100000)",
    )
    parser.add_argument(
        "--snapshot-after",
        type=int,
        metavar="N",
        help="take a snapshot when the journal has outgrown N bytes and the last snapshot (default 67108864)",
    )
    parser.add_argument("--log-level", default="warning", choices=("debug", "info", "warning", "error"), help="(default warning)")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def _settings(options: argparse.Namespace) -> CoordinatorSettings:
    """The settings that the options ask for. Raises ValueError with a sentence."""
    from dataclasses import replace

    from coordinator.convert import Bounds
    from coordinator.core.model import Settings as CoreSettings
    from coordinator.engine.snapshots import SnapshotSettings
    from coordinator.journal.layout import check_prefix
    from coordinator.settings import CoordinatorSettings
    from coordinator.webhook_urls import WebhookRules, parse_networks

    _check_address("--listen", options.listen, insecure=options.insecure_listen, example="127.0.0.1:7450")
    if options.http_listen is not None:
        _check_address("--http-listen", options.http_listen, insecure=options.insecure_listen, example="127.0.0.1:7451")
    if not 1 <= options.shards <= MAX_SHARDS:
        raise ValueError(f"--shards {options.shards} is out of range: give 1 to {MAX_SHARDS}")
    _check_identity(options)
    try:
        check_prefix(options.key_prefix)
    except ValueError as error:
        raise ValueError(f"--key-prefix: {error}") from None
    for name in ("lease", "session_grace", "ack_timeout"):
        value = getattr(options, name)
        if value is not None and not MIN_DURATION_S <= value <= MAX_DURATION_S:  # nor NaN
            raise ValueError(f"--{name.replace('_', '-')} {value:g} is out of range: give {MIN_DURATION_S:g} to {MAX_DURATION_S:g} seconds")
    least = {"max_live_tasks": 1, "max_live_bytes": 1, "max_pending_webhooks": 1, "snapshot_after": 1, "store_memory": MIN_STORE_MEMORY}
    for name, minimum in least.items():
        value = getattr(options, name)
        if value is not None and value < minimum:
            raise ValueError(f"--{name.replace('_', '-')} {value} is too few: give {minimum} or more")
    given = {
        "lease_s": options.lease,
        "renew_period_s": None if options.lease is None else options.lease / 3,
        "session_grace_s": options.session_grace,
        "ack_timeout_s": options.ack_timeout,
        "max_live_tasks": options.max_live_tasks,
        "max_live_bytes": options.max_live_bytes,
        "max_pending_webhooks": options.max_pending_webhooks,
    }
    core = replace(CoreSettings(), **{name: value for name, value in given.items() if value is not None})
    core = _order(core, options)
    try:
        webhooks = WebhookRules(allowed=parse_networks(options.webhook_allow))
    except ValueError as error:
        raise ValueError(f"--webhook-allow: {error}") from None
    snapshots = SnapshotSettings() if options.snapshot_after is None else SnapshotSettings(min_journal_bytes=options.snapshot_after)
    return CoordinatorSettings(
        listen=options.listen,
        insecure_listen=options.insecure_listen,
        http_listen=options.http_listen,
        data_dir=None if options.redis_url and options.data_dir is None else options.data_dir or Path("muster-data"),
        redis_url=None if options.data_dir is not None else options.redis_url,
        wait_replicas=_wait_replicas(options),
        store_memory_bytes=options.store_memory,
        shards=options.shards,
        key_prefix=options.key_prefix,
        coordinator_id=options.coordinator_id,
        advertise_address=options.advertise_address,
        ownership_ttl_s=options.ownership_ttl,
        core=core,
        bounds=Bounds(webhooks=webhooks),
        snapshots=snapshots,
    )


def _check_identity(options: argparse.Namespace) -> None:
    """What others know this coordinator by. Raises ValueError with a sentence."""
    name, address = options.coordinator_id, options.advertise_address
    if name is not None and (not 0 < len(name) <= MAX_ID_CHARS or not name.isprintable()):
        raise ValueError(f"--coordinator-id {name[:MAX_ID_CHARS]!r} is no id: give 1 to {MAX_ID_CHARS} printable characters")
    if address is not None:
        host, colon, port = address.rpartition(":")
        if not host or not colon or not port.isdecimal() or not 0 < int(port) <= 65535:
            raise ValueError(f"--advertise-address {address} isn't an address: give HOST:PORT, such as 10.0.0.7:7450")
    if not MIN_OWNERSHIP_TTL_S <= options.ownership_ttl <= MAX_OWNERSHIP_TTL_S:  # nor NaN
        raise ValueError(
            f"--ownership-ttl {options.ownership_ttl:g} is out of range: give {MIN_OWNERSHIP_TTL_S:g} to {MAX_OWNERSHIP_TTL_S:g} seconds"
        )


def _check_address(option: str, address: str, *, insecure: bool, example: str) -> None:
    """Raises ValueError with a sentence when an address isn't one, or isn't loopback and wasn't asked for by name."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{option} {address} isn't an address: give HOST:PORT, such as {example}")
    if not _is_loopback(host.strip("[]")) and not insecure:
        raise ValueError(
            f"{option} {address} isn't loopback, and anyone who can reach it could do anything: "
            "keep to 127.0.0.1, or add --insecure-listen if the network is yours alone"
        )


def _wait_replicas(options: argparse.Namespace) -> int:
    """How many replicas are waited for. Raises ValueError with a sentence."""
    mode, colon, number = options.durability.partition(":")
    if options.durability == "store":
        return 0
    if mode != "wait-replicas" or not colon or not number.isdecimal() or not 1 <= int(number) <= MAX_WAIT_REPLICAS:
        raise ValueError(
            f"--durability {options.durability} is no mode: give store, or wait-replicas:N with N from 1 to {MAX_WAIT_REPLICAS}"
        )
    if not options.redis_url or options.data_dir is not None:
        raise ValueError(f"--durability {options.durability} needs a store with replicas, which the embedded one hasn't: give --redis-url")
    return int(number)


def _order(core: CoreSettings, options: argparse.Namespace) -> CoreSettings:
    """The settings of the order in which tasks are taken. Raises ValueError with a sentence."""
    from dataclasses import replace

    from coordinator.core.model import MAX_WEIGHT, MIN_WEIGHT, ShareBy

    if options.ageing_period is not None:
        if not 0 <= options.ageing_period <= MAX_PERIOD_S or 0 < options.ageing_period < 1:
            raise ValueError(f"--ageing-period {options.ageing_period:g} makes no sense: give 1 or more seconds, or 0 for no ageing")
        core = replace(core, ageing_period_s=options.ageing_period)
    if options.share_by is not None:
        core = replace(core, share_by=ShareBy[options.share_by.upper()])
    weights: dict[str, float] = {}
    for text in options.weight:
        key, equals, number = text.rpartition("=")
        try:
            weights[key] = float(number)
        except ValueError:
            equals = ""
        if not equals or not MIN_WEIGHT <= weights[key] <= MAX_WEIGHT:
            raise ValueError(f"--weight {text} is no weight: give KEY=N with N from {MIN_WEIGHT:g} to {MAX_WEIGHT:g}")
    return replace(core, weights=weights)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _run(options: argparse.Namespace) -> int:
    if options.version:
        from importlib.metadata import version

        print(f"muster-coordinator {version('muster-agents')}")
        return 0
    try:
        settings = _settings(options)
    except ValueError as error:
        print(f"muster-coordinator: {error}", file=sys.stderr)
        return EXIT_USAGE
    # Before gRPC is loaded: its core writes lines of its own beside our sentence, such as for a port that is in use.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from coordinator.serving import run
    except ImportError as error:
        print(f"muster-coordinator: {error}; install it with: pip install 'muster-agents[coordinator]'", file=sys.stderr)
        return EXIT_FAILED
    return run(settings, log_level=options.log_level)


if __name__ == "__main__":
    main()
