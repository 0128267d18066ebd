"""Medical letters summarised by an agent, while the coordinator between sees neither letters nor summaries.

Types, compression, encryption, a blob for the long one, and middleware on both sides, in one program with a coordinator of its own:

    python -m examples.sealed

For real, client and agent are programs of their own with the same keys, from where you keep secrets.
"""

import asyncio
import logging
import os
import tempfile
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent_node import Agent, CallNext, Client, Context, SubmitNext, TaskFailedError, TaskHandle, TaskRequest
from agent_node.payloads import AesGcm, FileBlobStore, Payloads, Zlib
from agent_node.testing import muster_in_process

log = logging.getLogger("sealed")


@dataclass
class Letter:
    """What the client sends."""

    patient: str
    text: str


@dataclass
class Summary:
    """What it gets back."""

    patient: str
    sentences: int


def sealed(folder: Path) -> Payloads:
    """What client and agent share: a key and a folder."""
    key = AesGcm({"2026-11": os.urandom(32)}, active="2026-11")  # noqa: TID251 - a key, not an id
    return Payloads([Zlib(), key], blobs=FileBlobStore(folder), blob_above_bytes=2_000)


def clinic(payloads: Payloads) -> Agent:
    """The agent."""
    agent = Agent("clinic", payloads=payloads, middleware=[logged])

    @agent.handler("letter.summarise")
    async def summarise(ctx: Context, letter: Letter) -> Summary:  # noqa: ARG001 - a handler's first argument
        return Summary(letter.patient, letter.text.count("."))

    return agent


async def logged(ctx: Context, call_next: CallNext) -> Any:
    """Around every handler. It logs who and what kind, and nothing of what."""
    try:
        value = await call_next()
    except Exception as error:
        log.warning("%s of %s failed: %s", ctx.task_type, ctx.task_id, type(error).__name__)
        raise
    log.info("%s of %s done", ctx.task_type, ctx.task_id)
    return value


async def traced(request: TaskRequest, call_next: SubmitNext) -> TaskHandle:
    """Around every submit."""
    return await call_next(replace(request, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))


async def show(client: Client, letter: Letter) -> None:
    """One letter: what comes back, and what the coordinator has."""
    handle = await client.submit("letter.summarise", letter)
    output = await handle.result(timeout_s=30)
    print(f"the client got      {output.json(Summary)}")
    task = await client.get(handle.task_id, full=True)
    print(f"the coordinator has {len(task.spec.payload)} bytes of {task.spec.content_type}")


async def main() -> None:
    """The whole story."""
    with tempfile.TemporaryDirectory() as folder:
        payloads = sealed(Path(folder))
        async with muster_in_process(clinic(payloads), payloads=payloads, middleware=[traced]) as client:
            await show(client, Letter("A. Nonymous", "The knee is better. The other isn't."))
            await show(
                client,
                Letter("B. Nonymous", "".join(f"Day {day}: {sha256(bytes([day % 256, day // 256])).hexdigest()}." for day in range(500))),
            )
            try:
                await (await client.submit("letter.summarise", {"patient": "C. Nonymous"})).result(timeout_s=30)
            except TaskFailedError as error:
                print(f"a letter without text fails at once: {error.message}")


if __name__ == "__main__":
    logging.basicConfig(format="%(name)s %(levelname)s %(message)s", level=logging.WARNING)
    asyncio.run(main())
