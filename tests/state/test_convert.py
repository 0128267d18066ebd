"""What is wrong with a request of shared state, field by field; and what is right is what it means."""

import pytest
from google.protobuf.duration_pb2 import Duration
from muster.v1 import state_pb2 as pb

from coordinator import convert_state, convert_state_out
from coordinator.convert_timing import MAX_DURATION_S
from coordinator.errors import InvalidRequest
from coordinator.state.model import (
    AcquireLock,
    Compare,
    CompareTarget,
    Delete,
    Entry,
    Event,
    EventKind,
    LockParty,
    LockView,
    Origin,
    Put,
    Read,
    ReleaseLock,
    Transaction,
)
from coordinator.state.updates import Add, Append, JsonPatch, MergePatch, SetAdd, SetRemove, Update

MIB = 1024 * 1024
NEGATIVE = 2**64 - 5  # what arrives of a client that writes -5 into an unsigned number
PUT = pb.PutRequest(key="k", value=b"v")
AUTHOR = pb.StateAuthor(agent_name="a", task_id="t", attempt=2)


def put(**fields):
    return convert_state.put_in(pb.PutRequest(**{"key": "k", **fields}), "")


def options(**fields):
    return put(options=pb.WriteOptions(**fields))


def delete(**fields):
    return convert_state.delete_in(pb.DeleteRequest(**fields), "")


def txn(then_ops=(), compares=(), else_ops=(), **fields):
    return convert_state.txn_in(pb.TxnRequest(then_ops=then_ops, compares=compares, else_ops=else_ops, **fields), "")


def put_op(key, **fields):
    return pb.TxnOp(put=pb.PutRequest(key=key, **fields))


def delete_op(key, *, prefix=False):
    return pb.TxnOp(delete=pb.DeleteRequest(key=key, prefix=prefix))


def compare(**fields):
    return txn(compares=[pb.StateCompare(**{"key": "k", "target": pb.STATE_COMPARE_TARGET_VERSION, **fields})])


def update(**fields):
    return convert_state.update_in(pb.UpdateRequest(**{"key": "k", **fields}), "")


def get(*keys):
    return convert_state.get_in(pb.GetRequest(keys=keys))


def lock(**fields):
    return convert_state.acquire_lock_in(pb.LockRequest(**{"name": "l", "waiter_id": "w", "ttl": Duration(seconds=1), **fields}))


def unlock(**fields):
    return convert_state.release_lock_in(pb.UnlockRequest(**{"name": "l", **fields}))


def keep_lock(**fields):
    return convert_state.keep_lock_in(pb.KeepLockRequest(**{"name": "l", **fields}))


def grant(**fields):
    return convert_state.grant_lease_in(pb.GrantLeaseRequest(**fields), "")


@pytest.mark.parametrize(
    "field, reason, wrong",
    [
        ("key", "KEY_EMPTY", lambda: put(key="")),
        ("key", "KEY_TOO_LONG", lambda: put(key="k" * 1025)),
        ("key", "KEY_TOO_LONG", lambda: put(key="ü" * 513)),
        ("key", "KEY_HAS_CONTROL_CHARACTERS", lambda: put(key="a\0b")),
        ("key", "KEY_HAS_CONTROL_CHARACTERS", lambda: put(key="a\nb")),
        ("key", "KEY_HAS_CONTROL_CHARACTERS", lambda: put(key="ü\x7f")),
        ("key", "KEY_HAS_CONTROL_CHARACTERS", lambda: put(key="\x9b")),
        ("value", "VALUE_TOO_LARGE", lambda: put(value=bytes(MIB + 1))),
        ("content_type", "INVALID_FIELD", lambda: put(content_type="x" * 129)),
        ("content_type", "INVALID_FIELD", lambda: put(content_type="a\nb")),
        ("lease_id", "INVALID_FIELD", lambda: put(lease_id=NEGATIVE)),
        ("ttl", "INVALID_FIELD", lambda: put(ttl=Duration(seconds=-1))),
        ("ttl", "INVALID_FIELD", lambda: put(ttl=Duration())),
        ("ttl", "INVALID_FIELD", lambda: put(ttl=Duration(seconds=MAX_DURATION_S + 1))),
        ("ttl", "INVALID_FIELD", lambda: put(ttl=Duration(seconds=1, nanos=-1))),
        ("ttl", "INVALID_FIELD", lambda: put(ttl=Duration(seconds=1), lease_id=3)),
        ("if_revision", "INVALID_FIELD", lambda: put(if_revision=NEGATIVE)),
        ("options.client_id", "INVALID_FIELD", lambda: options(sequence=1)),
        ("options.client_id", "INVALID_FIELD", lambda: options(sequence=1, client_id="x" * 129)),
        ("options.sequence", "INVALID_FIELD", lambda: options(sequence=NEGATIVE, client_id="c")),
        ("options.author.agent_name", "INVALID_FIELD", lambda: options(author=pb.StateAuthor(agent_name="a\n"))),
        ("options.author.task_id", "INVALID_FIELD", lambda: options(author=pb.StateAuthor(task_id="t" * 129))),
        ("options.author.client_name", "INVALID_FIELD", lambda: options(author=pb.StateAuthor(client_name="\0"))),
        ("options.author", "INVALID_FIELD", lambda: options(author=pb.StateAuthor(client_name="x" * 3000))),
        ("options.required_locks", "INVALID_FIELD", lambda: options(required_locks=[pb.RequiredLock(name="l", token=1)] * 17)),
        ("options.required_locks[0].name", "KEY_EMPTY", lambda: options(required_locks=[pb.RequiredLock(token=1)])),
        ("options.required_locks[0].token", "INVALID_FIELD", lambda: options(required_locks=[pb.RequiredLock(name="l")])),
        ("options.required_locks[0].token", "INVALID_FIELD", lambda: options(required_locks=[pb.RequiredLock(name="l", token=NEGATIVE)])),
        ("key", "KEY_EMPTY", delete),
        ("key", "KEY_EMPTY", lambda: delete(prefix=True)),
        ("if_revision", "INVALID_FIELD", lambda: delete(key="k", prefix=True, if_revision=1)),
        ("then_ops", "TOO_MANY_OPERATIONS", lambda: txn([put_op(f"k{number}") for number in range(129)])),
        ("else_ops", "TOO_MANY_OPERATIONS", lambda: txn(else_ops=[put_op(f"k{number}") for number in range(129)])),
        ("compares", "TOO_MANY_OPERATIONS", lambda: txn(compares=[pb.StateCompare(key="k", target=3)] * 129)),  # type: ignore[arg-type]
        ("then_ops[1]", "KEY_WRITTEN_TWICE", lambda: txn([put_op("k"), put_op("k")])),
        ("then_ops[1]", "KEY_WRITTEN_TWICE", lambda: txn([put_op("k"), delete_op("k")])),
        ("then_ops[0]", "KEY_WRITTEN_TWICE", lambda: txn([put_op("ab"), delete_op("a", prefix=True)])),
        ("then_ops[1]", "KEY_WRITTEN_TWICE", lambda: txn([delete_op("a", prefix=True), put_op("a!"), put_op("ab")])),
        ("else_ops[0]", "KEY_WRITTEN_TWICE", lambda: txn(else_ops=[delete_op("ab", prefix=True), delete_op("a", prefix=True)])),
        ("then_ops[0]", "INVALID_FIELD", lambda: txn([pb.TxnOp()])),
        ("then_ops[1].put.key", "KEY_EMPTY", lambda: txn([put_op("k"), put_op("")])),
        ("then_ops[0].put.value", "VALUE_TOO_LARGE", lambda: txn([put_op("k", value=bytes(MIB + 1))])),
        ("then_ops[0].put.ttl", "INVALID_FIELD", lambda: txn([put_op("k", ttl=Duration(seconds=1), lease_id=4)])),
        ("then_ops[0].delete.key", "KEY_EMPTY", lambda: txn([delete_op("", prefix=True)])),
        ("then_ops[0].get.keys", "INVALID_FIELD", lambda: txn([pb.TxnOp(get=pb.GetRequest())])),
        ("then_ops", "INVALID_FIELD", lambda: txn([pb.TxnOp(get=pb.GetRequest(keys=["k"] * 200))] * 2)),
        ("else_ops[0].get.keys[1]", "KEY_EMPTY", lambda: txn(else_ops=[pb.TxnOp(get=pb.GetRequest(keys=["k", ""]))])),
        ("compares[0].key", "KEY_EMPTY", lambda: compare(key="")),
        ("compares[0].target", "INVALID_FIELD", lambda: compare(target=pb.STATE_COMPARE_TARGET_UNSPECIFIED)),
        ("compares[0].target", "INVALID_FIELD", lambda: compare(target=99)),
        ("compares[0].number", "INVALID_FIELD", lambda: compare(number=NEGATIVE)),
        ("compares[0].number", "INVALID_FIELD", lambda: compare(target=pb.STATE_COMPARE_TARGET_EXISTS, number=2)),
        ("compares[0].number", "INVALID_FIELD", lambda: compare(target=pb.STATE_COMPARE_TARGET_VALUE, number=2)),
        ("compares[0].value", "INVALID_FIELD", lambda: compare(value=b"x")),
        ("compares[0].value", "VALUE_TOO_LARGE", lambda: compare(target=pb.STATE_COMPARE_TARGET_VALUE, value=bytes(MIB + 1))),
        ("keys", "INVALID_FIELD", get),
        ("keys", "INVALID_FIELD", lambda: get(*["k"] * 257)),
        ("keys[1]", "KEY_EMPTY", lambda: get("k", "")),
        ("prefix", "KEY_TOO_LONG", lambda: convert_state.check_prefix("k" * 1025, "prefix")),
        ("prefix", "KEY_HAS_CONTROL_CHARACTERS", lambda: convert_state.check_prefix("\0", "prefix")),
        ("ttl", "INVALID_FIELD", grant),
        ("ttl", "INVALID_FIELD", lambda: grant(ttl=Duration(seconds=-3))),
        ("options.client_id", "INVALID_FIELD", lambda: grant(ttl=Duration(seconds=3), options=pb.WriteOptions(sequence=1))),
        ("lease_id", "INVALID_FIELD", lambda: convert_state.lease_id_in(0)),
        ("lease_id", "INVALID_FIELD", lambda: convert_state.lease_id_in(NEGATIVE)),
        ("name", "KEY_EMPTY", lambda: lock(name="")),
        ("waiter_id", "INVALID_FIELD", lambda: lock(waiter_id="")),
        ("waiter_id", "INVALID_FIELD", lambda: lock(waiter_id="x" * 129)),
        ("ttl", "INVALID_FIELD", lambda: lock(ttl=Duration())),
        ("wait", "INVALID_FIELD", lambda: lock(wait=Duration(seconds=-1))),
        ("author.agent_name", "INVALID_FIELD", lambda: lock(author=pb.StateAuthor(agent_name="\0"))),
        ("token", "INVALID_FIELD", keep_lock),
        ("token", "INVALID_FIELD", lambda: keep_lock(token=NEGATIVE)),
        ("token", "INVALID_FIELD", unlock),
        ("waiter_id", "INVALID_FIELD", lambda: unlock(token=1, waiter_id="w")),
        ("token", "INVALID_FIELD", lambda: unlock(token=NEGATIVE)),
        ("options.fence", "INVALID_FIELD", lambda: convert_state.attempt_in(pb.WriteOptions(task_id="t"))),
        ("options.task_id", "INVALID_FIELD", lambda: convert_state.attempt_in(pb.WriteOptions(fence=3))),
    ],
)
def test_the_field_at_fault_is_named(field, reason, wrong):
    with pytest.raises(InvalidRequest) as caught:
        wrong()
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert len(caught.value.message) < 300


def test_what_is_just_allowed():
    for key in ("k", "k" * 1024, "ü" * 512, "a b", "agents/ä/status", "\u2028", "🚀"):
        assert convert_state.check_key(key, "key") == key
    assert convert_state.check_prefix("", "prefix") == ""
    assert put(value=bytes(MIB)).then_ops == (Put("k", bytes(MIB)),)
    assert len(txn([put_op(f"k{number}") for number in range(128)]).then_ops) == 128
    assert txn([delete_op("a/", prefix=True), put_op("a"), put_op("a0"), delete_op("b/", prefix=True)]).then_ops[1] == Put("a", b"")
    assert txn([put_op("k")], else_ops=[put_op("k")]).else_ops == (Put("k", b""),)


def test_a_put():
    assert convert_state.put_in(PUT, "") == Transaction((Put("k", b"v"),))
    whole = pb.PutRequest(
        key="k",
        value=b"v",
        content_type="text/plain",
        ttl=Duration(nanos=1_000_001),
        if_revision=0,
        options=pb.WriteOptions(author=AUTHOR, sequence=7, required_locks=[pb.RequiredLock(name="l", token=5)]),
    )
    assert convert_state.put_in(whole, "client") == Transaction(
        (Put("k", b"v", "text/plain", ttl_ms=2),),
        (Compare("k", CompareTarget.MOD_REVISION, 0),),
        (Read(("k",)),),
        (("l", 5),),
        Origin(AUTHOR.SerializeToString(), "client", 7),
    )
    whole.options.client_id = "other"
    assert convert_state.put_in(whole, "client").origin.client_id == "other"


def test_who_writes_is_the_client_where_nothing_more_is_said():
    known = pb.StateAuthor(client_name="client").SerializeToString()
    assert convert_state.put_in(pb.PutRequest(key="k", options=pb.WriteOptions()), "client").origin == Origin(known)
    assert convert_state.put_in(pb.PutRequest(key="k"), "client").origin == Origin(known)
    assert convert_state.acquire_lock_in(pb.LockRequest(name="l", waiter_id="w", ttl=Duration(seconds=1)), "client").author == known
    assert convert_state.put_in(pb.PutRequest(key="k"), "").origin == Origin()


def test_a_delete():
    assert delete(key="k") == Transaction((Delete("k"),))
    assert delete(key="k", prefix=True).then_ops == (Delete("k", prefix=True),)
    assert delete(key="k", if_revision=4).compares == (Compare("k", CompareTarget.MOD_REVISION, 4),)


def test_what_is_not_known_of_an_author_is_not_kept():
    known = pb.StateAuthor(client_name="c").SerializeToString()
    assert convert_state.author_in(pb.StateAuthor.FromString(known + b"\xfa\x01\x05later"), "author") == known


def test_a_transaction():
    made = txn(
        [put_op("a", value=b"1", if_revision=9, lease_id=4), delete_op("b/", prefix=True), pb.TxnOp(get=pb.GetRequest(keys=["c", "d"]))],
        [
            pb.StateCompare(key="a", target=pb.STATE_COMPARE_TARGET_VALUE, value=b"0"),
            pb.StateCompare(key="b", target=pb.STATE_COMPARE_TARGET_EXISTS, number=1),
        ],
        [pb.TxnOp(get=pb.GetRequest(keys=["a"]))],
    )
    assert made == Transaction(
        (Put("a", b"1", lease_id=4), Delete("b/", prefix=True), Read(("c", "d"))),
        (Compare("a", CompareTarget.VALUE, value=b"0"), Compare("b", CompareTarget.EXISTS, 1)),
        (Read(("a",)),),
    )


def test_an_update():
    items = pb.JsonItems(items=[b"1", b"[]"])
    changes = {
        "merge_patch": (b"{}", MergePatch(b"{}")),
        "json_patch": (b"[]", JsonPatch(b"[]")),
        "add": ("0.5", Add("0.5")),
        "append": (items, Append((b"1", b"[]"))),
        "set_add": (items, SetAdd((b"1", b"[]"))),
        "set_remove": (items, SetRemove((b"1", b"[]"))),
    }
    for name, (given, change) in changes.items():
        assert update(**{name: given}) == Update("k", change)
    whole = update(
        add="1",
        if_revision=3,
        options=pb.WriteOptions(client_id="c", sequence=2, required_locks=[pb.RequiredLock(name="l", token=5)]),
    )
    assert whole == Update(
        "k",
        Add("1"),
        (Compare("k", CompareTarget.MOD_REVISION, 3),),
        (("l", 5),),
        Origin(pb.StateAuthor(client_name="c").SerializeToString(), "c", 2),
    )


def test_locks():
    assert lock() == AcquireLock("l", "w", 1000, wait=False)
    waiting = pb.LockRequest(name="l", waiter_id="w", ttl=Duration(seconds=1), wait=Duration(seconds=2), author=AUTHOR)
    assert convert_state.acquire_lock_in(waiting) == AcquireLock("l", "w", 1000, wait=True, author=AUTHOR.SerializeToString())
    assert convert_state.wait_s_in(waiting) == 2
    assert unlock(token=3) == ReleaseLock("l", 3)
    assert unlock(waiter_id="w") == ReleaseLock("l", waiter_id="w")


def test_a_write_can_be_tied_to_an_attempt():
    assert convert_state.attempt_in(pb.WriteOptions()) is None
    assert convert_state.attempt_in(pb.WriteOptions(task_id="t", fence=2**63)) == ("t", 2**63)


def test_what_goes_out():
    entry = Entry("k", b"v", "text/plain", 9, 3, 4, 5, AUTHOR.SerializeToString(), 1_700_000_000_123)
    message = convert_state_out.entry_out(entry)
    assert (message.key, message.value, message.content_type, message.mod_revision, message.create_revision) == (
        "k",
        b"v",
        "text/plain",
        9,
        3,
    )
    assert (message.version, message.lease_id, message.author, message.write_time.ToMilliseconds()) == (4, 5, AUTHOR, 1_700_000_000_123)
    event = convert_state_out.event_out(Event(EventKind.EXPIRED, "k", 10, None, 9, b"", 1_700_000_000_124), entry)
    assert (event.kind, event.HasField("entry"), event.previous, event.HasField("author")) == (
        pb.STATE_EVENT_KIND_EXPIRED,
        False,
        message,
        False,
    )
    written = convert_state_out.event_out(Event(EventKind.PUT, "k", 9, entry, 0, entry.author, 5))
    assert (written.kind, written.entry, written.author, written.event_time.ToMilliseconds()) == (
        pb.STATE_EVENT_KIND_PUT,
        message,
        AUTHOR,
        5,
    )
    assert convert_state_out.conflict_out([]) == pb.StateEntry()
    assert convert_state_out.conflict_out([entry]) == message
    view = LockView("l", LockParty(7, "w", AUTHOR.SerializeToString(), 5), (LockParty(0, "x", b"", 6),))
    lock_state = convert_state_out.lock_out(view)
    assert (lock_state.holder.token, lock_state.holder.author, [waiter.waiter_id for waiter in lock_state.waiters]) == (7, AUTHOR, ["x"])
    assert not convert_state_out.lock_out(LockView("l", None, ())).HasField("holder")
    assert convert_state_out.author_text(AUTHOR.SerializeToString()) == "agent a, task t"
