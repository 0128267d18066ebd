"""What a program asks of shared state by mistake."""

import pytest

from agent_node import RefusedError


async def test_what_no_message_can_carry_is_refused_at_once_and_holds_nothing_up(state, service):
    with pytest.raises(RefusedError, match="store the value elsewhere") as refused:
        await state.put("large", b"x" * 4 * 1024 * 1024)
    assert refused.value.reason == "VALUE_TOO_LARGE"
    txn = state.txn()
    for number in range(6):
        txn.put(f"t/{number}", b"x" * 700_000)
    with pytest.raises(RefusedError, match="write fewer keys at once"):
        await txn.commit()
    await state.put("small", 1)
    assert list(service.entries) == ["small"]


async def test_a_lock_object_is_one_acquisition(state):
    lock = state.lock("l")
    async with lock:
        with pytest.raises(RuntimeError, match="already used"):
            await lock.acquire()
        await state.put("k", 1)  # it is still held
    with pytest.raises(RuntimeError, match="for each block"):
        async with lock:
            pytest.fail("nobody holds it")
    async with state.lock("l") as again:
        assert again.token > lock.token


@pytest.mark.parametrize("seconds", [float("nan")])
async def test_a_time_that_is_no_number_is_refused(state, service, seconds):
    for make in (lambda: state.put("k", 1, ttl_s=seconds), lambda: state.lease(seconds), lambda: state.lock("l", ttl_s=seconds).acquire()):
        with pytest.raises(ValueError, match="a duration is nan"):
            await make()
    assert not service.ops
