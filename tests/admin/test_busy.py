"""An export of a shard that is written to is of one moment: nothing is in it twice, nothing is missing, and nothing of later is in it."""

import asyncio
from itertools import count

import pytest

from agent_node import Client
from coordinator.admin.errors import ToolError, ToolRefused
from coordinator.admin.exporting import ShardExport
from coordinator.admin.shard_reads import ShardReads
from tests.support.admin_stores import HERE, LiveStore, fill, fleet
from tests.support.eventually import eventually


async def clean(store: LiveStore):
    findings = await store.check()
    assert not findings.violations
    assert not findings.skipped


async def submit_and_write(client, done):
    """Whatever changes an export: ends, redrives, keys that come, change and go, locks."""
    for number in count(1):
        done.append(number)
        handle = await client.submit("fails" if number % 3 == 0 else "answers", f"{number}".encode(), task_id=f"busy-{number}")
        await asyncio.gather(handle.result(), return_exceptions=True)
        if number % 3 == 0:
            await client.redrive([f"busy-{number}"], request_id=f"{number}")
        await client.state.put(f"key-{number % 7}", f"{number}")
        if number % 5 == 0:
            await client.state.delete(f"key-{number % 7}")
            async with client.state.lock(f"lock-{number % 3}", ttl_s=30.0):
                await client.state.put("in-lock", f"{number}", ttl_s=60.0)


async def test_a_busy_shard_is_exported_as_of_one_moment(store, tmp_path):
    async with store.coordinator(snapshot_after=20_000) as running, fleet(running) as client:
        await fill(client)
        done, points = [], []
        busy = asyncio.create_task(submit_and_write(client, done))
        for number in range(5):
            await eventually(lambda wanted=5 * number: len(done) > wanted, message="some more work")
            points += [await store.export(tmp_path / f"file-{number}", shards=[HERE])]
        assert not busy.done()
        busy.cancel()
        await asyncio.wait([busy])
    sequences = [facts[0].sequence for facts in points]
    assert sequences == sorted(set(sequences))
    for number in range(5):
        elsewhere = store.under(f"elsewhere-{number}")
        await elsewhere.import_from(tmp_path / f"file-{number}")
        await clean(elsewhere)  # a task is live or has its record, as the journal says, and keys are as their last events left them
    await clean(store)


class Meddled(ShardReads):
    """Reads during which something happens.

    Args:
        between: called after the first read of each kind, by the method's name.
    """

    def __init__(self, *, connection, keys, between):
        super().__init__(connection=connection, keys=keys)
        self.between = between

    async def _after(self, name, answer):
        meddle = self.between.pop(name, None)
        if meddle is not None:
            await meddle()
        return answer

    async def lines(self, namespace, **options):
        return await self._after("lines", await super().lines(namespace, **options))

    async def entries(self, namespace, **options):
        return await self._after("entries", await super().entries(namespace, **options))

    async def events(self, namespace, **options):
        return await self._after("events", await super().events(namespace, **options))

    async def piece(self, **options):
        return await self._after("piece", await super().piece(**options))

    async def point(self, namespaces, **options):
        return await self._after("moment" if namespaces and options["elements"] else "other", await super().point(namespaces, **options))


async def exported(store, path, *, between, max_elements=100_000):
    """An export during which something happens."""
    from importlib.metadata import version

    from muster.v1 import export_pb2

    from coordinator.admin.export_file import ExportWriter, Record
    from tests.support.admin_stores import SHARDS, nothing

    opened = store.opened()
    with path.open("wb") as out:
        writer = ExportWriter(out)
        header = export_pb2.ExportHeader(
            layout_version=2, state_version=1, shards=SHARDS, exported_shards=[HERE], release=version("muster-agents")
        )
        writer.add(Record(header=header))
        async with opened.connection(HERE) as connection:
            reads = Meddled(connection=connection, keys=store.keys, between=between)
            await ShardExport(reads=reads, number=HERE, writer=writer, progress=nothing, max_elements=max_elements).run()
        writer.close()
    assert not between, "that never happened"
    elsewhere = store.under(path.name)
    await elsewhere.import_from(path)
    await clean(elsewhere)
    return elsewhere


async def test_what_changes_between_two_reads(valkey, tmp_path):
    """At each place of an export: a task ends, is redriven and ends again, one is redriven and waits; keys come, change and go."""
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)
        for number, place in enumerate(("lines", "entries", "events", "moment", "other")):
            again, waits = f"again-{number}", f"waits-again-{number}"
            handle = await client.submit("fails", task_id=again)
            await asyncio.gather(handle.result(), return_exceptions=True)
            await client.submit("nobody-can", task_id=waits)
            await client.cancel([waits])

            async def meddle(again=again, waits=waits, number=number):
                await client.submit("nobody-can", task_id=f"later-{number}")
                await client.redrive([again, waits], request_id=again)

                async def ended():
                    task = await client.get(again)
                    return task.run == 2 and task.end_time.seconds

                await eventually(ended, message="it has ended again")
                await client.cancel(["waits-0"])
                await client.redrive(["waits-0"], request_id=f"{number}")
                await client.state.put("plain", f"as of {number}")
                await client.state.delete("large")
                await client.state.put("large", "y" * 9000)
                await client.state.put(f"new-{number}", "x", ttl_s=60.0)

            elsewhere = await exported(valkey, tmp_path / f"at-{place}", between={place: meddle})
            server = elsewhere.server.client()
            assert await server.exists(elsewhere.keys.tasks("default") + again)
            if place != "moment":
                assert not await server.exists(elsewhere.keys.tasks("default") + waits)


async def test_what_ends_just_before_the_moment_and_is_redriven_just_behind_it(valkey, tmp_path):
    """Its record is gone when it is read: a later moment must do."""
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)

        async def ends():
            await client.submit("nobody-can", task_id="late")
            await client.cancel(["late"])

        async def redriven():
            await client.redrive(["late"], request_id="x")

        elsewhere = await exported(valkey, tmp_path / "file", between={"events": ends, "moment": redriven})
    async with elsewhere.coordinator() as running, fleet(running) as client:
        assert (await client.get("late")).run == 2


async def test_what_ends_just_behind_the_moment(valkey, tmp_path):
    """It is read with what ended just before, and is not of that moment."""
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)
        for task_id in ("before", "behind"):
            await client.submit("nobody-can", task_id=task_id)

        async def one_ends():
            await client.cancel(["before"])

        async def another_ends():
            await client.cancel(["behind"])

        elsewhere = await exported(valkey, tmp_path / "file", between={"events": one_ends, "moment": another_ends})
    records = [elsewhere.keys.tasks("default") + task_id for task_id in ("before", "behind")]
    assert [await elsewhere.server.client().exists(record) for record in records] == [1, 0]


async def test_namespaces_that_come_and_go_meanwhile(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        names = [name for name in (f"tenant-{number}" for number in range(40)) if _here(name)][:4]
        await ended_in(running, client, names[0])

        async def come_and_go():
            await client.create_namespace(names[1])
            await ended_in(running, client, names[3])

        async def goes():
            await client.delete_namespace(names[0], force=True)  # it has been read by now
            await client.delete_namespace(names[1], force=True)
            await client.create_namespace(names[2])

        elsewhere = await exported(valkey, tmp_path / "file", between={"entries": come_and_go, "moment": goes})
    assert not await elsewhere.server.client().exists(elsewhere.keys.tasks(names[0]) + "ended", elsewhere.keys.ended(names[0]))
    assert await elsewhere.server.client().exists(elsewhere.keys.tasks(names[3]) + "ended")
    async with elsewhere.coordinator() as running, fleet(running) as client:
        found = {namespace.name for namespace in await client.namespaces()}
        assert found in ({"default", names[1], names[3]}, {"default", names[2], names[3]})


async def ended_in(running, client, namespace):
    await client.create_namespace(namespace)
    async with Client(f"127.0.0.1:{running.port}", namespace=namespace) as other:
        await other.submit("nobody-can", task_id="ended")
        await other.cancel(["ended"])
        await other.state.put("theirs", "x")


def _here(name):
    from coordinator.journal.layout import shard_of
    from tests.support.admin_stores import SHARDS

    return shard_of(name, shards=SHARDS) == HERE


async def test_history_that_is_compacted_meanwhile(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)

        async def compacted():
            await client.state.put("plain", "late")
            stats = await client.state.stats()
            await client.state.compact(stats.revision)

        elsewhere = await exported(valkey, tmp_path / "file", between={"entries": compacted})
    async with elsewhere.coordinator() as running, fleet(running) as client:
        entry = await client.state.get("plain")
        assert entry is not None
        assert entry.value == b"late"


async def test_a_snapshot_that_is_replaced_meanwhile(valkey, tmp_path):
    async with valkey.coordinator(snapshot_after=2000) as running, fleet(running) as client:
        await fill(client)
        server = valkey.server.client()
        first = await server.hget(valkey.keys.head, "snapshot_sequence")
        assert first

        async def replaced():
            async def is_another():
                await client.submit("nobody-can", b"x" * 3000)
                return await server.hget(valkey.keys.head, "snapshot_sequence") != first

            await eventually(is_another, message="another snapshot")

        await exported(valkey, tmp_path / "file", between={"piece": replaced})


async def test_more_locks_than_one_moment_takes(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client)
        for number in range(20):
            await client.state.put(f"ends-{number}", "x", ttl_s=600.0)

        async def written():
            await client.state.put("ends-0", "y", ttl_s=600.0)

        async with valkey.opened().connection(HERE):
            pass
        with pytest.raises(ToolRefused, match="more than can be read at one moment"):
            await exported_while_written(valkey, tmp_path / "refused", written)
    await exported(valkey, tmp_path / "rests", between={}, max_elements=10)


async def exported_while_written(store, path, written):
    """Each read of a part finds that it was written to."""

    class Restless(Meddled):
        async def part_page(self, namespace, part, cursor):
            await written()
            return await super().part_page(namespace, part, cursor)

    from coordinator.admin.export_file import ExportWriter
    from tests.support.admin_stores import nothing

    async with store.opened().connection(HERE) as connection:
        reads = Restless(connection=connection, keys=store.keys, between={})
        with path.open("wb") as out:
            await ShardExport(reads=reads, number=HERE, writer=ExportWriter(out), progress=nothing, max_elements=10).run()


async def test_a_damaged_shard_is_not_exported(valkey, tmp_path):
    async with valkey.coordinator() as running, fleet(running) as client:
        await fill(client, tasks=2)
    await valkey.server.client().xdel(valkey.keys.journal, "2-0")
    with pytest.raises(ToolRefused, match="is damaged: its journal goes from entry 1 to 3"):
        await valkey.export(tmp_path / "file")
    with pytest.raises(ToolError, match="holds no deployment"):
        await valkey.under("nothing").export(tmp_path / "file")
