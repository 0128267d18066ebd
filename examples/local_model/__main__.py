"""Serves the local model: python -m examples.local_model --port 0."""

import argparse
import asyncio
import contextlib
import signal

from examples.local_model.server import MODEL, LocalModel, serving


def main() -> None:
    """Serves until SIGINT or SIGTERM. The first line on stdout says where."""
    parser = argparse.ArgumentParser(prog="python -m examples.local_model", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="0 is any free one (default)")
    parser.add_argument("--words-per-s", type=float, default=0, help="how fast to stream; 0, the default, is as fast as it goes")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(arguments.host, arguments.port, arguments.words_per_s))


async def _serve(host: str, port: int, words_per_s: float) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with serving(LocalModel(words_per_s=words_per_s), host=host, port=port) as base_url:
        print(f"local-model serving {MODEL} on {base_url}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    main()
