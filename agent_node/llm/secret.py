"""A value that must not be seen: it shows itself to no log, and takes itself out of texts that others wrote."""

import json
from typing import Self
from urllib.parse import quote

_MASK = "[secret]"
_SHORTEST_TELLING_PREFIX = 4


class Secret:
    """An API key. Its repr and str never show it; `reveal` is the one way to it.

    Args:
        value: the key; printable ASCII without spaces, since it goes into an HTTP header. Empty is "no key".

    Raises:
        ValueError: the value can't be sent in a header. The message doesn't contain it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if any(not "!" <= character <= "~" for character in value):
            raise ValueError("the key holds a space, a line break or a character outside ASCII: it can't be sent in a header")
        self._value = value

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The key in `text`, without the white space that files and shells leave around it."""
        return cls(text.strip())

    def reveal(self) -> str:
        """The value itself: for the request's header only."""
        return self._value

    def remove_from(self, text: str) -> str:
        """`text` with every occurrence of the value masked: plain, as JSON and URLs spell it, and cut off at the text's end."""
        if not self._value:
            return text
        spellings = {self._value, json.dumps(self._value)[1:-1], self._value.replace("/", "\\/"), quote(self._value, safe="")}
        for spelling in sorted(spellings, key=len, reverse=True):
            text = text.replace(spelling, _MASK)
        for length in range(len(self._value) - 1, _SHORTEST_TELLING_PREFIX - 1, -1):
            if text.endswith(self._value[:length]):
                return text[:-length] + _MASK
        return text

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return f"Secret({_MASK!r})" if self._value else "Secret('')"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a Secret isn't pickled: that would write it down")
