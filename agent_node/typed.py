"""JSON to and from a program's own types: dataclasses, pydantic models, and what JSON itself has.

Dataclasses go through msgspec; pydantic models through their own methods, so pydantic is needed by those alone who use it. No message
holds a value: what failed to be read may be secret.
"""

import functools
import json
import re
from dataclasses import is_dataclass
from typing import Any, ClassVar, Protocol, TypeVar, cast

from agent_node.errors import PayloadError

T = TypeVar("T")

RESERVED = "application/vnd.muster."
"""What the media types of encoded payloads begin with: whoever has no codec for one can't read it."""

_PATH = re.compile(r"^(.*?)(?: - at `(?:key in )?\$?([^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `([^`]+)`")


class DataclassLike(Protocol):
    """An instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class ModelLike(Protocol):
    """An instance of a pydantic model."""

    def model_dump_json(self) -> str:
        """Itself as JSON."""


def to_json(value: object) -> bytes:
    """What JSON can say, or a dataclass or pydantic model (or both within one another), as JSON.

    Raises:
        TypeError, ValueError: JSON can't say it.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_to_plain).encode()


def from_json(data: bytes, content_type: str, kind: type[T], *, what: str = "the payload") -> T:
    """JSON read into a type: a dataclass, a pydantic model, or what JSON has, such as `list[int]`.

    Args:
        data: the JSON.
        content_type: its media type. It may be any but one of ours: that is an encoding that nobody has undone.
        kind: the type.
        what: what is read, for messages.

    Raises:
        PayloadError: it isn't JSON, or doesn't fit; the message names the field and says what was expected.
        TypeError: no JSON can be read into such a type.
    """
    import msgspec

    name = _name(kind)
    refuse_encoded(content_type, what)
    if _is_model(kind):
        try:
            return cast("T", cast("Any", kind).model_validate_json(data))
        except ValueError as error:
            raise _of_model(error, name, what) from None  # pydantic's own text holds the values
    try:
        return cast("T", _decoder(cast("Any", kind)).decode(data))
    except msgspec.ValidationError as error:
        raise _of_msgspec(error, name, what) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"{what} is no JSON, and {name} is expected: {error}") from None


def refuse_encoded(content_type: str, what: str = "the payload") -> None:
    """Raises PayloadError for an encoding that nobody has undone: a blob's reference, for one, is JSON, too."""
    if content_type.startswith(RESERVED):
        raise PayloadError(
            f"{what} is encoded as {content_type[:100]}, and nothing here decodes it: give Payloads(...) to this client or agent"
        )


def check_type(kind: Any) -> None:
    """Raises TypeError when JSON can't be read into `kind`."""
    from msgspec import inspect as types

    if isinstance(types.type_info(kind), types.CustomType) and not _is_model(kind):
        raise TypeError(f"{_name(kind)} is neither a dataclass, nor a pydantic model, nor what JSON can hold")
    _decoder(kind)


def is_json(content_type: str) -> bool:
    """Whether a media type is JSON: application/json, or one that ends in +json."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _to_plain(value: object) -> Any:
    """For json.dumps: what it can't say by itself."""
    if _is_model(type(value)):
        return cast("Any", value).model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        import msgspec

        return msgspec.to_builtins(value, enc_hook=_to_plain, str_keys=True)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


@functools.lru_cache(maxsize=256)
def _decoder(kind: Any) -> Any:
    import msgspec

    return msgspec.json.Decoder(kind, dec_hook=_from_plain)


def _from_plain(kind: type[Any], value: Any) -> Any:
    """For msgspec: a type that it doesn't know, somewhere in a dataclass."""
    if not _is_model(kind):
        raise TypeError(f"{_name(kind)} is neither a dataclass, nor a pydantic model, nor what JSON can hold")
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValueError as error:
        raise _ModelError(error) from None


class _ModelError(ValueError):
    """A pydantic model within a dataclass doesn't fit: msgspec adds where it is."""

    def __init__(self, error: ValueError) -> None:
        where, message = _first(error)
        super().__init__(message)
        self.where = where


def _of_msgspec(error: Exception, name: str, what: str) -> PayloadError:
    found = _PATH.match(str(error))
    message, path = (found[1], found[2] or "") if found else (str(error), "")
    field = path.lstrip(".")
    if isinstance(error.__cause__, _ModelError):
        field = ".".join(part for part in (field, error.__cause__.where) if part)
    missing = _MISSING.search(message)
    if missing:
        field = f"{field}.{missing[1]}" if field else missing[1]
        message = "it is required and missing"
    if message.startswith("Invalid enum value"):
        message = "it is none of the values allowed"
    return _misfit(what, name, field, message)


def _of_model(error: ValueError, name: str, what: str) -> PayloadError:
    where, message = _first(error)
    return _misfit(what, name, where, message)


def _first(error: ValueError) -> tuple[str, str]:
    """Where the first of a pydantic error's errors is, and what it is."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return "", type(error).__name__
    first = errors(include_input=False, include_url=False, include_context=False)[0]
    return ".".join(str(part) for part in first["loc"]), str(first["msg"])


def _misfit(what: str, name: str, field: str, message: str) -> PayloadError:
    message = message.replace("`", "")
    message = message[:1].lower() + message[1:]
    where = f"{what}'s field {field!r}" if field else what
    return PayloadError(f"{where} doesn't fit {name}: {message}", field=field)


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_validate_json")


def _name(kind: object) -> str:
    return kind.__qualname__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
