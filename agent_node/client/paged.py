"""What all lists of the protos have in common (AIP-158)."""

from typing import Protocol


class PagedRequest(Protocol):
    """Asks for a page."""

    page_token: str


class PagedResponse(Protocol):
    """A page."""

    next_page_token: str  # empty on the last one
