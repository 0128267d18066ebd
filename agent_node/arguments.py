"""What a caller hands in, looked at before a message is made of it: protobuf's errors name no argument, and None is nothing to it."""

import operator

from agent_node.errors import InvalidArgumentError

MAX_REVISION = 2**53 - 1  # as the coordinator's: a double holds it exactly
MAX_COUNT = 2**31 - 1


def text(name: str, value: object) -> str:
    """A text that can travel.

    Args:
        name: the argument's.
        value: what was given.

    Raises:
        TypeError: it is no str.
        InvalidArgumentError: it holds half a surrogate pair, as what isn't UTF-8 is read as on a command line.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is {_shown(value)}: give a str")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(name, f"has {_lone(error)}: give text that UTF-8 can hold") from None
    return value


def count(name: str, value: object, *, least: int = 0, most: int = MAX_REVISION) -> int:
    """A whole number within bounds.

    Args:
        name: the argument's.
        value: what was given.
        least: the least that it may be.
        most: the most.

    Raises:
        TypeError: it is no int; True and False aren't taken for one.
        InvalidArgumentError: it is out of bounds.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what it raises is the question
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} is {_shown(value)}: give an int")
    if not least <= number <= most:
        raise InvalidArgumentError(name, f"is {number}: give {least} to {most}")
    return number


def function(name: str, value: object) -> None:
    """Raises TypeError for what can't be called."""
    if not callable(value):
        raise TypeError(f"{name} is {_shown(value)}: give a function")


def no_text(name: str, value: object) -> None:
    """Raises TypeError for a text where a list of things is expected: it would be taken apart into its characters."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {_shown(value)}: give a list")


def unencodable(name: str, error: TypeError | ValueError) -> TypeError | InvalidArgumentError:
    """What to raise for a value that can't be sent as UTF-8 text or as JSON. It doesn't hold the value, which may be secret.

    Args:
        name: the argument's.
        error: what encoding it raised.
    """
    if isinstance(error, UnicodeEncodeError):
        return InvalidArgumentError(name, f"has {_lone(error)}: give text that UTF-8 can hold, or bytes")
    if isinstance(error, ValueError):
        return InvalidArgumentError(name, f"can't be JSON: {error}; give what JSON can hold")
    return TypeError(f"{name} can't be JSON: {error}; give what JSON can hold")


def _lone(error: UnicodeEncodeError) -> str:
    return f"half a surrogate pair ({ascii(error.object[error.start])[1:-1]}) at character {error.start}"


def _shown(value: object) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= 60 else shown[:59] + '…'} ({type(value).__name__})"  # a line of a message
