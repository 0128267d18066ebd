"""StateSession and Watch over real gRPC: order, repetition, backpressure, watches, attempts and agents' presence."""

import asyncio

import grpc
from google.protobuf.duration_pb2 import Duration
from muster.v1 import agent_pb2, common_pb2
from muster.v1 import state_pb2 as pb

from tests.support.eventually import eventually
from tests.support.hosted import PATIENT_S, spec_of, success
from tests.support.refusals import assert_invalid, refusal
from tests.support.state_peers import SessionPeer, WatchPeer, put

NEGATIVE = 2**64 - 5
MIB = 1024 * 1024
SECOND = Duration(seconds=1)


# --- sessions -----------------------------------------------------------------------------------------------------------------------------


async def test_a_session_answers_each_operation(session):
    op = session.op
    done = await session.ask(
        op(put=put("a")),
        op(get=pb.GetRequest(keys=["a"])),
        op(update=pb.UpdateRequest(key="n", add="2")),
        op(txn=pb.TxnRequest(then_ops=[pb.TxnOp(get=pb.GetRequest(keys=["n"]))])),
        op(delete=pb.DeleteRequest(key="a")),
        op(get=pb.GetRequest(keys=["a", "n"])),
        op(list=pb.ListRequest()),
        op(history=pb.HistoryRequest(key="a")),
        op(compact=pb.CompactRequest(revision=1)),
        op(grant_lease=pb.GrantLeaseRequest(ttl=SECOND)),
        op(keep_lease=pb.KeepLeaseRequest(lease_id=1)),
        op(revoke_lease=pb.RevokeLeaseRequest(lease_id=1)),
        op(lock=pb.LockRequest(name="l", waiter_id="w", ttl=SECOND)),
        op(keep_lock=pb.KeepLockRequest(name="l", token=1)),
        op(unlock=pb.UnlockRequest(name="l", waiter_id="w")),
        op(list_locks=pb.ListLocksRequest()),
        op(stats=pb.GetStateStatsRequest()),
        op(),
        op(put=put("")),
    )
    kinds = [answer.WhichOneof("answer") for answer in done]
    assert kinds[:10] == ["put", "get", "update", "txn", "delete", "get", "list", "history", "compact", "grant_lease"]
    assert kinds[10:] == ["refusal", "refusal", "lock", "refusal", "unlock", "list_locks", "stats", "refusal", "refusal"]
    assert [entry.value for entry in done[1].get.entries] == [b"v"]
    assert [entry.value for entry in done[3].txn.entries] == [b"2"]
    assert [entry.key for entry in done[5].get.entries] == ["n"]
    assert (done[17].refusal.field, done[18].refusal.reason) == ("op", "KEY_EMPTY")


async def test_operations_take_effect_in_their_order(session):
    writes = [session.op(update=pb.UpdateRequest(key="l", append=pb.JsonItems(items=[b"%d" % number]))) for number in range(200)]
    answers = await session.ask(*writes, session.op(get=pb.GetRequest(keys=["l"])))
    assert answers[-1].get.entries[0].version == 200
    assert [len(answer.update.entry.value.split(b",")) for answer in answers[:-1]] == list(range(1, 201))


async def test_a_condition_that_fails_in_a_session_says_what_is_there(session):
    made, conflict, missing = await session.ask(
        session.op(put=put("k", b"1")),
        session.op(put=put("k", b"2", if_revision=0)),
        session.op(delete=pb.DeleteRequest(key="none", if_revision=7)),
    )
    assert (conflict.put.conflict.value, conflict.put.revision) == (b"1", 0)
    assert conflict.put.conflict.mod_revision == made.put.revision
    assert missing.delete.HasField("conflict")
    assert not missing.delete.conflict.key


async def test_a_write_that_is_repeated_counts_once(muster, session):
    options = pb.WriteOptions(sequence=1)
    add = pb.UpdateRequest(key="n", add="5", options=options)
    [first] = await session.ask(session.op(update=add), client_id="client")
    other = SessionPeer(muster.state.StateSession())
    [again] = await other.ask(other.op(update=add), client_id="client")
    assert (again.update.entry.value, again.update.entry.mod_revision) == (b"5", first.update.entry.mod_revision)
    [told] = await other.ask(other.op(update=pb.UpdateRequest(key="n", add="5", options=pb.WriteOptions(sequence=1, client_id="another"))))
    assert told.update.entry.value == b"10"
    unary = pb.UpdateRequest(key="n", add="5", options=pb.WriteOptions(sequence=1, client_id="client"))
    await muster.state.Update(unary)
    assert (await muster.state.Get(pb.GetRequest(keys=["n"]))).entries[0].value == b"10"
    await other.leave()


async def test_what_breaks_the_protocol_ends_the_session(muster):
    too_many = SessionPeer(muster.state.StateSession())
    await too_many.send(pb.StateSessionRequest(ops=[pb.StateOp(op_id=1)] * 257))
    assert_invalid(await too_many.end(), "ops")
    renamed = SessionPeer(muster.state.StateSession())
    await renamed.send(pb.StateSessionRequest(client_id="a"))
    await renamed.send(pb.StateSessionRequest(client_id="b"))
    assert_invalid(await renamed.end(), "client_id")
    nameless = SessionPeer(muster.state.StateSession())
    await nameless.send(pb.StateSessionRequest(client_id="x" * 129))
    assert_invalid(await nameless.end(), "client_id")


async def test_whoever_has_said_all_still_gets_the_answers(session):
    ops = [session.op(put=put(f"k{number}")) for number in range(100)]
    await session.send(pb.StateSessionRequest(ops=ops))
    await session.finish()
    assert session.ended.code is grpc.StatusCode.OK
    assert len([await session.answer(op.op_id) for op in ops]) == 100


async def test_who_does_not_read_is_not_read_from(muster):
    """A client that sends and sends without reading its answers holds a bounded part of this process."""
    call = muster.state.StateSession()
    big = bytes(MIB)
    await call.write(pb.StateSessionRequest(ops=[pb.StateOp(op_id=1, put=put("big", big))]))

    async def flood():
        for number in range(2, 10_000):
            await call.write(pb.StateSessionRequest(ops=[pb.StateOp(op_id=number, get=pb.GetRequest(keys=["big"]))]))

    flooding = asyncio.ensure_future(flood())
    [session] = await eventually(lambda: list(muster.shard.client_streams), message="the session")
    await eventually(session.is_full, within_s=PATIENT_S, message="the session to stop reading")
    answered = 0
    async for message in call:
        answered += len(message.answers)
        if answered >= 300:
            break
    assert session.held_bytes < 150 * MIB
    assert session.unanswered < 300
    flooding.cancel()
    call.cancel()


async def test_only_so_much_of_a_session_is_begun_at_once(muster, session):
    """What a message asks for beyond that waits for answers: 128 reads may be answered by 128 MiB."""
    ops = [pb.StateOp(op_id=number, get=pb.GetRequest(keys=["k"])) for number in range(1, 201)]
    muster.faults.reading.clear()
    await session.send(pb.StateSessionRequest(ops=ops))
    [served] = await eventually(lambda: list(muster.shard.client_streams), message="the session")
    await eventually(lambda: served.unanswered >= 128, within_s=PATIENT_S, message="the reads to be begun")
    assert served.unanswered == 128
    muster.faults.reading.set()
    assert len([await session.answer(op.op_id) for op in ops]) == 200


async def test_a_wait_for_a_lock_holds_up_nothing(session):
    take = {"name": "l", "ttl": Duration(seconds=60), "wait": Duration(seconds=60)}
    [first] = await session.ask(session.op(lock=pb.LockRequest(waiter_id="a", **take)))
    waits = [session.op(lock=pb.LockRequest(waiter_id=f"w{number}", **take)) for number in range(1100)]
    for start in range(0, len(waits), 200):
        await session.send(pb.StateSessionRequest(ops=waits[start : start + 200]))
    [unlocked] = await session.ask(session.op(unlock=pb.UnlockRequest(name="l", token=first.lock.token)))
    assert unlocked.HasField("unlock")
    granted = await session.answer(waits[0].op_id)
    assert granted.lock.token > first.lock.token
    await session.send(pb.StateSessionRequest(ops=[session.op(unlock=pb.UnlockRequest(name="l", token=granted.lock.token))]))
    assert (await session.answer(waits[1].op_id)).lock.token > granted.lock.token


# --- watches ------------------------------------------------------------------------------------------------------------------------------


async def test_many_watches_share_a_stream(muster, watching):
    await watching.begin(
        pb.CreateWatch(watch_id=1, key="a"),
        pb.CreateWatch(watch_id=2, key="a", prefix=True, previous=True),
        pb.CreateWatch(watch_id=3, prefix=True),
        pb.CreateWatch(watch_id=4, key="nothing"),
    )
    await muster.state.Txn(pb.TxnRequest(then_ops=[pb.TxnOp(put=put("a")), pb.TxnOp(put=put("ab")), pb.TxnOp(put=put("c"))]))
    await muster.state.Delete(pb.DeleteRequest(key="ab"))
    assert [event.key for event in await watching.events_of(1, 1)] == ["a"]
    assert [event.key for event in await watching.events_of(2, 3)] == ["a", "ab", "ab"]
    assert [event.key for event in await watching.events_of(3, 4)] == ["a", "ab", "c", "ab"]
    assert watching.events(2)[2].previous.value == b"v"
    assert not watching.events(4)
    through = {watch_id: max(one.through_revision for one in watching.news(watch_id)) for watch_id in (1, 2, 3)}
    assert through[3] == through[2] == 2
    await watching.send(pb.WatchRequest(cancel=[3, 77]))
    await watching.begin(pb.CreateWatch(watch_id=5, key="z"))
    await muster.state.Put(put("z"))
    await watching.events_of(5, 1)
    assert len(watching.events(3)) == 4


async def test_a_bad_watch_is_refused_alone(muster, watching):
    await watching.begin(
        pb.CreateWatch(watch_id=1, key="a"),
        pb.CreateWatch(watch_id=2),
        pb.CreateWatch(watch_id=3, key="a", start_revision=NEGATIVE),
        pb.CreateWatch(watch_id=4, key="a", kinds=[pb.STATE_EVENT_KIND_PUT, pb.STATE_EVENT_KIND_UNSPECIFIED]),
    )
    fields = [watching.news(watch_id)[0].refusal.field for watch_id in (2, 3, 4)]
    assert fields == ["create[1].key", "create[2].start_revision", "create[3].kinds[1]"]
    await muster.state.Put(put("a"))
    await watching.events_of(1, 1)
    await watching.send(pb.WatchRequest(create=[pb.CreateWatch(watch_id=1, key="b")]))
    await eventually(lambda: [one for one in watching.news(1) if one.HasField("refusal")], message="the number to be refused")


async def test_whoever_begins_no_more_watches_still_sees(muster, watching):
    await watching.begin(pb.CreateWatch(watch_id=1, key="a"))
    await watching.call.done_writing()
    await muster.state.Put(put("a"))
    await watching.events_of(1, 1)
    none = WatchPeer(muster.state.Watch())
    await none.finish()
    assert none.ended.code is grpc.StatusCode.OK


# --- attempts and agents ------------------------------------------------------------------------------------------------------------------


async def test_a_write_tied_to_an_attempt_needs_it_to_be_current(muster, session):
    agent = await muster.agent(ready=1)
    await muster.submit("task")
    (assignment,) = await agent.assigned()
    tied = pb.WriteOptions(task_id="task", fence=assignment.fence)
    await muster.state.Put(put("k", options=tied))
    [done] = await session.ask(session.op(put=put("k", options=tied)))
    assert done.put.version == 2
    for wrong in (pb.WriteOptions(task_id="task", fence=assignment.fence + 1), pb.WriteOptions(task_id="other", fence=assignment.fence)):
        why = await refusal(muster.state.Put(put("k", options=wrong)))
        assert (why.code, why.reason) == (grpc.StatusCode.ABORTED, "STALE_ATTEMPT")
    await agent.succeed(assignment)
    why = await refusal(muster.state.Update(pb.UpdateRequest(key="n", add="1", options=tied)))
    assert why.reason == "STALE_ATTEMPT"
    for request in (
        {"put": put("k", options=tied)},
        {"delete": pb.DeleteRequest(key="k", options=tied)},
        {"txn": pb.TxnRequest(then_ops=[pb.TxnOp(put=put("k"))], options=tied)},
        {"update": pb.UpdateRequest(key="n", add="1", options=tied)},
        {"grant_lease": pb.GrantLeaseRequest(ttl=SECOND, options=tied)},
        {"revoke_lease": pb.RevokeLeaseRequest(lease_id=1, options=tied)},
    ):
        [answer] = await session.ask(session.op(**request))
        assert answer.refusal.reason == "STALE_ATTEMPT", request
    got = await muster.state.Get(pb.GetRequest(keys=["k", "n"]))
    assert [(entry.key, entry.version) for entry in got.entries] == [("k", 2)]


async def test_whoever_reads_later_comes_behind_a_write_tied_to_an_attempt(muster, session):
    """Whoever runs the next attempt must not read what was there before the last one's write, and then find that write in its way."""
    agent = await muster.agent(ready=1)
    await muster.submit("task")
    (assignment,) = await agent.assigned()

    async def present():
        return (await muster.state.List(pb.ListRequest(prefix="agents/"))).entries

    await eventually(present, message="the agent's presence to be written")
    muster.faults.writing.clear()
    writing = muster.state.Put(put("k", options=pb.WriteOptions(task_id="task", fence=assignment.fence)))
    await eventually(lambda: muster.faults.held_writes, message="the write to be on its way")
    ops = [
        session.op(get=pb.GetRequest(keys=["k"])),
        session.op(list=pb.ListRequest(prefix="k")),
        session.op(history=pb.HistoryRequest(key="k")),
    ]
    await session.send(pb.StateSessionRequest(ops=ops))
    asked = muster.state.Get(pb.GetRequest(keys=["k"]))
    await muster.in_state("task", common_pb2.TASK_STATE_RUNNING)  # what was asked has arrived
    muster.faults.writing.set()
    assert [entry.key for entry in (await asked).entries] == ["k"]
    got, listed, history = [await session.answer(op.op_id) for op in ops]
    assert (len(got.get.entries), len(listed.list.entries), len(history.history.events)) == (1, 1, 1)
    assert (await writing).version == 1


async def test_whether_an_attempt_is_current_is_not_said_before_it_is_durable(muster):
    agent = await muster.agent(ready=1)
    await muster.submit("task")
    (assignment,) = await agent.assigned()
    muster.faults.outage()
    await agent.send(_success(assignment))  # decided in memory, and not durable while the store is out
    await eventually(lambda: "task" not in muster.scheduler.state.tasks, message="the result to be taken")
    tied = pb.WriteOptions(task_id="task", fence=assignment.fence)
    assert (await refusal(muster.state.Put(put("k", options=tied)))).reason == "STORE_UNAVAILABLE"
    muster.faults.over()
    await eventually(lambda: muster.shard.outage_since_s is None, within_s=PATIENT_S, message="the outage to be over")
    assert (await refusal(muster.state.Put(put("k", options=tied)))).reason == "STALE_ATTEMPT"


def _success(assignment):
    result = success(assignment.task.task_id, assignment.fence, b"done")
    return agent_pb2.ConnectRequest(results=agent_pb2.ResultBatch(batch_id=1, results=[result]))


async def test_agents_come_and_go_for_all_to_see(muster, watching):
    await watching.begin(pb.CreateWatch(watch_id=1, key="agents/", prefix=True))
    first = await muster.agent("worker", ["work", "more"])
    (came,) = await watching.events_of(1, 1)
    assert came.key == "agents/worker/presence"
    assert came.entry.lease_id > 0
    assert b'"capabilities": ["more", "work"]' in came.entry.value
    assert came.author.client_name == "coordinator"
    second = await muster.agent("worker", ["work"])  # another process of that name: the first one's end is no going
    await first.end()
    await watching.events_of(1, 2)
    await muster.agent("another")
    assert [event.key for event in await watching.events_of(1, 3)] == ["agents/worker/presence"] * 2 + ["agents/another/presence"]
    await second.leave()
    gone = (await watching.events_of(1, 4))[3]
    assert (gone.key, gone.kind) == ("agents/worker/presence", pb.STATE_EVENT_KIND_DELETED)
    await muster.submit(spec_of("alive"))
