"""The way of a payload: through the codecs one after another, then into a blob if it is still large; and back, by what marks it."""

import asyncio
import hashlib
from collections.abc import Sequence

from agent_node.errors import MusterError, PayloadError, UnavailableError
from agent_node.payloads.blobs import MEDIA_TYPE, BlobReference, BlobStore, read_reference
from agent_node.payloads.codecs import Codec
from agent_node.payloads.content import About, Content
from agent_node.typed import RESERVED

_MAX_LAYERS = 8
_OFF_LOOP_BYTES = 64 * 1024  # a codec takes about a millisecond for so much


class Payloads:
    """What a client's payloads and an agent's results go through before they travel. Give the same to `Client` and `Agent`.

    Codecs are applied in their order. Reading goes by the content type of what arrives, whatever the order here: what isn't encoded
    stays as it is, so clients and agents can be changed one after another, readers first.

    Not covered: checkpoints, partial output, progress, failure messages and stack traces, ids, types and labels. They travel as they are.

    Args:
        codecs: such as `[Zlib(), AesGcm(...)]`; compression before encryption, which leaves nothing to compress.
        blobs: where contents go that are still larger than `blob_above_bytes`; None for nowhere.
        blob_above_bytes: default 256 KiB.
        max_bytes: no payload may be larger, at any step of the way in either direction; default 64 MiB.

    Raises:
        ValueError: two codecs have the same media type, or a size is out of its range.
    """

    def __init__(
        self,
        codecs: Sequence[Codec] = (),
        *,
        blobs: BlobStore | None = None,
        blob_above_bytes: int = 256 * 1024,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        if blob_above_bytes < 0 or max_bytes < 1:
            raise ValueError(f"blob_above_bytes is 0 or more and max_bytes at least 1, not {blob_above_bytes} and {max_bytes}")
        self._codecs = tuple(codecs)
        self._by_type = {codec.media_type: codec for codec in self._codecs}
        if len(self._by_type) < len(self._codecs) or MEDIA_TYPE in self._by_type:
            raise ValueError("two codecs have the same media type: what they encode couldn't be told apart")
        self._blobs = blobs
        self._blob_above_bytes = blob_above_bytes
        self._max_bytes = max_bytes

    async def encode(self, content: Content, about: About) -> Content:
        """A content as it travels.

        Raises:
            PayloadError: it is larger than `max_bytes`.
            UnavailableError: the blob store failed.
        """
        self._check_size(len(content.data))
        if self._codecs:
            if len(content.data) > _OFF_LOOP_BYTES:
                content = await asyncio.to_thread(self._apply, content, about)
            else:
                content = self._apply(content, about)
            self._check_size(len(content.data))
        if self._blobs is None or len(content.data) <= self._blob_above_bytes:
            return content
        digest = await _sha256(content.data)
        try:
            url = await self._blobs.put(digest, content.data)
        except MusterError:
            raise
        except Exception as error:
            raise UnavailableError(f"the blob store took no blob of {len(content.data)} bytes: {type(error).__name__}: {error}") from error
        return BlobReference(url, len(content.data), digest, content.content_type).content()

    async def decode(self, content: Content, about: About) -> Content:
        """What was encoded; or `content` itself, when nothing marks it as encoded.

        Raises:
            PayloadError: it can't be decoded, for good: no codec or key for it, changed on the way, larger than `max_bytes`.
            BlobGoneError: its blob isn't there any more.
            UnavailableError: the blob store failed.
        """
        for _ in range(_MAX_LAYERS):
            media_type = content.media_type
            codec = self._by_type.get(media_type)
            if codec is not None:
                content = await self._undo(codec, content, about)
            elif media_type == MEDIA_TYPE:
                content = await self._fetch(content)
            elif media_type.startswith(RESERVED):
                raise PayloadError(f"the payload is encoded as {content.content_type[:100]}: give Payloads(codecs=...) a codec for it")
            else:
                return content
        raise PayloadError(f"the payload is encoded more than {_MAX_LAYERS} times over: nobody does that in earnest")

    def encoded(self, content_type: str) -> bool:
        """Whether there is anything to decode."""
        media_type = content_type.partition(";")[0].strip().lower()
        return media_type.startswith(RESERVED) or media_type in self._by_type

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise PayloadError(f"the payload has {size} bytes, more than the {self._max_bytes} that Payloads(max_bytes=...) allows")

    def _apply(self, content: Content, about: About) -> Content:
        for codec in self._codecs:
            content = codec.encode(content, about)
        return content

    async def _undo(self, codec: Codec, content: Content, about: About) -> Content:
        if len(content.data) > _OFF_LOOP_BYTES:
            return await asyncio.to_thread(self._decode, codec, content, about)
        return self._decode(codec, content, about)

    def _decode(self, codec: Codec, content: Content, about: About) -> Content:
        return codec.decode(content, about, max_bytes=self._max_bytes)

    async def _fetch(self, content: Content) -> Content:
        reference = read_reference(content)
        if self._blobs is None:
            raise PayloadError(f"the payload is in blob {reference.url[:200]}: give Payloads(blobs=...) the store that it is in")
        self._check_size(reference.size)
        try:
            data = await self._blobs.get(reference.url, max_bytes=reference.size)
        except MusterError:
            raise
        except Exception as error:
            raise UnavailableError(f"blob {reference.url[:200]} can't be read: {type(error).__name__}: {error}") from error
        if len(data) != reference.size or await _sha256(data) != reference.sha256:
            raise PayloadError(f"blob {reference.url} is not what was stored: its size or its digest is another one")
        return Content(data, reference.content_type)


async def _sha256(data: bytes) -> str:
    digest = hashlib.sha256(data) if len(data) <= _OFF_LOOP_BYTES else await asyncio.to_thread(hashlib.sha256, data)
    return digest.hexdigest()
