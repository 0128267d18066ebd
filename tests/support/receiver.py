"""A receiver of webhooks that does as a script says: answers, hangs, breaks off, or talks nonsense."""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, ok").decode()
_REASONS = {200: "OK", 204: "No Content", 302: "Found", 410: "Gone", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(slots=True)
class Request:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event_id(self) -> str:
        """Its `webhook-id`."""
        return self.headers["webhook-id"]

    @property
    def said(self) -> Any:
        """Its body, read."""
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """Whether one of its signatures is of this secret: written anew here, as a receiver would."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.event_id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return wanted in self.headers.get("webhook-signature", "").split(" ")


Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answers(status: int = 204, *headers: str, body: bytes = b"") -> Behaviour:
    """Answers with a status and header lines."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Whatever')}", f"Content-Length: {len(body)}", *headers, "", ""]
        writer.write("\r\n".join(lines).encode() + body)

    return behave


async def hangs(writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.Event().wait()


async def breaks_off(writer: asyncio.StreamWriter) -> None:
    """Closes the connection in the midst of the head."""
    writer.write(b"HTTP/1.1 200 O")


async def talks_nonsense(writer: asyncio.StreamWriter) -> None:
    """Isn't HTTP."""
    writer.write(b"\x00\x01 220 mail.example ESMTP\r\n\r\n" * 4)


async def drips(writer: asyncio.StreamWriter) -> None:
    """Sends its head a byte at a time, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def never_ends(writer: asyncio.StreamWriter) -> None:
    """Answers well, with a body without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def says_100(writer: asyncio.StreamWriter) -> None:
    """Says that the request may go on, again and again."""
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        await writer.drain()


async def endless_head(writer: asyncio.StreamWriter) -> None:
    """Answers with headers without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: and more\r\n" * 1000)
        await writer.drain()


@dataclass
class Receiver:
    """Where webhooks arrive. `script` says what becomes of the next requests; when it is through, the last one goes on."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0  # requests under way
    most_at_once: int = 0
    script: list[Behaviour] = field(default_factory=lambda: [answers()])

    @property
    def url(self) -> str:
        """Of a hook at this receiver, with something in it that must not be told."""
        return f"http://127.0.0.1:{self.port}/hook?token=hidden-in-the-url"

    @property
    def ids(self) -> list[str]:
        """The `webhook-id` of every request, in order."""
        return [request.event_id for request in self.requests]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection with one request."""
        self.connections += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            behave = next(chain(self.script[len(self.requests) :], repeat(self.script[-1])))
            self.requests.append(Request(head[0].split(" ")[1], headers, body))
            acting = asyncio.ensure_future(behave(writer))
            left = asyncio.ensure_future(reader.read(1))
            try:
                await asyncio.wait((acting, left), return_when=asyncio.FIRST_COMPLETED)
            finally:
                acting.cancel()
                left.cancel()
                await asyncio.gather(acting, left, return_exceptions=True)
            await writer.drain()
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            self.at_once -= 1
            writer.close()


@asynccontextmanager
async def receiving(*script: Behaviour, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Receiver]:
    """A receiver on loopback, until the block ends."""
    receiver = Receiver()
    if script:
        receiver.script = list(script)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(receiver.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of its own making in a file of `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    file = folder / "receiver.pem"
    file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + certificate.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
