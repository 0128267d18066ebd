"""Runs a coordinator in the foreground: its event loop, signals, logs, and the line that says it is ready."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

from coordinator import collector
from coordinator.cluster.ports import IdInUse
from coordinator.engine.ownership import ShardLost
from coordinator.journal.errors import StoreStartError
from coordinator.ports import JournalTooNew, StoreCorrupt, StoreOutage
from coordinator.rpc.server import ListenError
from coordinator.wiring import coordinator

if TYPE_CHECKING:
    from coordinator.settings import CoordinatorSettings

EXPECTED = (StoreStartError, StoreOutage, ListenError, IdInUse, ShardLost, StoreCorrupt, JournalTooNew)


def run(settings: CoordinatorSettings, *, log_level: str) -> int:
    """Serves until SIGTERM or SIGINT. Answers the exit code: 0 when told to end, 1 when it can't go on."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("grpc._cython.cygrpc").addFilter(is_news)
    collector.prepare()
    try:
        import uvloop  # a third off the cost of a stream message
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        with runner:
            runner.run(_serve(settings))
    except EXPECTED as error:
        print(f"muster-coordinator: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(settings: CoordinatorSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with coordinator(settings) as running:
        tasks = collector.Collector(count=partial(collector.count_tasks, running.shards))
        tasks.begin()
        collecting = asyncio.create_task(tasks.run(), name="collector")
        host = settings.listen.rpartition(":")[0]
        print(f"muster-coordinator serving on {host}:{running.port} store={running.facts.store!r}", flush=True)
        if settings.http_listen is not None:
            print(f"http on {settings.http_listen.rpartition(':')[0]}:{running.http_port}", flush=True)
        print(f"durability: {running.facts.durability}", flush=True)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait((stopped, running.failed, collecting), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        collecting.cancel()
        if running.failed.done():
            running.failed.result()


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of gRPC's says something: that a call was cancelled while the server stops is no error, and it logs a traceback."""
    return record.exc_info is None or record.exc_info[0] is not asyncio.CancelledError
