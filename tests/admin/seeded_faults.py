"""What can be wrong with a store: each of these seeds one fault, and says of which kinds what a check finds then may be."""

import struct

from muster.v1 import event_pb2

from coordinator.journal.layout import JOURNAL_FIELD

FAULTS = {}


def fault(*kinds):
    """Registers what breaks something, and of which kinds what is found then may be."""

    def register(function):
        FAULTS[function.__name__] = (function, set(kinds))
        return function

    return register


class Broken:
    """What a fault works with: a client of the server, and the names of the shard's keys."""

    def __init__(self, store):
        self.client = store.server.client()
        self.keys = store.keys

    @property
    def index(self):
        return self.keys.ended("default")

    @property
    def counters(self):
        return self.keys.counters("default")

    def record(self, task_id):
        return self.keys.tasks("default") + task_id

    def state(self, part):
        return self.keys.state("default") + part

    async def entry(self, key=b"plain"):
        return await self.client.hget(self.state("entries"), key)

    async def rewrite(self, sequence, change):
        """Changes a journal entry where it is: all behind it is taken off and put back."""
        entries = await self.client.xrange(self.keys.journal, f"{sequence}-0")
        await self.client.xdel(self.keys.journal, *(entry_id for entry_id, _ in entries))
        commit = event_pb2.Commit.FromString(entries[0][1][JOURNAL_FIELD])
        change(commit)
        whole = await self.client.xrange(self.keys.journal)
        await self.client.delete(self.keys.journal)
        for entry_id, fields in [*whole, (entries[0][0], {JOURNAL_FIELD: commit.SerializeToString()}), *entries[1:]]:
            await self.client.xadd(self.keys.journal, fields, id=entry_id)

    async def entry_with(self, field):
        """The sequence of the first entry that holds an event."""
        for entry_id, fields in await self.client.xrange(self.keys.journal):
            commit = event_pb2.Commit.FromString(fields[JOURNAL_FIELD])
            if any(record.WhichOneof("event") == field for record in commit.records):
                return int(entry_id.partition(b"-")[0])
        raise AssertionError(field)


# --- the journal ----------------------------------------------------------------------------------------------------------------


@fault("journal")
async def an_entry_of_the_journal_is_gone(broken):
    await broken.client.xdel(broken.keys.journal, "3-0")


@fault("journal")
async def the_journals_first_entry_is_gone(broken):
    await broken.client.xdel(broken.keys.journal, "1-0")


@fault("journal", "head")
async def the_journals_last_entry_is_gone(broken):
    ((last, _),) = await broken.client.xrevrange(broken.keys.journal, count=1)
    await broken.client.xdel(broken.keys.journal, last)


@fault("head", "index", "record", "journal", "counters")
async def the_head_is_behind(broken):
    await broken.client.hincrby(broken.keys.head, "sequence", -1)


@fault("head", "journal")
async def the_head_is_ahead(broken):
    await broken.client.hincrby(broken.keys.head, "sequence", 1)


@fault("journal", "index", "record")
async def an_entry_holds_another_commit(broken):
    await broken.rewrite(3, lambda commit: setattr(commit, "sequence", 4))


@fault("epoch", "record")  # the record, where a task of that entry has a fence of its epoch
async def an_epoch_goes_back(broken):
    await broken.rewrite(3, lambda commit: setattr(commit, "epoch", commit.epoch + 1))


@fault("date", "record")
async def a_date_goes_back(broken):
    await broken.rewrite(3, lambda commit: setattr(commit, "date_ms", commit.date_ms + 10**9))


@fault("journal")
async def an_event_is_told_twice(broken):
    sequence = await broken.entry_with("tasks_completed")
    await broken.rewrite(sequence, lambda commit: commit.records.append(commit.records[-1]))


@fault("journal", "index", "record", "invariant")
async def an_end_is_not_told(broken):
    sequence = await broken.entry_with("tasks_completed")

    def forget(commit):
        kept = [record for record in commit.records if record.WhichOneof("event") != "tasks_completed"]
        del commit.records[:]
        commit.records.extend(kept)

    await broken.rewrite(sequence, forget)


# --- ended tasks ----------------------------------------------------------------------------------------------------------------


@fault("counters", "record")
async def a_record_is_gone(broken):
    await broken.client.delete(broken.record("done-0"))


@fault("record", "counters")
async def a_record_is_of_another_size(broken):
    await broken.client.append(broken.record("done-0"), b"x")


@fault("record")
async def a_record_cant_be_read(broken):
    value = await broken.client.get(broken.record("done-0"))
    await broken.client.set(broken.record("done-0"), value[:8] + b"\xff" * (len(value) - 8))


@fault("record", "terms")
async def a_record_is_another_tasks(broken):
    values = [await broken.client.get(broken.record(task_id)) for task_id in ("done-0", "done-1")]
    await broken.client.set(broken.record("done-0"), values[0][:8] + values[1][8:])


@fault("record")
async def a_record_tells_another_end(broken):
    value = await broken.client.get(broken.record("done-0"))
    record = event_pb2.TaskRecord.FromString(value[8:])
    record.fence += 1
    await broken.client.set(broken.record("done-0"), value[:8] + record.SerializeToString())


@fault("record", "counters", "stray key")
async def a_record_has_another_marker(broken):
    await broken.client.setrange(broken.record("done-0"), 0, b"\0" * 8)


@fault("record", "stray key")
async def a_redriven_tasks_record_is_there(broken):
    await broken.client.copy(broken.record("done-0"), broken.record("waits-3"))


@fault("index", "counters", "terms", "stray key")
async def an_index_line_is_gone(broken):
    line = await broken.client.lindex(broken.index, 2)
    await broken.client.lrem(broken.index, 1, line)


@fault("index", "counters", "terms", "stray key")
async def the_whole_index_is_gone(broken):
    await broken.client.delete(broken.index)


@fault("index", "terms")
async def index_lines_are_out_of_order(broken):
    lines = [await broken.client.lindex(broken.index, place) for place in (0, 1)]
    await broken.client.lset(broken.index, 0, lines[1])
    await broken.client.lset(broken.index, 1, lines[0])


@fault("index", "counters", "record")
async def an_index_line_is_made_up(broken):
    line = await broken.client.lindex(broken.index, -1)
    await broken.client.rpush(broken.index, (int.from_bytes(line[:8]) + 1).to_bytes(8) + line[8:])


@fault("index", "counters")
async def an_index_line_cant_be_read(broken):
    await broken.client.lset(broken.index, 0, b"x")


@fault("record")
async def an_index_line_has_another_date(broken):
    line = await broken.client.lindex(broken.index, 0)
    await broken.client.lset(broken.index, 0, line[:8] + struct.pack(">Q", 5) + line[16:])


@fault("counters")
async def the_bytes_are_counted_wrongly(broken):
    await broken.client.hincrby(broken.counters, "bytes", 1)


@fault("counters")
async def the_superseded_are_counted_wrongly(broken):
    await broken.client.hincrby(broken.counters, "superseded", 1)


@fault("counters")
async def more_was_dropped_than_there_is(broken):
    await broken.client.hset(broken.counters, "slimmed", 10**6)


@fault("terms", "counters")
async def positions_have_moved(broken):
    await broken.client.hset(broken.counters, "base", 5)


@fault("terms")
async def a_list_of_a_term_is_gone(broken):
    await broken.client.delete(broken.keys.term("default", "label:team=red"))


@fault("terms")
async def an_entry_of_a_term_is_gone(broken):
    await broken.client.rpop(broken.keys.term("default", "type:answers"))


@fault("terms")
async def an_entry_of_a_term_cant_be_read(broken):
    await broken.client.lset(broken.keys.term("default", "type:answers"), 0, b"x")


@fault("terms")
async def a_term_is_not_among_the_lists(broken):
    await broken.client.zrem(broken.keys.terms("default"), "type:answers")


@fault("terms")
async def a_term_is_filed_wrongly(broken):
    await broken.client.zadd(broken.keys.terms("default"), {"type:answers": 10**6})


# --- shared state ---------------------------------------------------------------------------------------------------------------


@fault("revision", "events")
async def the_revision_is_lower(broken):
    await broken.client.hincrby(broken.state("meta"), "revision", -3)


@fault("state counters")
async def the_bytes_of_state_are_counted_wrongly(broken):
    await broken.client.hincrby(broken.state("meta"), "bytes", 1)


@fault("events", "keys", "state counters")
async def a_key_is_gone(broken):
    await broken.client.hdel(broken.state("entries"), "plain")


@fault("keys")
async def a_key_is_not_in_the_index(broken):
    await broken.client.zrem(broken.state("index"), "plain")


@fault("keys")
async def the_index_has_another_key(broken):
    await broken.client.zadd(broken.state("index"), {"other": 0})


@fault("values", "events")
async def a_large_value_is_gone(broken):
    await broken.client.hdel(broken.state("values"), "large")


@fault("values")
async def a_value_is_left(broken):
    await broken.client.hset(broken.state("values"), "other", "x" * 5000)


@fault("events")
async def a_value_is_another(broken):
    entry = await broken.entry()
    await broken.client.hset(broken.state("entries"), "plain", entry[:-1] + b"X")


@fault("events")
async def a_key_is_as_it_was_before(broken):
    entry = await broken.entry()
    await broken.client.hset(broken.state("entries"), "plain", (int.from_bytes(entry[:8]) - 1).to_bytes(8) + entry[8:])


@fault("state", "state counters")
async def an_entry_cant_be_read(broken):
    await broken.client.hset(broken.state("entries"), "plain", b"x")


@fault("events", "history")
async def an_event_is_gone(broken):
    for event_id, fields in await broken.client.xrange(broken.state("events")):
        if b"another value" in fields[b"e"]:
            await broken.client.xdel(broken.state("events"), event_id)


@fault("history")
async def an_event_is_not_in_the_history(broken):
    ((member, _),) = await broken.client.zrange(broken.state("history"), -1, -1, withscores=True)
    await broken.client.zrem(broken.state("history"), member)


@fault("deadlines")
async def a_deadline_is_gone(broken):
    await broken.client.zrem(broken.state("deadlines"), b"kends")


@fault("deadlines")
async def a_deadline_is_left(broken):
    await broken.client.zadd(broken.state("deadlines"), {b"kother": 1})


@fault("leases", "deadlines")
async def a_lease_is_gone(broken):
    (lease, *_) = await broken.client.hkeys(broken.state("leases"))
    await broken.client.hdel(broken.state("leases"), lease)


@fault("leases")
async def a_leases_key_is_not_in_the_index(broken):
    (member, *_) = await broken.client.zrange(broken.state("lease_keys"), 0, 0)
    await broken.client.zrem(broken.state("lease_keys"), member)


@fault("locks", "deadlines")
async def a_lock_is_gone(broken):
    await broken.client.hdel(broken.state("locks"), "held")


@fault("locks")
async def a_lock_is_not_in_the_index(broken):
    await broken.client.zrem(broken.state("lock_index"), "held")


@fault("revision")
async def a_locks_token_has_not_been_given_out(broken):
    lock = await broken.client.hget(broken.state("locks"), "held")
    await broken.client.hset(broken.state("locks"), "held", (10**9).to_bytes(8) + lock[8:])


@fault("state")
async def shared_state_is_of_a_newer_release(broken):
    await broken.client.hset(broken.state("meta"), "version", 99)


# --- keys -----------------------------------------------------------------------------------------------------------------------


@fault("stray key")
async def a_record_belongs_to_nobody(broken):
    await broken.client.copy(broken.record("done-0"), broken.record("nobodys"))


@fault("stray key")
async def a_namespace_is_nobodys(broken):
    await broken.client.set(broken.keys.tasks("nobody") + "x", b"x" * 20)


@fault("stray key")
async def a_key_is_of_nothing_known(broken):
    await broken.client.set(broken.keys.head.removesuffix("head") + "other", b"x")


@fault("stray key")
async def a_part_of_state_is_of_nothing_known(broken):
    await broken.client.set(broken.state("other"), b"x")
