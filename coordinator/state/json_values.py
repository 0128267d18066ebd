"""JSON that keeps what was written: whole numbers of any size, decimals digit by digit, [] apart from {}. Without I/O."""

from collections.abc import Hashable
from decimal import Decimal, InvalidOperation
from typing import Any, cast

import msgspec

Json = Any  # dict[str, Json] | list[Json] | str | int | Decimal | bool | None

_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode


class NotJson(ValueError):
    """Bytes that aren't JSON, or a value that can't be written as such. The message says why, for a sentence after a colon."""


def decoded(text: bytes | str) -> Json:
    """What the text says; of a member that is there twice, the last one. Raises NotJson."""
    try:
        return _decode(text)
    except msgspec.ValidationError:
        raise NotJson("a whole number has more than 4,300 digits") from None
    except InvalidOperation:
        raise NotJson("a number's exponent is too large") from None
    except UnicodeDecodeError:
        raise NotJson("it isn't UTF-8") from None
    except msgspec.DecodeError as error:
        raise NotJson(str(error)) from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None


def encoded(value: Json) -> bytes:
    """The shortest text of a value. Raises NotJson."""
    try:
        return _encode(value)
    except RecursionError:
        raise NotJson("it would be nested too deeply") from None
    except ValueError:
        raise NotJson("a whole number would have more than 4,300 digits") from None


def is_number(value: Json) -> bool:
    """Whether it is one; to Python, true is as well."""
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def identity(value: Json) -> Hashable:
    """Equal for what JSON calls equal: 1 and 1.0, members in any order; but not 1 and true. Raises NotJson."""
    try:
        return _identity(value)
    except RecursionError:
        raise NotJson("it is nested too deeply") from None


def _identity(value: Json) -> Hashable:
    match value:
        case dict():
            return ("object", frozenset((name, _identity(member)) for name, member in value.items()))
        case list():
            return ("list", tuple(map(_identity, value)))
        case bool():
            return ("bool", value)
        case _:
            return cast("Hashable", value)
