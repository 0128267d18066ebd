"""Tasks are searched by labels, type, state, parent, agent and id, live and ended, without a look at all others."""

import pytest
from muster.v1 import common_pb2, task_pb2

from coordinator.ports import EndedEntry
from coordinator.rpc import task_list
from tests.support.eventually import eventually
from tests.support.hosted import failure, spec_of
from tests.support.refusals import refusal

COMPLETED, FAILED, CANCELLED = common_pb2.TASK_STATE_COMPLETED, common_pb2.TASK_STATE_FAILED, common_pb2.TASK_STATE_CANCELLED


async def listed(muster, text, **request):
    """All pages: the ids."""
    ids, token = [], ""
    while True:
        page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(filter=text, page_token=token, **request))
        ids += [task.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            return ids


@pytest.fixture
async def searched(muster):
    """Tasks of two types and teams: some have ended, some haven't."""
    agent = await muster.agent("worker")
    tasks = [
        spec_of("done", labels={"team": "red"}),
        spec_of("failed", labels={"team": "red", "tier": "1"}, parent_task_id="the-parent"),
        spec_of("failed-too", "work", labels={"team": "blue"}),
        *(spec_of(f"plain-{number}") for number in range(5)),
    ]
    await muster.submit(*tasks)
    for assignment in await agent.assigned(len(tasks)):
        if assignment.task.task_id.startswith("failed"):
            await agent.report(failure(assignment.task.task_id, assignment.fence, non_retryable=True))
        else:
            await agent.succeed(assignment)
    await muster.submit(
        spec_of("waits", "other", labels={"team": "red"}),
        spec_of("waits-too", "other", parent_task_id="the-parent"),
        spec_of("cancelled", "other"),
    )
    await muster.tasks.CancelTasks(task_pb2.CancelTasksRequest(task_ids=["cancelled"]))
    await eventually(lambda: not muster.scheduler.state.ended, message="the tasks to leave memory")
    return muster


@pytest.mark.parametrize("page_size", [0, 1])
@pytest.mark.parametrize(
    "text, ids",
    [
        ("labels.team = red", ["waits", "failed", "done"]),
        ("labels.team = red AND state = FAILED", ["failed"]),
        ("labels.team:* AND NOT labels.team = red", ["failed-too"]),
        ("labels.team = red AND labels.tier != 1", ["waits", "done"]),
        ("labels.tier = 1 OR labels.team = blue", ["failed-too", "failed"]),
        ("state = FAILED", ["failed-too", "failed"]),
        ("state = FAILED OR state = CANCELLED", ["cancelled", "failed-too", "failed"]),
        ("state = CANCELLED AND task_type = work", []),
        ("task_type = other", ["waits", "waits-too", "cancelled"]),
        ("parent_task_id = the-parent", ["waits-too", "failed"]),
        ("task_id = waits OR task_id = done OR task_id = nobody", ["waits", "done"]),
        ("task_id = failed AND state = COMPLETED", []),
        ("agent = worker AND state = FAILED", ["failed-too", "failed"]),
        ("task_type = nothing", []),
    ],
)
async def test_they_are_found(searched, text, ids, page_size):
    assert await listed(searched, text, page_size=page_size) == ids


async def test_labels_are_shown_in_every_view(searched):
    for task_id in ("waits", "failed"):
        task = (await searched.tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id))).task
        assert task.labels["team"] == "red"
    assert dict((await searched.tasks.GetTask(task_pb2.GetTaskRequest(task_id="plain-1"))).task.labels) == {}


async def test_ended_tasks_that_match_are_the_only_ones_read(searched, monkeypatch):
    store = searched.shard.store
    read = []
    get_records = store.get_records

    async def counted(namespace, task_ids, **options):
        read.extend(task_ids)
        return await get_records(namespace, task_ids, **options)

    monkeypatch.setattr(store, "get_records", counted)
    assert await listed(searched, "labels.team = red AND state = FAILED") == ["failed"]
    assert set(read) <= {"failed", "failed-too", "done"}, "those of one condition"
    read.clear()
    assert await listed(searched, "state = RUNNING") == []
    assert await listed(searched, "labels.team = red AND labels.team = blue") == []
    assert read == []


async def test_a_page_reads_no_more_than_its_bound_however_little_it_finds(muster, monkeypatch):
    asked = []

    async def list_ended(namespace, *, before, limit, terms=()):
        asked.append(limit)
        first = before or 5000
        return [EndedEntry(first - number, f"gone-{first - number}", 1, 1) for number in range(1, limit + 1)]

    monkeypatch.setattr(muster.shard.store, "list_ended", list_ended)
    page = await muster.tasks.ListTasks(task_pb2.ListTasksRequest(filter="priority = HIGH"))
    assert (list(page.tasks), sum(asked)) == ([], 1000)
    assert page.next_page_token
    asked.clear()
    await muster.tasks.ListTasks(task_pb2.ListTasksRequest(filter="priority = HIGH", page_token=page.next_page_token))
    assert sum(asked) == 1000


async def test_a_watch_begins_with_what_its_filter_finds(searched):
    call = searched.tasks.WatchTasks(task_pb2.WatchTasksRequest(filter="labels.team = red"))
    first = await call.read()
    assert [(event.task.task_id, event.task.labels["team"]) for event in first.events] == [("waits", "red")]
    await searched.submit(spec_of("other"), spec_of("new", labels={"team": "red"}))
    second = await call.read()
    assert {event.task.task_id for event in second.events} == {"new"}
    resumed = searched.tasks.WatchTasks(task_pb2.WatchTasksRequest(filter="labels.team = red", cursor=first.cursor))
    assert {event.task_id for event in (await resumed.read()).events} <= {"done", "failed", "waits", "new"}


@pytest.mark.parametrize(
    "labels, says",
    [
        ({f"name-{number}": "" for number in range(17)}, "labels has 17 entries: at most 16"),
        ({"": "x"}, "labels has the name ''"),
        ({"-x": ""}, "labels has the name '-x': use 1 to 64 letters"),
        ({"x" * 65: ""}, "labels has the name"),
        ({"größe": "x"}, "labels has the name"),
        ({"x": "y" * 129}, "the label x has a value of 129 characters: use at most 128"),
        ({"x": "\n"}, "all of them printable"),
    ],
)
async def test_labels_that_are_none_are_refused(muster, labels, says):
    (answer,) = await muster.submit(spec_of("t", labels=labels))
    assert (answer.verdict, answer.refusal.field) == (task_pb2.SUBMIT_VERDICT_REFUSED, "labels")
    assert says in answer.refusal.message


async def test_labels_are_part_of_what_a_task_is(muster):
    await muster.submit(spec_of("t", labels={"a": "1", "b": "2"}))
    same, other = await muster.submit(spec_of("t", labels={"b": "2", "a": "1"}), spec_of("t", labels={"a": "1"}))
    assert same.verdict == task_pb2.SUBMIT_VERDICT_DUPLICATE
    assert other.refusal.reason == "TASK_ALREADY_EXISTS"


async def test_as_many_labels_as_there_may_be_are_kept(muster):
    labels = {f"{number}{'x' * 60}": "y" * 128 for number in range(16)}
    await muster.submit(spec_of("t", labels=labels))
    assert dict((await muster.tasks.GetTask(task_pb2.GetTaskRequest(task_id="t"))).task.labels) == labels


async def test_a_filter_that_does_not_parse_says_where(muster):
    refused = await refusal(muster.tasks.ListTasks(task_pb2.ListTasksRequest(filter="labels.team red")))
    assert "character 13" in refused.message


async def test_what_no_index_knows_is_looked_for_page_by_page(searched, monkeypatch):
    """That a task has a label, whichever: a page looks at so many records and no more, and says where to go on."""
    monkeypatch.setattr(task_list, "MAX_RECORDS", 3)
    looked_at, list_ended = [], searched.shard.records.list_ended

    async def counted(*arguments, **options):
        entries = await list_ended(*arguments, **options)
        looked_at.append(len(entries))
        return entries

    monkeypatch.setattr(searched.shard.records, "list_ended", counted)
    pages, token = 0, ""
    while token or not pages:
        page = await searched.tasks.ListTasks(task_pb2.ListTasksRequest(filter="labels.tier:*", page_token=token))
        assert sum(looked_at) <= 3
        looked_at.clear()
        pages, token = pages + 1, page.next_page_token
    assert pages > 2
