"""A payload or a result as codecs see it, and how one is packed into the bytes of another."""

from dataclasses import dataclass, field
from typing import Literal

from agent_node.errors import PayloadError

_LENGTH_BYTES = 2
MAX_TYPE_BYTES = 0xFFFF
MAX_HEADER_BYTES = _LENGTH_BYTES + MAX_TYPE_BYTES  # what packing adds at most


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes and their media type.

    Args:
        data: the bytes. No log shows them.
        content_type: the media type; "" is application/octet-stream.
    """

    data: bytes = field(repr=False)
    content_type: str

    @property
    def media_type(self) -> str:
        """The media type without its parameters, in lower case."""
        return self.content_type.partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class About:
    """What a content belongs to: encryption binds it to that, so that nobody can pass it off as another's.

    Args:
        part: "payload" or "result".
        task_id: the task.
    """

    part: Literal["payload", "result"]
    task_id: str


def pack(content: Content) -> bytes:
    """A content as bytes: its content type's length in two bytes, big-endian, the content type in UTF-8, the data.

    Raises:
        PayloadError: the content type is longer than 65,535 bytes.
    """
    name = content.content_type.encode()
    if len(name) > MAX_TYPE_BYTES:
        raise PayloadError(f"a content type of {len(name)} bytes can't be encoded: at most {MAX_TYPE_BYTES} are possible")
    return len(name).to_bytes(_LENGTH_BYTES, "big") + name + content.data


def unpack(packed: bytes) -> Content:
    """The content that was packed.

    Raises:
        PayloadError: nothing was packed like this.
    """
    begin = _LENGTH_BYTES + int.from_bytes(packed[:_LENGTH_BYTES], "big")
    if len(packed) < begin or len(packed) < _LENGTH_BYTES:
        raise PayloadError("the decoded payload is cut short: it doesn't hold its own content type")
    try:
        return Content(packed[begin:], packed[_LENGTH_BYTES:begin].decode())
    except UnicodeDecodeError:
        raise PayloadError("the decoded payload doesn't begin with a content type: it was encoded in another way") from None
