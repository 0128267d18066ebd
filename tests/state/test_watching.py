"""What watches tell, in messages that fit the wire."""

from muster.v1 import state_pb2 as pb

from coordinator.convert_state_out import event_out
from coordinator.errors import RevisionOutOfRange
from coordinator.rpc import state_watching
from coordinator.rpc.outgoing import MAX_MESSAGE_BYTES
from coordinator.rpc.state_watching import EventBytes, messages_of
from coordinator.state.engine import Header, News
from coordinator.state.model import Entry, Event, EventKind

MIB = 1024 * 1024
HEADER = Header(99, "once")


def put(revision, size=10, key="k"):
    return Event(EventKind.PUT, key, revision, Entry(key, bytes(size), "", revision, 1, 1, 0, b"", 5), 0, b"", 5)


def news(watch_id, *events, through, created=False, previous=(), refusal=None):
    return News(watch_id, created, events, previous, through, refusal)


def told(*all_news):
    blobs = list(messages_of(HEADER, all_news))
    assert all(len(blob) < 4 * MIB - 1000 for blob in blobs)
    return [pb.WatchResponse.FromString(blob) for blob in blobs]


def test_what_is_small_goes_together():
    events = [put(5), put(6)]
    refusal = RevisionOutOfRange("too late", reason="COMPACTED", metadata={"compact_revision": "4"})
    [message] = told(news(1, through=4, created=True), news(2, *events, through=6), news(3, through=7), news(4, through=0, refusal=refusal))
    assert message.header == pb.StateHeader(revision=99, incarnation="once")
    assert [(one.watch_id, one.created, len(one.events), one.through_revision) for one in message.news] == [
        (1, True, 0, 4),
        (2, False, 2, 6),
        (3, False, 0, 7),
        (4, False, 0, 0),
    ]
    assert list(message.news[1].events) == [event_out(event) for event in events]
    assert (message.news[3].refusal.reason, message.news[3].refusal.code) == ("COMPACTED", 11)
    assert message.news[3].refusal.metadata["compact_revision"] == "4"


def test_what_was_there_before_goes_along_where_it_was_asked_for():
    before = put(4).entry
    [message] = told(news(1, put(5), put(6), through=6, previous=(None, before)))
    assert [event.HasField("previous") for event in message.news[0].events] == [False, True]
    assert message.news[0].events[1].previous.mod_revision == 4


def test_a_revision_that_is_larger_than_a_message_goes_on_in_the_next():
    events = [put(4), *(put(5, MIB, f"k{number}") for number in range(7)), put(6)]
    messages = told(news(1, *events, through=9), news(2, put(6), through=9))
    ours = [one for message in messages for one in message.news if one.watch_id == 1]
    assert [event.key for one in ours for event in one.events] == [event.key for event in events]
    assert len(ours) > 2
    assert {one.through_revision for one in ours[:-1]} == {4}
    assert ours[-1].through_revision == 9
    assert [one.watch_id for one in messages[-1].news] == [1, 2]


def test_where_revisions_part_the_first_message_says_so():
    messages = told(news(1, *(put(revision, MIB) for revision in range(5, 10)), through=9))
    assert [[event.revision for event in message.news[0].events] for message in messages] == [[5, 6], [7, 8], [9]]
    assert [message.news[0].through_revision for message in messages] == [6, 8, 9]


def test_a_large_first_event_begins_a_message_of_its_own():
    messages = told(news(1, put(5, MIB), put(6, MIB), through=6), news(2, put(7, MIB), through=7, created=True))
    assert [[one.watch_id for one in message.news] for message in messages] == [[1], [2]]
    assert messages[1].news[0].created


def test_one_watch_that_has_the_largest_events():
    before = put(4, MIB).entry
    messages = told(news(1, put(5, MIB), put(6, MIB), through=6, previous=(before, before)))
    assert len(messages) == 2


def test_many_news_are_parted():
    messages = told(*(news(number, through=3) for number in range(2 * state_watching.MAX_NEWS + 1)))
    assert [len(message.news) for message in messages] == [state_watching.MAX_NEWS] * 2 + [1]


def test_what_many_see_is_serialized_once():
    known = EventBytes(max_bytes=3 * 1024)
    events = [put(revision, 1000) for revision in range(10)]
    first = known.of(events[0], None)
    assert known.of(events[0], None) is first
    for event in events:
        known.of(event, None)
    again = known.of(events[0], None)
    assert again == first
    assert again is not first
    assert known.of(events[0], events[1].entry) != first
    assert known.held_bytes <= 3 * 1024 < MAX_MESSAGE_BYTES
