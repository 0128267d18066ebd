"""The event stream parser, on streams as providers and networks really cut them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.llm.sse import EventStreamParser, EventTooLongError, ServerSentEvent


def parse(*pieces: bytes, max_event_bytes: int = 1024) -> list[ServerSentEvent]:
    parser = EventStreamParser(max_event_bytes=max_event_bytes)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.finish()


def test_an_event_is_its_data_lines_joined() -> None:
    assert parse(b"data: one\ndata: two\n\n") == [ServerSentEvent("one\ntwo")]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_each_line_ending_of_the_standard(end: bytes) -> None:
    assert parse(b"data: a" + end + end + b"data: b" + end + end) == [ServerSentEvent("a"), ServerSentEvent("b")]


def test_a_carriage_return_and_its_line_feed_in_two_pieces_are_one_ending() -> None:
    assert parse(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [ServerSentEvent("a\nb")]


def test_comments_and_fields_of_no_use_are_skipped() -> None:
    assert parse(b": keep-alive\n\nid: 7\nretry: 10\nnonsense\ndata: x\n\n") == [ServerSentEvent("x")]


def test_the_event_type_holds_for_one_event() -> None:
    assert parse(b"event: error\ndata: 1\n\ndata: 2\n\n") == [ServerSentEvent("1", "error"), ServerSentEvent("2")]


def test_one_space_after_the_colon_belongs_to_the_format() -> None:
    assert parse(b"data:tight\n\ndata:  wide\n\n") == [ServerSentEvent("tight"), ServerSentEvent(" wide")]


def test_an_event_without_data_is_none() -> None:
    assert parse(b"event: ping\n\n\n\ndata\n\n") == [ServerSentEvent("")]


def test_a_byte_order_mark_opens_the_stream_only() -> None:
    assert parse(b"\xef\xbb\xbfdata: a\n\n") == [ServerSentEvent("a")]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert parse(b"data: \xff\xfe!\n\n") == [ServerSentEvent("��!")]


def test_the_last_event_may_lack_its_blank_line() -> None:
    assert parse(b"data: a\n\ndata: [DONE]") == [ServerSentEvent("a"), ServerSentEvent("[DONE]")]


def test_an_endless_line_is_given_up() -> None:
    parser = EventStreamParser(max_event_bytes=100)
    for _ in range(10):
        assert parser.feed(b"0123456789") == []
    with pytest.raises(EventTooLongError):
        parser.feed(b"0")


def test_an_endless_event_is_given_up() -> None:
    parser = EventStreamParser(max_event_bytes=100)
    with pytest.raises(EventTooLongError):
        parser.feed(b"data: 0123456789\n" * 20)


@given(cuts=st.lists(st.integers(0, 200)), end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_where_the_network_cuts_changes_nothing(cuts: list[int], end: bytes) -> None:
    stream = ": hi\n\ndata: größe 漢字 🐑\ndata: {}\n\nevent: e\ndata: [DONE]\n\n".encode().replace(b"\n", end)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    assert parse(*pieces) == [ServerSentEvent("größe 漢字 🐑\n{}"), ServerSentEvent("[DONE]", "e")]
