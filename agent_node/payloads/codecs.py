"""Codecs: what a payload goes through on its way, and how that is undone. docs/payloads.md gives their formats byte by byte."""

import hmac
import re
import zlib
from collections.abc import Mapping
from typing import Protocol

from agent_node.errors import PayloadError
from agent_node.payloads.content import MAX_HEADER_BYTES, About, Content, pack, unpack


class Codec(Protocol):
    """Something that payloads go through. Both methods run in an event loop or in any thread, and never wait."""

    @property
    def media_type(self) -> str:
        """What marks its output, such as "application/vnd.example.brotli": lower case, without parameters, its own alone."""

    def encode(self, content: Content, about: About) -> Content:
        """The content encoded, with the codec's media type; or `content` itself, when there is nothing to do.

        It must answer the same for the same arguments: a task that is submitted again under its id must be the same task.
        """

    def decode(self, content: Content, about: About, *, max_bytes: int) -> Content:
        """What was encoded.

        Args:
            content: an output of `encode`, or something that only says so.
            about: what it belongs to.
            max_bytes: the result may be no larger, and no more than that may be held on the way.

        Raises:
            PayloadError: it can't be undone. The message says why, without any of the content.
        """


class Zlib:
    """Compression, where it makes a payload smaller.

    Args:
        min_bytes: smaller payloads stay as they are; default 1,024.
        level: 1 (fast) to 9 (small); default 6.

    Raises:
        ValueError: an argument is out of its range.
    """

    media_type = "application/vnd.muster.zlib"

    def __init__(self, *, min_bytes: int = 1024, level: int = 6) -> None:
        if min_bytes < 0 or not 1 <= level <= 9:
            raise ValueError(f"min_bytes is 0 or more, and level 1 to 9; not {min_bytes} and {level}")
        self._min_bytes = min_bytes
        self._level = level

    def encode(self, content: Content, about: About) -> Content:  # noqa: ARG002 - the port's
        if len(content.data) < self._min_bytes:
            return content
        compressed = zlib.compress(pack(content), self._level)
        return Content(compressed, self.media_type) if len(compressed) < len(content.data) else content

    def decode(self, content: Content, about: About, *, max_bytes: int) -> Content:  # noqa: ARG002 - the port's
        inflater = zlib.decompressobj()
        try:
            packed = inflater.decompress(content.data, max_bytes + MAX_HEADER_BYTES + 1)
        except zlib.error:
            raise PayloadError("the payload says that it is zlib data, and isn't") from None
        if len(packed) > max_bytes + MAX_HEADER_BYTES:
            raise PayloadError(f"the payload inflates to more than the {max_bytes} bytes that Payloads(max_bytes=...) allows")
        if not inflater.eof or inflater.unused_data:
            raise PayloadError("the payload's zlib data is cut short, or followed by something else")
        return unpack(packed)


_KEY_BYTES = 32
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY_PARAMETER = re.compile(r";\s*kid=([A-Za-z0-9._-]{1,64})\s*(?:;|$)")
_NONCE_BYTES = 12


class AesGcm:
    """Encryption with AES-256-GCM: the coordinator and its store see how long a payload is, and not what it is.

    A payload is bound to its task's id, and a result too: one put in another's place can't be decrypted. To rotate keys: give the new
    key to every reader, then make it `active`, and take the old one away when nothing encrypted with it is left.

    The nonce is derived from the content, so that a task that is submitted again under its id is the same task. Whoever reads the store
    can therefore tell whether two encodings of one task's payload are equal, and nothing more.

    Args:
        keys: 32 random bytes each, by an id of 1 to 64 letters, digits and `._-`, which travels with the payload.
        active: the id of the key to encrypt with.

    Raises:
        ValueError: a key or an id is not like that, or `active` is not among them.
        ModuleNotFoundError: `muster-agents[encryption]` isn't installed.
    """

    media_type = "application/vnd.muster.aes256gcm"

    def __init__(self, keys: Mapping[str, bytes], *, active: str) -> None:
        _need_cryptography()
        for key_id, key in keys.items():
            if not _KEY_ID.fullmatch(key_id):
                raise ValueError(f"a key's id is 1 to 64 letters, digits and ._-, not {key_id!r}")
            if len(key) != _KEY_BYTES:
                raise ValueError(f"key {key_id!r} has {len(key)} bytes, and AES-256 needs {_KEY_BYTES}: os.urandom({_KEY_BYTES}) makes one")
        if active not in keys:
            raise ValueError(f"there is no key {active!r} to encrypt with, only {', '.join(sorted(keys)) or 'none'}")
        self._keys = dict(keys)
        self._active = active
        self._nonce_key = hmac.digest(keys[active], b"muster.v1 nonce", "sha256")

    def __repr__(self) -> str:
        return f"AesGcm(keys={sorted(self._keys)}, active={self._active!r})"

    def encode(self, content: Content, about: About) -> Content:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        packed, bound = pack(content), _bound_to(about)
        # Of 96 bits of a keyed digest, as unlikely to repeat for two contents as a random nonce.
        nonce = hmac.digest(self._nonce_key, len(bound).to_bytes(4, "big") + bound + packed, "sha256")[:_NONCE_BYTES]
        return Content(nonce + AESGCM(self._keys[self._active]).encrypt(nonce, packed, bound), f"{self.media_type}; kid={self._active}")

    def decode(self, content: Content, about: About, *, max_bytes: int) -> Content:  # noqa: ARG002 - what is decrypted is smaller
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        named = _KEY_PARAMETER.search(content.content_type)
        if named is None:
            raise PayloadError(f"the payload says that it is encrypted, and not with which key: {content.content_type[:100]}")
        key = self._keys.get(named[1])
        if key is None:
            raise PayloadError(
                f"the payload is encrypted with key {named[1]!r}, which is not among this program's: add it to AesGcm(keys=...)"
            )
        nonce, encrypted = content.data[:_NONCE_BYTES], content.data[_NONCE_BYTES:]
        try:
            return unpack(AESGCM(key).decrypt(nonce, encrypted, _bound_to(about)))
        except (InvalidTag, ValueError):
            raise PayloadError(
                f"the payload can't be decrypted with key {named[1]!r}: it was changed, belongs to another task, or the key is another one"
            ) from None


def _bound_to(about: About) -> bytes:
    return b"\0".join((b"muster.v1", about.part.encode(), about.task_id.encode()))


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401 - now rather than at the first payload
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("AesGcm needs the extra: pip install 'muster-agents[encryption]'", name=error.name) from None
