"""What the stream of watches says, as values."""

from muster.v1 import state_pb2 as pb

from agent_node.state import wire


def _event(revision: int, value: bytes, previous: bytes | None = None) -> pb.StateEvent:
    event = pb.StateEvent(
        kind=pb.STATE_EVENT_KIND_PUT, key="a", revision=revision, entry=pb.StateEntry(key="a", value=value, mod_revision=revision)
    )
    if previous is not None:
        event.previous.key, event.previous.value = "a", previous
    return event


def _news(watch_id: int, *events: pb.StateEvent) -> pb.WatchNews:
    return pb.WatchNews(watch_id=watch_id, events=events, through_revision=events[-1].revision)


def test_an_event_that_several_watches_see_is_read_once():
    response = pb.WatchResponse(news=[_news(watch_id, _event(7, b"x"), _event(8, b"y")) for watch_id in (1, 2)])
    first, second = wire.watch_news(response)
    assert [(event.revision, event.entry.value) for event in first.events] == [(7, b"x"), (8, b"y")]
    assert [id(event) for event in first.events] == [id(event) for event in second.events]


def test_what_only_looks_like_the_same_event_is_another():
    # One watch asked for what was there before; and a store that has lost writes uses a revision again.
    seen = [_event(7, b"x"), _event(7, b"x", previous=b"w"), _event(7, b"z"), _event(7, b"x")]
    told = wire.watch_news(pb.WatchResponse(news=[_news(number, event) for number, event in enumerate(seen, 1)]))
    assert [news.events for news in told] == [[wire.read_event(event)] for event in seen]
    assert [news.watch_id for news in told] == [1, 2, 3, 4]
