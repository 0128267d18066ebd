"""Watches and chunks over streams that break."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from unittest import mock

import grpc
import pytest
from grpc.aio._call import StreamStreamCall, UnaryStreamCall
from hypothesis import given
from hypothesis import strategies as st
from muster.v1.common_pb2 import Progress, Refusal
from muster.v1.task_pb2 import TaskChunk, TaskEvent, WatchTasksResponse

from agent_node import Client
from agent_node.client.watch import Position
from agent_node.errors import MusterError, NotFoundError, UnavailableError
from tests.support.eventually import eventually
from tests.support.fake_task_service import FakeTaskService, serving


@pytest.fixture
def service() -> FakeTaskService:
    return FakeTaskService()


@pytest.fixture
async def client(service: FakeTaskService) -> AsyncIterator[Client]:
    async with serving(service) as address, Client(address, give_up_s=0.3, connect_timeout_s=0.1) as client:
        yield client


@contextmanager
def uncut_reads(kind: type) -> Iterator[list[object]]:
    """Nobody who reads from such a call is cancelled meanwhile: what gRPC would have read for them would stay in memory for ever.

    Gives the calls that were read from, one for each read.
    """
    read, begun, cut = kind._read, [], []

    async def observed(call: object) -> object:
        begun.append(call)
        try:
            return await read(call)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                cut.append(call)
            raise

    with mock.patch.object(kind, "_read", observed):
        yield begun
    assert not cut


def chunk(attempt: int, offset: int, data: bytes) -> TaskEvent:
    return TaskEvent(task_id="x", chunk=TaskChunk(attempt=attempt, offset=offset, data=data))


def progress(current: float) -> TaskEvent:
    return TaskEvent(task_id="x", progress=Progress(current=current))


async def test_chunks_go_on_behind_the_cursor_without_repeats(client: Client, service: FakeTaskService) -> None:
    service.watch_script = [
        [WatchTasksResponse(events=[chunk(1, 0, b"ab"), chunk(1, 2, b"cd")], cursor="c1"), grpc.StatusCode.UNAVAILABLE],
        [grpc.StatusCode.INTERNAL],
        [WatchTasksResponse(events=[chunk(1, 2, b"cd"), chunk(1, 3, b"de"), chunk(2, 0, b"again")], cursor="c2")],
    ]
    seen = [(each.attempt, each.offset, each.data) async for each in client.attach("x").chunks()]
    assert seen == [(1, 0, b"ab"), (1, 2, b"cd"), (1, 4, b"e"), (2, 0, b"again")]
    assert [each.cursor for each in service.watches] == ["", "c1", "c1"]
    assert all(each.include_chunks and list(each.task_ids) == ["x"] for each in service.watches)


async def test_chunks_of_an_unknown_task_raise(client: Client, service: FakeTaskService) -> None:
    service.watch_script = [[WatchTasksResponse(events=[TaskEvent(task_id="x", missing=Refusal(code=5, message="no such task"))])]]
    with pytest.raises(NotFoundError):
        await anext(client.attach("x").chunks())


async def test_a_watch_carries_cursors_that_lose_nothing_and_says_what_was_compacted(client: Client, service: FakeTaskService) -> None:
    service.watch_script = [
        [WatchTasksResponse(events=[progress(1), progress(2)], cursor="c1"), grpc.StatusCode.UNAVAILABLE],
        [WatchTasksResponse(compacted=True, cursor="c2"), WatchTasksResponse(events=[progress(3), progress(4)], cursor="c3")],
    ]
    seen = [each async for each in client.watch(["x"], cursor="c0", progress=True)]
    assert [(each.event.progress.current, each.cursor, each.compacted) for each in seen] == [
        (1, "c0", False),
        (2, "c1", False),
        (3, "c2", True),
        (4, "c3", False),
    ]
    assert [each.cursor for each in service.watches] == ["c0", "c1"]


async def test_whoever_leaves_a_watch_ends_its_call_and_cuts_no_read(client: Client, service: FakeTaskService) -> None:
    service.watch_script = [[WatchTasksResponse(events=[progress(1)], cursor="c1"), None]]
    watch = client.watch(["x"])
    with uncut_reads(UnaryStreamCall) as reads:
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await eventually(lambda: service.silent and len(reads) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await eventually(lambda: not service.silent, message="the call is over")


async def test_nor_does_a_client_that_is_closed(client: Client, service: FakeTaskService) -> None:
    with uncut_reads(StreamStreamCall):
        assert (await (await client.submit("x")).result()).payload == b""
        await client.aclose()
        await eventually(lambda: not service.sessions, message="the session is over")


async def test_a_watch_says_once_that_it_broke(client: Client, service: FakeTaskService) -> None:
    broke: list[UnavailableError] = []
    service.watch_script = [
        [grpc.StatusCode.UNAVAILABLE],  # it had not worked yet
        [WatchTasksResponse(events=[progress(1)], cursor="c1"), grpc.StatusCode.UNAVAILABLE],
        [grpc.StatusCode.UNAVAILABLE],
        [WatchTasksResponse(events=[progress(2)], cursor="c2")],
    ]
    assert len([each async for each in client.watch(["x"], on_break=broke.append)]) == 2
    assert [str(error).startswith("the watch broke: ") for error in broke] == [True]


async def test_a_watch_by_filter_goes_on_when_the_coordinator_ends_it(client: Client, service: FakeTaskService) -> None:
    service.watch_script = [[WatchTasksResponse(events=[progress(1)], cursor="c1")], [WatchTasksResponse(events=[progress(2)])]]
    service.watch_script.append([grpc.StatusCode.PERMISSION_DENIED])
    watch = client.watch(filter="state = RUNNING")
    assert [(await anext(watch)).event.progress.current for _ in range(2)] == [1, 2]
    with pytest.raises(MusterError, match="ended by the script"):
        await anext(watch)


async def test_a_bad_request_is_not_repeated(client: Client, service: FakeTaskService) -> None:
    service.watch_script = [[grpc.StatusCode.INVALID_ARGUMENT]]
    with pytest.raises(MusterError, match="ended by the script"):
        await anext(client.watch(filter="nonsense"))
    assert len(service.watches) == 1


async def test_a_watch_gives_up_when_nothing_comes(client: Client, service: FakeTaskService) -> None:
    service.watch_script = [[grpc.StatusCode.UNAVAILABLE]] * 100
    with pytest.raises(UnavailableError, match="the watch broke"):
        await anext(client.watch(["x"]))


async def test_a_watch_is_of_ids_or_of_a_filter(client: Client) -> None:
    for arguments in ({}, {"task_ids": ["x"], "filter": "state = RUNNING"}):
        with pytest.raises(ValueError, match="not both"):
            client.watch(**arguments)


@given(cuts=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_any_overlap_of_pieces_gives_each_byte_once(cuts: list[tuple[int, int]]) -> None:
    output = bytes(range(20))
    position = Position()
    seen = 0
    for start, end in cuts:
        if start > seen or end < start:
            continue  # a coordinator resumes at or before where it left off
        piece = position.advance(TaskChunk(attempt=1, offset=start, data=output[start:end]))
        if end <= seen:
            assert piece is None
        else:
            assert piece is not None
            assert (piece.offset, piece.data) == (seen, output[seen:end])
            seen = end


def test_a_late_piece_of_an_earlier_attempt_is_dropped() -> None:
    position = Position()
    assert position.advance(TaskChunk(attempt=2, offset=0, data=b"new"))
    assert position.advance(TaskChunk(attempt=1, offset=3, data=b"old")) is None
