"""What a program asks of shared state by mistake."""

import pytest

from agent_node import AgentState, InvalidArgumentError, RefusedError
from agent_node.arguments import text
from agent_node.client.tasks import encode_payload
from tests.support.eventually import eventually


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


LONE = "\ud800"
NAN = float("nan")

CALLS = {
    "if_revision": (lambda state, bad: state.put("k", 1, if_revision=bad), [-1, 2**70, "1", 1.5, True]),
    "key": (lambda state, bad: state.put(bad, 1), [None, 5, b"k", LONE]),
    "value": (lambda state, bad: state.put("k", bad), [LONE, [LONE], {"a": NAN}, object()]),
    "content_type": (lambda state, bad: state.put("k", 1, content_type=bad), [5, LONE]),
    "ttl_s": (lambda state, bad: state.put("k", 1, ttl_s=bad), ["1", NAN]),
    "lease": (lambda state, bad: state.put("k", 1, lease=bad), [-1, "1", 2**70]),
    "keys": (lambda state, bad: state.get_many(bad), ["abc", None]),
    "the key of a read": (lambda state, bad: state.get(bad), [None, LONE]),
    "page_size": (lambda state, bad: anext(state.list("", page_size=bad)), [-1, 2**40, "1"]),
    "page_size of a history": (lambda state, bad: anext(state.history("k", page_size=bad)), [-1, "1"]),
    "prefix": (lambda state, bad: anext(state.list(bad)), [None, LONE]),
    "prefix of a deletion": (lambda state, bad: state.delete_prefix(bad), ["", None, LONE]),
    "number": (lambda state, bad: state.add("n", bad), [NAN, float("inf"), "1", True]),
    "an item": (lambda state, bad: state.append("l", bad), [LONE, object(), NAN]),
    "patch": (lambda state, bad: state.merge_patch("m", bad), [None, [1], {"a": LONE}]),
    "operations": (lambda state, bad: state.json_patch("m", bad), [None, "abc", {"op": "test"}, [{"value": NAN}]]),
    "start_revision": (lambda state, bad: state.watch("k", start_revision=bad).started(), [-1, 2**70, "1"]),
    "the key of a watch": (lambda state, bad: state.watch(bad).started(), [5, LONE]),
    "prefix of a watch": (lambda state, bad: state.watch(prefix=bad).started(), [5, LONE]),
    "callback": (lambda state, bad: state.subscribe("k", bad), [None, 5]),
    "name": (lambda state, bad: state.lock(bad).acquire(), [None, LONE]),
    "ttl_s of a lock": (lambda state, bad: state.lock("l", ttl_s=bad).acquire(), ["1", NAN]),
    "wait_s": (lambda state, bad: state.lock("l", wait_s=bad).acquire(), ["1", NAN]),
    "ttl_s of a lease": (lambda state, bad: state.lease(bad), [None, NAN]),
    "prefix of locks": (lambda state, bad: state.locks(bad), [None, LONE]),
    "revision": (lambda state, bad: state.compact(bad), [-1, "1"]),
    "fn": (lambda state, bad: state.atomic_update("k", bad), [None, 5]),
    "max_retries": (lambda state, bad: state.atomic_update("k", lambda entry: 1, max_retries=bad), [-1, "1"]),
    "the key of an update": (lambda state, bad: state.atomic_update(bad, lambda entry: 1), [None, LONE]),
    "revision of a condition": (lambda state, bad: state.txn().if_revision("k", bad).commit(), [-1, "1"]),
    "version": (lambda state, bad: state.txn().if_version("k", bad).commit(), [-1, None]),
    "the key of a condition": (lambda state, bad: state.txn().if_exists(bad).commit(), [None, LONE]),
    "the key in a transaction": (lambda state, bad: state.txn().put("k", 1).get(bad).commit(), [None, LONE]),
    "agent_id": (lambda state, bad: AgentState(bad, state).get_status(), [None, "", "a/b", LONE]),
    "metadata": (lambda state, bad: AgentState("a", state).update_status("s", {"m": bad}), [LONE, object(), NAN]),
    "current": (lambda state, bad: AgentState("a", state).update_progress(bad), [NAN, -1, "1"]),
}


@pytest.mark.parametrize("argument", CALLS)
async def test_an_argument_that_cannot_be_is_named_and_nothing_is_sent(state, service, argument):
    call, wrong = CALLS[argument]
    name = argument.removeprefix("the ").split(" of ")[0].split(" in ")[0]
    for bad in wrong:
        with pytest.raises((InvalidArgumentError, TypeError), match=f"^{name} (is|has|can't be) .*give ") as raised:
            await call(state, bad)
        assert not isinstance(raised.value, UnicodeEncodeError)
        assert getattr(raised.value, "argument", name) == name
    assert not service.ops
    assert not service.watches


async def test_a_watch_that_no_message_can_ask_for_ends_no_other(state, service):
    async with state.watch("k") as good:
        with pytest.raises(InvalidArgumentError):
            state.watch("k", start_revision=-1)
        with pytest.raises(InvalidArgumentError):
            state.watch(LONE)
        await service.break_streams()
        await eventually(lambda: service.watch_streams == 2 and service.watches == 1, message="the watch to be asked for again")
        service.write("k")
        assert (await anext(good)).revision == 1


def test_what_is_wrong_is_short_and_without_a_payload():
    with pytest.raises(TypeError) as raised:
        text("key", ["x" * 5_000])
    assert len(str(raised.value)) < 150
    with pytest.raises(InvalidArgumentError) as raised:
        encode_payload("secret \ud800", name="value")
    assert "secret" not in str(raised.value)
