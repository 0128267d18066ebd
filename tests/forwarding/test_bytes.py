"""What goes through is what came: messages, metadata, deadlines, cancellation, statuses, in both directions and at both sides' pace."""

import asyncio

import grpc
import pytest

from tests.support.eventually import eventually
from tests.support.raw_owner import echo

SESSION = "/muster.v1.TaskService/Session"
WATCH = "/muster.v1.TaskService/WatchTasks"
GET = "/muster.v1.TaskService/GetTask"
MIB = 1024 * 1024


def stream(front, method=SESSION, **options):
    return front.channel.stream_stream(method)(**options)


async def all_of(call):
    """Reads a stream to its end."""
    received = []
    while (message := await call.read()) is not grpc.aio.EOF:
        received.append(message)
    return received


class TestMessages:
    async def test_any_bytes_come_through_as_they_are(self, front, raw, rng):
        for _ in range(20):
            sent = [rng.randbytes(rng.choice([0, 1, 100, 5_000, 70_000])) for _ in range(rng.randrange(1, 12))]
            call = stream(front)
            for message in sent:
                await call.write(message)
            await call.done_writing()
            assert await all_of(call) == sent
            assert raw.calls[-1].received == sent
            message = rng.randbytes(rng.choice([0, 7, 3_000]))
            assert await front.channel.unary_unary(GET)(message) == message
            assert await all_of(front.channel.unary_stream(WATCH)(message)) == [message]

    async def test_three_mebibytes(self, front):
        message = bytes(3 * MIB)
        assert await front.channel.unary_unary(GET)(message) == message
        call = stream(front)
        await call.write(message)
        assert await call.read() == message

    async def test_more_than_a_coordinator_takes_is_refused_as_it_is_directly(self, front, raw, pair):
        for side in (front, pair.back):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await side.channel.unary_unary(GET)(bytes(4 * MIB + 100))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not [call for call in raw.calls if call.received]

    async def test_half_a_close_goes_through(self, front, raw):
        async def answer(call):
            while await call.read() is not None:
                pass
            await call.write(b"after the end")

        raw.answer = answer
        call = stream(front)
        await call.write(b"first")
        await call.done_writing()
        assert await all_of(call) == [b"after the end"]

    async def test_an_owner_that_speaks_first(self, front, raw):
        async def answer(call):
            await call.write(b"welcome")
            await call.read()

        raw.answer = answer
        call = stream(front)
        assert await call.read() == b"welcome"


class TestMetadata:
    async def test_both_ways(self, front, raw):
        async def answer(call):
            await call.context.send_initial_metadata((("one", "1"), ("two-bin", b"\x00\xff"), ("one", "again")))
            await call.write(await call.read())
            call.context.set_trailing_metadata((("three", "3"), ("four-bin", b"\xfe")))

        raw.answer = answer
        sent = (("mine", "a"), ("mine", "b"), ("mine-bin", b"\x01\x00"), ("traceparent", "00-1-2-01"))
        for call in (front.channel.unary_unary(GET)(b"", metadata=sent), front.channel.unary_stream(WATCH)(b"", metadata=sent)):
            initial = list(await call.initial_metadata())
            assert initial[:3] == [("one", "1"), ("one", "again"), ("two-bin", b"\x00\xff")]
            if hasattr(call, "read"):
                assert await all_of(call) == [b""]
            trailing = dict(await call.trailing_metadata())
            assert (trailing["three"], trailing["four-bin"], trailing["muster-owner"]) == ("3", b"\xfe", raw.address)
            received = [pair for pair in raw.calls[-1].metadata if pair in sent]
            assert sorted(received) == sorted(sent)

    async def test_a_stream_says_where_the_owner_is_before_its_first_message(self, front, raw):
        call = stream(front)
        await call.write(b"hello")
        assert dict(await call.initial_metadata())["muster-owner"] == raw.address


class TestEnds:
    @pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
    async def test_a_status_with_details(self, front, raw, code):
        async def answer(call):
            call.context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05details"), ("also", "this")))
            await call.context.abort(code, f"because of {code.name}: ünïcode")

        raw.answer = answer
        for call in (front.channel.unary_unary(GET)(b""), front.channel.unary_stream(WATCH)(b"")):
            assert await call.code() is code
            assert await call.details() == f"because of {code.name}: ünïcode"
            trailing = dict(await call.trailing_metadata())
            assert trailing["grpc-status-details-bin"] == b"\x08\x05details"
            assert trailing["also"] == "this"
        assert len(raw.calls) == 2  # nothing was repeated

    async def test_a_status_in_the_middle_of_a_stream(self, front, raw):
        async def answer(call):
            await call.write(b"one")
            await call.context.abort(grpc.StatusCode.DATA_LOSS, "enough")

        raw.answer = answer
        call = stream(front)
        assert await call.read() == b"one"
        with pytest.raises(grpc.aio.AioRpcError, match="enough"):
            await call.read()
        assert await call.code() is grpc.StatusCode.DATA_LOSS

    async def test_deadlines(self, front, raw):
        async def answer(call):
            raw.left_s = call.context.time_remaining()
            await asyncio.Event().wait()

        raw.answer = answer
        for call in (front.channel.unary_unary(GET)(b"", timeout=0.5), front.channel.unary_stream(WATCH)(b"", timeout=0.5)):
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert 0 < raw.left_s < 0.6
            await eventually(lambda: raw.calls[-1].cancelled, message="the owner's handler to end")

    async def test_no_deadline(self, front, raw):
        async def answer(call):
            raw.left_s = call.context.time_remaining()
            await call.write(b"")

        raw.answer = answer
        await front.channel.unary_unary(GET)(b"")
        assert raw.left_s is None

    async def test_a_caller_that_goes(self, front, raw):
        async def answer(call):
            await call.write(b"one")
            await asyncio.Event().wait()

        raw.answer = answer
        call = stream(front)
        assert await call.read() == b"one"
        call.cancel()
        await eventually(lambda: raw.calls[-1].cancelled, message="the owner's handler to end")
        unary = front.channel.unary_unary(GET)(b"")
        await eventually(lambda: len(raw.calls) == 2, message="the second call")
        unary.cancel()
        await eventually(lambda: raw.calls[-1].cancelled, message="the owner's handler to end")

    async def test_an_owner_that_goes(self, front, raw):
        """The connection breaks in the middle: it isn't known what was done, so nothing is repeated."""

        async def answer(call):
            await call.read()
            await asyncio.Event().wait()

        raw.answer = answer
        calls = [front.channel.unary_unary(GET)(b""), stream(front)]
        await calls[1].write(b"do it")
        await eventually(lambda: len([call for call in raw.calls if call.received]) == 2, message="both calls")
        await raw.stop()
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert len(raw.calls) == 2


class TestPace:
    """What a side doesn't read, the other can't go on sending: nothing gathers in between."""

    FEW = 12 * MIB  # windows and sockets of two connections hold this at most

    async def test_a_caller_that_does_not_read(self, front, raw):
        written = 0

        async def answer(call):
            nonlocal written
            while True:
                await call.write(bytes(64 * 1024))
                written += 64 * 1024

        raw.answer = answer
        call = stream(front)
        assert await call.read()
        stopped_at = await self.comes_to_rest(lambda: written)
        assert stopped_at < self.FEW
        # Others are not held up meanwhile, although they share the connection.
        raw.answer = echo
        assert await front.channel.unary_unary(GET)(b"x", timeout=5) == b"x"
        for _ in range(stopped_at // (64 * 1024)):
            await call.read()
        await eventually(lambda: written > stopped_at, message="it to go on")

    async def test_an_owner_that_does_not_read(self, front, raw):
        go_on = asyncio.Event()

        async def answer(call):
            await go_on.wait()
            while await call.read() is not None:
                pass

        raw.answer = answer
        written = 0
        call = stream(front)

        async def write():
            nonlocal written
            while written < 2 * self.FEW:
                await call.write(bytes(64 * 1024))
                written += 64 * 1024

        writing = asyncio.create_task(write())
        assert await self.comes_to_rest(lambda: written) < self.FEW
        go_on.set()
        await asyncio.wait_for(writing, 60)

    async def comes_to_rest(self, value):
        """Waits until a number stands still, and answers it."""
        seen = []

        def rests():
            seen.append(value())
            return len(seen) > 10 and len(set(seen[-10:])) == 1 and seen[-1] > 0

        await eventually(rests, within_s=60, message="the writer to wait")
        return seen[-1]
