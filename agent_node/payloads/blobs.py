"""Blobs: where contents go that are too large for the coordinator, and the small references that travel in their place."""

import asyncio
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent_node import clock
from agent_node.errors import BlobGoneError, PayloadError
from agent_node.ids import new_task_id
from agent_node.payloads.content import Content

MEDIA_TYPE = "application/vnd.muster.blob+json"

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobStore(Protocol):
    """Where blobs are kept. What it raises other than BlobGoneError and PayloadError counts as a passing fault, and is tried again."""

    async def put(self, key: str, data: bytes) -> str:
        """Stores a blob, whole or not at all, and answers its URL. A blob that is there already is as young as a new one afterwards.

        Args:
            key: the SHA-256 of the data, in 64 hexadecimal digits: blobs of the same key are the same.
            data: the blob.
        """

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        """A blob.

        Args:
            url: an answer of `put`, from any process; or something that only says so.
            max_bytes: what is longer need not be read any further.

        Raises:
            BlobGoneError: it isn't there.
            PayloadError: the URL isn't one of this store.
        """

    async def delete(self, url: str) -> None:
        """Removes a blob; one that isn't there is removed already.

        Raises:
            PayloadError: the URL isn't one of this store.
        """


@dataclass(frozen=True, slots=True)
class BlobReference:
    """What travels instead of a content.

    Args:
        url: where its bytes are.
        size: how many there are.
        sha256: their digest, in hexadecimal digits.
        content_type: their media type.
    """

    url: str
    size: int
    sha256: str
    content_type: str

    def content(self) -> Content:
        """As it travels."""
        fields = {"url": self.url, "size": self.size, "sha256": self.sha256, "content_type": self.content_type}
        return Content(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(), MEDIA_TYPE)


def read_reference(content: Content) -> BlobReference:
    """The reference that came.

    Raises:
        PayloadError: it is none.
    """
    try:
        fields = json.loads(content.data)
        reference = BlobReference(fields["url"], fields["size"], fields["sha256"], fields["content_type"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise PayloadError("the payload says that it is a blob reference, and isn't: it needs url, size, sha256 and content_type") from None
    texts = (reference.url, reference.sha256, reference.content_type)
    if not all(isinstance(text, str) for text in texts) or type(reference.size) is not int or not _DIGEST.fullmatch(reference.sha256):
        raise PayloadError("the payload's blob reference is malformed: url and content_type are text, size a number, sha256 64 hex digits")
    return reference


def digest_of(url: str, prefix: str) -> str:
    """The key in a URL of a store whose URLs are `prefix` and the key. Raises PayloadError for a URL of another store."""
    key = url.removeprefix(prefix)
    if not url.startswith(prefix) or not _DIGEST.fullmatch(key):
        raise PayloadError(
            f"{url[:200]!r} is no blob of this store, whose URLs are {prefix} and a digest: sender and reader need the same one"
        )
    return key


def gone(url: str) -> BlobGoneError:
    """The error for a blob that isn't there."""
    return BlobGoneError(f"blob {url} is gone: it was deleted, or swept before its task was done")


class FileBlobStore:
    """Blobs in a folder, which every process that submits, runs or waits must see: a disk of one machine, or a network file system.

    Args:
        folder: made when it isn't there. It may be mounted elsewhere in another process: URLs are below it.
    """

    _PREFIX = "folder:"

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)

    async def put(self, key: str, data: bytes) -> str:
        await asyncio.to_thread(self._write, key, data)
        return self._PREFIX + key

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        path = self._path(digest_of(url, self._PREFIX))
        try:
            return await asyncio.to_thread(_read, path, max_bytes)
        except FileNotFoundError:
            raise gone(url) from None

    async def delete(self, url: str) -> None:
        path = self._path(digest_of(url, self._PREFIX))
        await asyncio.to_thread(path.unlink, missing_ok=True)

    def sweep(self, *, older_than_s: float) -> int:
        """Removes blobs that were last put so many seconds ago or more, and what crashed writers left; answers how many. It blocks.

        Choose an age well beyond what a task may take from its submit to its last reader: the longest queueing and running, and the
        coordinator's retention of results.

        Args:
            older_than_s: the age in seconds.
        """
        swept = 0
        before_s = clock.wall_ms() / 1000 - older_than_s
        for path in self._folder.glob("??/*"):
            with suppress(FileNotFoundError):  # somebody else sweeps, too
                if path.stat().st_mtime <= before_s:
                    path.unlink()
                    swept += 1
        return swept

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with suppress(FileNotFoundError):
            if path.stat().st_size == len(data):
                os.utime(path)  # as young as a new one
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{new_task_id()}.unfinished")
        try:
            with unfinished.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _read(path: Path, max_bytes: int) -> bytes:
    with path.open("rb") as file:
        return file.read(max_bytes + 1)


def _sync_folder(folder: Path) -> None:
    """So that the name outlives a power cut, too, where the system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
