"""Payloads and results by type: what fits, and what is said of what doesn't."""

import datetime as dt
import enum
import functools
import json
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

import pydantic
import pytest

from agent_node import Agent, Context, PayloadError
from agent_node.client import TaskOutput
from agent_node.client.tasks import encode_payload
from agent_node.outcomes import from_value
from agent_node.signature import read, with_payload
from agent_node.typed import from_json, to_json


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Author:
    name: str
    born: dt.date | None = None


class Rating(pydantic.BaseModel):
    stars: int = pydantic.Field(ge=1, le=5)
    by: str = "anybody"


@dataclass
class Book:
    title: str
    authors: list[Author] = field(default_factory=list)
    colour: Colour = Colour.RED
    kind: Literal["novel", "essay"] = "novel"
    rating: Rating | None = None
    key: uuid.UUID | None = None

    def __post_init__(self):
        if not self.title:
            raise ValueError("a book has a title")


class Shelf(pydantic.BaseModel):
    books: list[Book]
    name: str


BOOK = Book("Emma", [Author("Jane", dt.date(1775, 12, 16))], rating=Rating(stars=4), key=uuid.UUID(int=7))


@pytest.mark.parametrize(
    "value, kind",
    [
        (BOOK, Book),
        (Shelf(books=[BOOK], name="top"), Shelf),
        ([BOOK, Book("Dune")], list[Book]),
        ({"a": Rating(stars=1)}, dict[str, Rating]),
        ((1, "a"), tuple[int, str]),
        (None, Author | None),
        ({"any": [1, None, "ü"]}, dict),
        (7, Any),
        ([[0.5]], list[list[float]]),
    ],
)
def test_what_is_written_can_be_read(value, kind):
    assert from_json(to_json(value), "", kind) == value
    assert encode_payload(value) == (to_json(value), "application/json")
    assert (from_value(value).payload, from_value(value).content_type) in [(to_json(value), "application/json"), (b"", "")]
    assert TaskOutput(to_json(value)).json(kind) == value


def test_json_without_a_type_stays_what_it_was():
    assert TaskOutput(b'{"a": 1}').json() == {"a": 1}
    for wrong in (object(), {"a": object()}, {1, 2}, [b"bytes"], {"at": BOOK.authors[0].born}, float("nan"), Book):
        with pytest.raises((TypeError, ValueError)):
            encode_payload(wrong)
        assert "can't be sent" in from_value(wrong).message


@pytest.mark.parametrize(
    "text, kind, field, message",
    [
        ('{"title": 7}', Book, "title", "the payload's field 'title' doesn't fit Book: expected str, got int"),
        ("{}", Book, "title", "the payload's field 'title' doesn't fit Book: it is required and missing"),
        ('{"title": "E", "authors": [{}]}', Book, "authors[0].name", "required and missing"),
        ('{"title": "E", "authors": [{"name": "J", "born": "soon"}]}', Book, "authors[0].born", "invalid RFC3339"),
        ('{"title": "E", "kind": "poem"}', Book, "kind", "none of the values allowed"),
        ('{"title": "E", "colour": "blue"}', Book, "colour", "none of the values allowed"),
        ('{"title": ""}', Book, "", "a book has a title"),
        ('{"title": "E", "rating": {"stars": 9}}', Book, "rating.stars", "less than or equal to 5"),
        ('{"stars": "secret"}', Rating, "stars", "the payload's field 'stars' doesn't fit Rating: input should be a valid integer"),
        ("{}", Rating, "stars", "field required"),
        ('{"name": 1, "books": [{"title": "E"}, {}]}', Shelf, "books.1.title", "field required"),
        ("[1, 2, null]", list[int], "[2]", r"the payload's field '\[2\]' doesn't fit list\[int\]: expected int, got null"),
        ("[]", Book, "", "the payload doesn't fit Book: expected object, got array"),
        ("{", Book, "", "is no JSON, and Book is expected"),
        ("{", Rating, "", "doesn't fit Rating: invalid JSON"),
        ("", int, "", "is no JSON, and int is expected"),
    ],
)
def test_what_does_not_fit_is_named(text, kind, field, message):
    with pytest.raises(PayloadError, match=message) as refused:
        from_json(text.encode(), "", kind)
    assert refused.value.field == field
    for secret in ("secret", "poem", "blue"):
        assert secret not in str(refused.value)
    assert refused.value.__suppress_context__  # a trace would print the values
    assert refused.value.__cause__ is None


def test_text_that_is_no_utf_8_is_no_json():
    for kind in (Book, Rating, str):
        with pytest.raises(PayloadError):
            read(b'{"title": "\xff"}', "", kind)


def test_a_result_that_does_not_fit_says_so():
    with pytest.raises(PayloadError, match="the result's field 'title'"):
        TaskOutput(b"{}").json(Book)


# handlers


@pytest.mark.parametrize(
    "data, content_type, kind, value",
    [
        (b"\xff", "image/png", bytes, b"\xff"),
        ("ü".encode(), "text/plain; charset=utf-8", str, "ü"),
        ('"ü"'.encode(), "application/json", str, "ü"),
        (b"7", "", int, 7),
        (b"[1]", "text/plain", list[int], [1]),  # JSON as text is JSON
    ],
)
def test_payloads_by_their_parameter(data, content_type, kind, value):
    assert read(data, content_type, kind) == value


def test_what_is_encoded_is_not_taken_for_json():
    for kind in (bytes, str, dict):
        with pytest.raises(PayloadError, match=r"payload is encoded as application/vnd\.muster\.blob\+json"):
            read(b"{}", "application/vnd.muster.blob+json", kind)
    with pytest.raises(PayloadError, match=r"result is encoded as application/vnd\.muster\.blob\+json"):
        TaskOutput(b"{}", "application/vnd.muster.blob+json").json(dict)


def plain(ctx):
    return "plain"


class Callable:
    def __call__(self, ctx: Context, book: Book) -> str:
        return book.title

    async def later(self, ctx: Context, book: "Book") -> str:
        return book.title


class Given:
    payload = json.dumps({"title": "Emma"}).encode()
    content_type = "application/json"


def with_default(ctx, retries=3):
    return retries


def test_a_handler_of_the_context_alone_is_left_as_it_is():
    for function in (plain, with_default, lambda ctx: None, dict.get, functools.partial(with_default, retries=1)):
        if function is not dict.get:
            assert with_payload(function) is function


async def test_objects_methods_and_partials_may_take_payloads():
    def titled(prefix: str, ctx: Context, book: Book) -> str:
        return prefix + book.title

    assert with_payload(Callable())(Given()) == "Emma"
    assert await with_payload(Callable().later)(Given()) == "Emma"
    assert with_payload(functools.partial(titled, "by "))(Given()) == "by Emma"


def test_handlers_that_can_never_work_are_refused_when_they_are_made():
    def three(ctx, book: Book, more: int): ...

    def bare(ctx, book): ...

    def unknown(ctx, book: "Nowhere"): ...  # noqa: F821 - that is the test

    def opaque(ctx, book: Context): ...

    def ambiguous(ctx, book: Book | Author): ...

    for function, message in [
        (three, "takes 3 arguments"),
        (bare, "annotate the payload of .*bare, such as book: Document"),
        (unknown, "define it at the top of its module"),
        (opaque, "Context is neither a dataclass"),
        (ambiguous, "no payload can be read into .*ambiguous's book"),
    ]:
        for isolation in (None, "process"):
            with pytest.raises(ValueError, match=message):
                Agent("a").handler("t", isolation=isolation)(function)


def test_a_type_within_a_dataclass_that_json_cannot_hold_is_named():
    Odd = NewType("Odd", complex)

    @dataclass
    class Holder:
        odd: Odd

    with pytest.raises(PayloadError, match=r"field 'odd' doesn't fit .*Holder: complex is neither"):
        from_json(b'{"odd": 1}', "", Holder)
