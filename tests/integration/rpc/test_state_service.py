"""StateService over real gRPC: every call, what sessions promise, and how bad input is refused."""

import grpc
from google.protobuf.duration_pb2 import Duration
from muster.v1 import admin_pb2
from muster.v1 import state_pb2 as pb

from coordinator.state.model import Limits
from tests.support.eventually import eventually
from tests.support.hosted import hosted
from tests.support.refusals import assert_invalid, refusal
from tests.support.state_peers import SessionPeer, WatchPeer, put

NEGATIVE = 2**64 - 5
MIB = 1024 * 1024
SECOND = Duration(seconds=1)


async def test_a_key_is_set_read_and_deleted(muster):
    author = pb.StateAuthor(client_name="me")
    first = await muster.state.Put(put("k", content_type="text/plain", options=pb.WriteOptions(author=author)))
    assert (first.revision, first.version, first.create_revision) == (first.header.revision, 1, first.revision)
    assert first.header.incarnation
    second = await muster.state.Put(put("k", b"w", if_revision=first.revision))
    assert (second.version, second.create_revision) == (2, first.revision)
    got = await muster.state.Get(pb.GetRequest(keys=["none", "k"]))
    assert [(entry.key, entry.value, entry.mod_revision) for entry in got.entries] == [("k", b"w", second.revision)]
    assert got.header.revision == second.revision
    history = await muster.state.History(pb.HistoryRequest(key="k"))
    assert [event.entry.value for event in history.events] == [b"v", b"w"]
    assert (history.events[0].author, history.events[0].entry.content_type) == (author, "text/plain")
    assert history.events[0].event_time.ToMilliseconds() > 0
    assert (await muster.state.Delete(pb.DeleteRequest(key="k"))).deleted == 1
    assert (await muster.state.Delete(pb.DeleteRequest(key="k"))).deleted == 0
    stats = await muster.state.GetStateStats(pb.GetStateStatsRequest())
    assert (stats.keys, stats.bytes, stats.header.revision) == (0, 0, second.revision + 1)


async def test_every_answer_says_where_the_state_is(muster):
    """Of each call, and each operation of a session: the namespace's revision, and its store's incarnation."""
    await muster.state.Put(put("n", b"1"))
    lease = await muster.state.GrantLease(pb.GrantLeaseRequest(ttl=Duration(seconds=60)))
    lock = await muster.state.Lock(pb.LockRequest(name="l", waiter_id="me", ttl=Duration(seconds=60)))
    asked = {
        "Get": pb.GetRequest(keys=["n", "none"]),
        "Put": put("n", b"1"),
        "Delete": pb.DeleteRequest(key="none"),
        "List": pb.ListRequest(),
        "Txn": pb.TxnRequest(then_ops=[pb.TxnOp(get=pb.GetRequest(keys=["n"]))]),
        "Update": pb.UpdateRequest(key="n", add="1"),
        "History": pb.HistoryRequest(key="n"),
        "Compact": pb.CompactRequest(revision=2),
        "GrantLease": pb.GrantLeaseRequest(ttl=Duration(seconds=60)),
        "KeepLease": pb.KeepLeaseRequest(lease_id=lease.lease_id),
        "RevokeLease": pb.RevokeLeaseRequest(lease_id=lease.lease_id),
        "Lock": pb.LockRequest(name="other", waiter_id="me", ttl=Duration(seconds=60)),
        "KeepLock": pb.KeepLockRequest(name="l", token=lock.token),
        "Unlock": pb.UnlockRequest(name="l", token=lock.token),
        "ListLocks": pb.ListLocksRequest(),
        "GetStateStats": pb.GetStateStatsRequest(),
    }
    methods = pb.DESCRIPTOR.services_by_name["StateService"].methods_by_name
    assert set(asked) == {name for name, method in methods.items() if not method.client_streaming}
    seen = 1
    for name, request in asked.items():
        answer = await getattr(muster.state, name)(request)
        assert answer.header.revision >= seen, name
        assert answer.header.incarnation == lock.header.incarnation != "", name
        seen = answer.header.revision
    assert (await muster.state.GetStateStats(pb.GetStateStatsRequest())).header.revision == seen
    in_sessions = pb.StateAnswer.DESCRIPTOR.oneofs_by_name["answer"].fields
    assert all(field.name == "refusal" or "header" in field.message_type.fields_by_name for field in in_sessions)


async def test_a_condition_that_fails_ends_a_call(muster):
    made = await muster.state.Put(put("k"))
    why = await refusal(muster.state.Put(put("k", if_revision=0)))
    assert (why.code, why.reason) == (grpc.StatusCode.ABORTED, "COMPARE_FAILED")
    assert why.metadata == {"mod_revision": str(made.revision), "version": "1"}
    why = await refusal(muster.state.Delete(pb.DeleteRequest(key="none", if_revision=3)))
    assert (why.reason, why.metadata["mod_revision"]) == ("COMPARE_FAILED", "0")
    why = await refusal(muster.state.Update(pb.UpdateRequest(key="k", add="1", if_revision=made.revision + 1)))
    assert why.reason == "COMPARE_FAILED"


async def test_a_list_goes_in_pages(muster):
    for number in range(5):
        await muster.state.Put(put(f"k/{number}"))
    await muster.state.Put(put("ü" * 500))
    first = await muster.state.List(pb.ListRequest(prefix="k/", page_size=3, keys_only=True))
    assert [(entry.key, entry.value) for entry in first.entries] == [("k/0", b""), ("k/1", b""), ("k/2", b"")]
    rest = await muster.state.List(pb.ListRequest(prefix="k/", page_size=3, page_token=first.next_page_token))
    assert [(entry.key, entry.value) for entry in rest.entries] == [("k/3", b"v"), ("k/4", b"v")]
    assert not rest.next_page_token
    long = await muster.state.List(pb.ListRequest(page_size=5))
    last = await muster.state.List(pb.ListRequest(page_token=long.next_page_token))
    assert [entry.key for entry in last.entries] == ["ü" * 500]
    for token in ("?", first.next_page_token, "W1tb" * 1000, "x" * 5000):
        assert_invalid(await refusal(muster.state.List(pb.ListRequest(prefix="l", page_token=token))), "page_token", "INVALID_PAGE_TOKEN")


async def test_pages_of_large_values_are_small(muster):
    for number in range(5):
        await muster.state.Put(put(f"k{number}", bytes(MIB)))
    token, keys, pages = "", [], 0
    while pages == 0 or token:
        page = await muster.state.List(pb.ListRequest(prefix="k", page_token=token))
        keys += [entry.key for entry in page.entries]
        token, pages = page.next_page_token, pages + 1
    assert keys == [f"k{number}" for number in range(5)]
    assert pages >= 3
    why = await refusal(muster.state.Get(pb.GetRequest(keys=keys)))
    assert (why.code, why.limits) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ["state_read_bytes"])
    assert len((await muster.state.Get(pb.GetRequest(keys=keys[:2]))).entries) == 2


async def test_a_transaction_reads_before_it_writes(muster):
    await muster.state.Put(put("a", b"1"))
    answer = await muster.state.Txn(
        pb.TxnRequest(
            compares=[pb.StateCompare(key="a", target=pb.STATE_COMPARE_TARGET_VALUE, value=b"1")],
            then_ops=[
                pb.TxnOp(put=put("a", b"2")),
                pb.TxnOp(put=put("b", b"3")),
                pb.TxnOp(get=pb.GetRequest(keys=["a", "b"])),
            ],
        )
    )
    assert (answer.succeeded, answer.revision, [entry.value for entry in answer.entries]) == (True, answer.header.revision, [b"1"])
    refused = await muster.state.Txn(
        pb.TxnRequest(
            compares=[pb.StateCompare(key="a", target=pb.STATE_COMPARE_TARGET_EXISTS)],
            then_ops=[pb.TxnOp(delete=pb.DeleteRequest(key="a"))],
            else_ops=[pb.TxnOp(get=pb.GetRequest(keys=["a"]))],
        )
    )
    assert (refused.succeeded, refused.revision, [entry.value for entry in refused.entries]) == (False, 0, [b"2"])


async def test_an_update_answers_the_new_value(muster):
    answer = await muster.state.Update(pb.UpdateRequest(key="n", add="0.5"))
    assert (answer.entry.key, answer.entry.value, answer.entry.version) == ("n", b"0.5", 1)
    why = await refusal(muster.state.Update(pb.UpdateRequest(key="n", add="one")))
    assert why.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(why.fields) == ["add"]
    await muster.state.Put(put("text", b"no JSON"))
    why = await refusal(muster.state.Update(pb.UpdateRequest(key="text", add="1")))
    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PATCH_FAILED")
    await muster.state.Put(put("json", b'{"a": {"b": 1}}'))
    patch = b'[{"op": "add", "path": "/a/c", "value": 2}, {"op": "remove", "path": "/a/none"}]'
    why = await refusal(muster.state.Update(pb.UpdateRequest(key="json", json_patch=patch)))
    assert (why.reason, why.metadata["index"], why.metadata["path"]) == ("PATCH_FAILED", "1", "/a/none")
    got = await muster.state.Get(pb.GetRequest(keys=["json"]))
    assert got.entries[0].version == 1


async def test_leases(muster):
    lease_id = (await muster.state.GrantLease(pb.GrantLeaseRequest(ttl=Duration(seconds=60)))).lease_id
    await muster.state.Put(put("a", lease_id=lease_id))
    await muster.state.Put(put("b", lease_id=lease_id))
    await muster.state.KeepLease(pb.KeepLeaseRequest(lease_id=lease_id))
    await muster.state.RevokeLease(pb.RevokeLeaseRequest(lease_id=lease_id))
    assert not (await muster.state.Get(pb.GetRequest(keys=["a", "b"]))).entries
    for call in (
        muster.state.KeepLease(pb.KeepLeaseRequest(lease_id=lease_id)),
        muster.state.RevokeLease(pb.RevokeLeaseRequest(lease_id=77)),
        muster.state.Put(put("a", lease_id=lease_id)),
    ):
        why = await refusal(call)
        assert (why.code, why.reason) == (grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND")


async def test_what_has_a_time_to_live_expires_for_all_to_see(muster, watching):
    await watching.begin(pb.CreateWatch(watch_id=1, key="k", previous=True))
    await muster.state.Put(put("k", ttl=Duration(nanos=20_000_000)))
    written, expired = await watching.events_of(1, 2)
    assert (written.kind, expired.kind) == (pb.STATE_EVENT_KIND_PUT, pb.STATE_EVENT_KIND_EXPIRED)
    assert (expired.previous, expired.revision > written.revision) == (written.entry, True)
    assert not (await muster.state.Get(pb.GetRequest(keys=["k"]))).entries


async def test_locks_pass_from_one_to_the_next(muster):
    author = pb.StateAuthor(agent_name="first")
    ask = {"name": "l", "ttl": Duration(seconds=60), "wait": Duration(seconds=60)}
    first = await muster.state.Lock(pb.LockRequest(waiter_id="one", author=author, **ask))
    assert (await muster.state.Lock(pb.LockRequest(waiter_id="one", **ask))).token == first.token
    assert (await muster.state.Lock(pb.LockRequest(name="l", waiter_id="x", ttl=SECOND))).token == 0
    waiting = muster.state.Lock(pb.LockRequest(waiter_id="two", **ask))

    async def locks():
        return (await muster.state.ListLocks(pb.ListLocksRequest())).locks

    async def waits():
        [lock] = await locks()
        return [waiter.waiter_id for waiter in lock.waiters] == ["two"] and lock.waiter_count == 1

    await eventually(waits, message="the second in line")
    [lock] = await locks()
    assert (lock.name, lock.holder.token, lock.holder.author, lock.holder.waiter_id) == ("l", first.token, author, "one")
    guarded = pb.WriteOptions(required_locks=[pb.RequiredLock(name="l", token=first.token)])
    await muster.state.Put(put("k", options=guarded))
    await muster.state.KeepLock(pb.KeepLockRequest(name="l", token=first.token))
    await muster.state.Unlock(pb.UnlockRequest(name="l", token=first.token))
    second = await waiting
    assert second.token > first.token
    for call in (
        muster.state.Put(put("k", b"late", options=guarded)),
        muster.state.KeepLock(pb.KeepLockRequest(name="l", token=first.token)),
        muster.state.Unlock(pb.UnlockRequest(name="l", token=first.token)),
        muster.state.Update(pb.UpdateRequest(key="n", add="1", options=guarded)),
        muster.state.Delete(pb.DeleteRequest(key="k", options=guarded)),
        muster.state.Txn(pb.TxnRequest(then_ops=[pb.TxnOp(put=put("k"))], options=guarded)),
    ):
        why = await refusal(call)
        assert (why.code, why.reason) == (grpc.StatusCode.ABORTED, "LOCK_LOST")
        assert (why.metadata["holder_token"], why.metadata["holder_waiter_id"]) == (str(second.token), "two")
    await muster.state.Unlock(pb.UnlockRequest(name="l", token=second.token))
    why = await refusal(muster.state.Put(put("k", options=guarded)))
    assert (why.reason, "holder" in why.metadata) == ("LOCK_LOST", False)
    assert (await muster.state.Get(pb.GetRequest(keys=["k"]))).entries[0].version == 1
    assert (await refusal(muster.state.Unlock(pb.UnlockRequest(name="l", waiter_id="x")))).reason == "NOT_WAITING"


async def test_history_is_forgotten_on_request(muster, watching):
    revisions = [(await muster.state.Put(put("k", str(number).encode()))).revision for number in range(4)]
    await muster.state.Compact(pb.CompactRequest(revision=revisions[2]))
    history = await muster.state.History(pb.HistoryRequest(key="k"))
    assert [event.revision for event in history.events] == revisions[2:]
    assert (await muster.state.GetStateStats(pb.GetStateStatsRequest())).compact_revision == revisions[2]
    why = await refusal(muster.state.Compact(pb.CompactRequest(revision=revisions[3] + 100)))
    assert (why.code, why.reason) == (grpc.StatusCode.OUT_OF_RANGE, "FUTURE_REVISION")
    assert_invalid(await refusal(muster.state.Compact(pb.CompactRequest())), "revision")
    await watching.begin(pb.CreateWatch(watch_id=1, key="k", start_revision=revisions[0]))
    await eventually(lambda: watching.news(1)[-1].HasField("refusal"), message="the refusal")
    news = watching.news(1)[-1]
    assert (news.refusal.code, news.refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE.value[0], "COMPACTED")
    assert news.refusal.metadata["compact_revision"] == str(revisions[2])
    await watching.begin(pb.CreateWatch(watch_id=2, key="k", start_revision=revisions[2]))
    assert [event.revision for event in await watching.events_of(2, 2)] == revisions[2:]


async def test_a_history_goes_in_pages(muster):
    for number in range(5):
        await muster.state.Put(put("k", str(number).encode()))
        await muster.state.Put(put("other"))
    token, values = "", []
    while True:
        page = await muster.state.History(pb.HistoryRequest(key="k", page_size=2, page_token=token))
        assert len(page.events) <= 2
        values += [event.entry.value for event in page.events]
        token = page.next_page_token
        if not token:
            break
    assert values == [b"0", b"1", b"2", b"3", b"4"]
    first = await muster.state.History(pb.HistoryRequest(key="k", page_size=2))
    why = await refusal(muster.state.History(pb.HistoryRequest(key="other", page_token=first.next_page_token)))
    assert_invalid(why, "page_token", "INVALID_PAGE_TOKEN")


async def test_bad_calls_are_refused_field_by_field(muster):
    state = muster.state
    for call, field, reason in (
        (state.Put(put("")), "key", "KEY_EMPTY"),
        (state.Put(put("k" * 1025)), "key", "KEY_TOO_LONG"),
        (state.Put(put("a\0b")), "key", "KEY_HAS_CONTROL_CHARACTERS"),
        (state.Put(put("k", bytes(MIB + 1))), "value", "VALUE_TOO_LARGE"),
        (state.Put(put("k", ttl=Duration(seconds=-1))), "ttl", "INVALID_FIELD"),
        (state.Put(put("k", ttl=SECOND, lease_id=1)), "ttl", "INVALID_FIELD"),
        (state.Put(put("k", options=pb.WriteOptions(task_id="t"))), "options.fence", "INVALID_FIELD"),
        (state.Get(pb.GetRequest(keys=["k"] * 257)), "keys", "INVALID_FIELD"),
        (state.List(pb.ListRequest(prefix="\0")), "prefix", "KEY_HAS_CONTROL_CHARACTERS"),
        (state.History(pb.HistoryRequest()), "key", "KEY_EMPTY"),
        (state.ListLocks(pb.ListLocksRequest(prefix="p" * 1025)), "prefix", "KEY_TOO_LONG"),
        (state.ListLocks(pb.ListLocksRequest(page_token="?")), "page_token", "INVALID_PAGE_TOKEN"),
        (state.Txn(pb.TxnRequest(then_ops=[pb.TxnOp(put=put("k"))] * 2)), "then_ops[1]", "KEY_WRITTEN_TWICE"),
        (state.Update(pb.UpdateRequest(key="k")), "change", "INVALID_FIELD"),
        (state.GrantLease(pb.GrantLeaseRequest()), "ttl", "INVALID_FIELD"),
        (state.KeepLease(pb.KeepLeaseRequest(lease_id=NEGATIVE)), "lease_id", "INVALID_FIELD"),
        (state.Lock(pb.LockRequest(name="l", ttl=SECOND)), "waiter_id", "INVALID_FIELD"),
        (state.KeepLock(pb.KeepLockRequest(name="l")), "token", "INVALID_FIELD"),
        (state.Unlock(pb.UnlockRequest(name="l")), "token", "INVALID_FIELD"),
    ):
        assert_invalid(await refusal(call), field, reason)
    stats = await state.GetStateStats(pb.GetStateStatsRequest())
    assert (stats.keys, stats.header.revision) == (0, 0)


async def test_a_key_that_is_no_utf8_is_no_message(muster):
    call = muster.channel.unary_unary("/muster.v1.StateService/Put")(b"\x0a\x02\xff\xfe")
    why = await refusal(call)
    assert (why.code, why.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_limits_say_which_and_how_full():
    limits = Limits(max_keys=2, max_bytes=1000, max_prefix_deletes=1, max_leases=1)
    async with hosted(limits=limits) as muster:
        await muster.state.Put(put("a"))
        why = await refusal(muster.state.Put(put("b", bytes(1000))))
        assert (why.code, why.limits, why.metadata["allowed"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, ["state_bytes"], "1000")
        await muster.state.Put(put("b"))
        why = await refusal(muster.state.Put(put("c")))
        assert (why.limits, why.metadata) == (["state_keys"], {"limit": "state_keys", "used": "2", "allowed": "2"})
        await muster.state.GrantLease(pb.GrantLeaseRequest(ttl=SECOND))
        assert (await refusal(muster.state.GrantLease(pb.GrantLeaseRequest(ttl=SECOND)))).limits == ["state_leases"]
        await muster.state.Put(put("a", b"w"))  # what makes nothing larger goes on


async def test_a_namespace_that_is_not_there(muster):
    elsewhere = (("muster-namespace", "nowhere"),)
    why = await refusal(muster.state.Put(put("k"), metadata=elsewhere))
    assert why.reason == "NAMESPACE_NOT_FOUND"
    why = await refusal(muster.state.Watch(metadata=elsewhere))
    assert why.reason == "NAMESPACE_NOT_FOUND"


async def test_namespaces_have_states_of_their_own(muster):
    await muster.admin.CreateNamespace(admin_pb2.CreateNamespaceRequest(name="other"))
    other = {"metadata": (("muster-namespace", "other"),)}
    await muster.state.Put(put("k"), **other)
    assert not (await muster.state.Get(pb.GetRequest(keys=["k"]))).entries
    session, watching = SessionPeer(muster.state.StateSession(**other)), WatchPeer(muster.state.Watch(**other))
    await session.ask(session.op(get=pb.GetRequest(keys=["k"])))
    await watching.begin(pb.CreateWatch(watch_id=1, key="k"))
    await muster.admin.DeleteNamespace(admin_pb2.DeleteNamespaceRequest(name="other"))
    for stream in (session, watching):
        assert (await stream.end()).reason == "NAMESPACE_NOT_FOUND"
    assert (await refusal(muster.state.Get(pb.GetRequest(keys=["k"]), **other))).reason == "NAMESPACE_NOT_FOUND"
