"""Pages: sizes, and tokens that only fit the query that handed them out (AIP-158)."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass

from coordinator.errors import CursorInvalid, InvalidRequest

DEFAULT_PAGE = 100
MAX_PAGE = 1000
MAX_TOKEN_CHARS = 4096  # ours are shorter: a name in one has at most 1 KiB
MAX_POSITION_DIGITS = 18


def page_size(asked: int) -> int:
    """How many to answer. Raises InvalidRequest for a negative size."""
    if asked < 0:
        raise InvalidRequest(f"page_size is {asked}: give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}", field="page_size")
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where the next page begins: behind `after`, in the answer to `query`."""

    query: str
    after: str = ""

    def text(self) -> str:
        """As the caller gets it: opaque."""
        return base64.urlsafe_b64encode(json.dumps([zlib.crc32(self.query.encode()), self.after], ensure_ascii=False).encode()).decode()

    @classmethod
    def parse(cls, text: str, *, query: str, field: str = "page_token") -> PageToken:
        """The token of a request for `query`; empty text is the first page.

        Raises:
            CursorInvalid: it isn't one, or comes from another query.
        """
        if not text:
            return cls(query)
        if len(text) > MAX_TOKEN_CHARS:
            raise CursorInvalid(f"{field} can't be read: take it from an answer, unchanged", field=field)
        try:
            digest, after = json.loads(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
            known = digest == zlib.crc32(query.encode()) and isinstance(after, str)
            if known:
                after.encode()  # JSON may hold halves of characters
        except (ValueError, TypeError, RecursionError) as error:  # JSON from elsewhere may be nested deeper than it can be parsed
            raise CursorInvalid(f"{field} can't be read: take it from an answer, unchanged", field=field) from error
        if not known:
            raise CursorInvalid(f"{field} comes from another request: begin again without it", field=field)
        return cls(query, after)


def position(digits: str, *, field: str) -> int:
    """A number out of a token.

    Raises:
        CursorInvalid: it isn't one.
    """
    if not (digits.isdecimal() and len(digits) <= MAX_POSITION_DIGITS):
        raise CursorInvalid(f"{field} can't be read: take it from an answer, unchanged", field=field)
    return int(digits)
