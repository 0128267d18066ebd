"""Operations on many tasks: how both clients page through them, and add up what the pages say."""

import inspect
from collections.abc import AsyncIterator

import pytest
from muster.v1 import bulk_pb2, task_pb2

from agent_node import BlockingClient, Client, Priority, RefusedError
from agent_node.testing import local_coordinator
from tests.sdk_client.test_calls import AnyUnary, client, server  # noqa: F401 - fixtures

OPERATIONS = ("cancel_matching", "reprioritise", "redrive", "purge")
NOT_FOUND, ENDED = bulk_pb2.SKIP_REASON_NOT_FOUND, bulk_pb2.SKIP_REASON_ENDED


def page(token: str = "", *, changed: int = 0, **skipped: list[str]) -> bulk_pb2.CancelMatchingTasksResponse:
    """An answer; `skipped` has ids by reason."""
    left = [
        bulk_pb2.SkippedTasks(reason=f"SKIP_REASON_{reason}", count=len(ids), message="why", task_ids=ids)  # type: ignore[arg-type]
        for reason, ids in skipped.items()
    ]
    matched = changed + sum(one.count for one in left)
    return bulk_pb2.CancelMatchingTasksResponse(
        progress=bulk_pb2.OperationProgress(matched=matched, changed=changed, skipped=left, next_page_token=token)
    )


def asked(server: AnyUnary) -> list[bulk_pb2.CancelMatchingTasksRequest]:  # noqa: F811
    return [bulk_pb2.CancelMatchingTasksRequest.FromString(request) for _, request in server.asked]


async def test_every_page_is_asked_for_and_added(client: Client, server: AnyUnary) -> None:  # noqa: F811
    many = [f"e{number}" for number in range(9)]
    server.answers = [page("2", changed=3, ENDED=many), page("3", ENDED=["x", "y"]), page(changed=4, NOT_FOUND=["z"])]
    told: list[int] = []
    done = await client.cancel_matching(filter="state = RUNNING", reason="enough", on_progress=lambda so_far: told.append(so_far.changed))
    assert (done.matched, done.changed, done.next_page_token) == (19, 7, "")
    assert [(one.reason, one.count, len(one.task_ids)) for one in done.skipped] == [(ENDED, 11, 10), (NOT_FOUND, 1, 1)]
    assert told == [3, 3, 7]
    assert [request.selection.page_token for request in asked(server)] == ["", "2", "3"]
    assert {(request.selection.filter, request.reason) for request in asked(server)} == {("state = RUNNING", "enough")}


async def test_many_ids_go_in_several_calls_and_each_one_left_is_named(client: Client, server: AnyUnary) -> None:  # noqa: F811
    ids = [f"t{number}" for number in range(2_300)]
    server.answers = [page(changed=1000 - 20, ENDED=ids[:20]), page(changed=1000), page(changed=290, ENDED=ids[2000:2010])]
    done = await client.cancel_matching(ids)
    assert [len(request.selection.task_ids) for request in asked(server)] == [1000, 1000, 300]
    assert done.changed == 2_270
    assert list(done.skipped[0].task_ids) == ids[:20] + ids[2000:2010]


async def test_a_dry_run_shows_ten(client: Client, server: AnyUnary) -> None:  # noqa: F811
    server.answers = [
        bulk_pb2.PurgeTasksResponse(
            progress=bulk_pb2.OperationProgress(
                changed=8, sample=[task_pb2.Task(task_id=f"{token}{n}") for n in range(8)], next_page_token=token
            )
        )
        for token in ("2", "")
    ]
    done = await client.purge(all=True, dry_run=True)
    assert [task.task_id for task in done.sample] == [*(f"2{n}" for n in range(8)), "0", "1"]
    assert all(request.selection.dry_run and request.selection.all for request in asked(server))


async def test_priorities_are_those_of_the_protos(client: Client, server: AnyUnary) -> None:  # noqa: F811
    server.answers = [page(), page(), page()]
    await client.reprioritise(["a"], priority=Priority.CRITICAL, reason="why")
    await client.redrive(["a"], priority=Priority.LOW, request_id="once")
    await client.redrive(["a"])
    requests = [message for _, message in server.asked]
    first = bulk_pb2.ReprioritiseTasksRequest.FromString(requests[0])
    assert (first.priority, first.reason, list(first.selection.task_ids)) == (4, "why", ["a"])
    assert [bulk_pb2.RedriveTasksRequest.FromString(request).priority for request in requests[1:]] == [1, 0]


async def test_a_redrive_has_one_request_id_over_all_its_calls(client: Client, server: AnyUnary) -> None:  # noqa: F811
    server.answers = [page("2"), page(), page(), page()]
    await client.redrive(["a"] * 1001)
    await client.redrive(["a"], request_id="once")
    ids = [bulk_pb2.RedriveTasksRequest.FromString(message).request_id for _, message in server.asked]
    assert ids[0]
    assert ids == [ids[0]] * 3 + ["once"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_clients_take_the_same(name: str) -> None:
    one, other = (inspect.signature(getattr(kind, name)) for kind in (Client, BlockingClient))
    assert list(one.parameters.values()) == list(other.parameters.values())


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with local_coordinator() as found:
        yield found


async def test_a_coordinator_understands_them(address: str) -> None:
    async with Client(address) as real:
        for number in range(30):
            await real.submit("nobody", task_id=f"t{number:02}", want_result=False, labels={"half": "ab"[number % 2]})
        assert (await real.reprioritise(filter="labels.half = a", priority=Priority.HIGH)).changed == 15
        assert (await real.cancel_matching(filter="priority = HIGH", dry_run=True)).changed == 15
        done = await real.cancel_matching([f"t{number:02}" for number in range(25)] + ["gone"], reason="enough")
        assert (done.matched, done.changed, [one.reason for one in done.skipped]) == (26, 25, [NOT_FOUND])
        again = await real.cancel_matching([f"t{number:02}" for number in range(25)])
        (left,) = again.skipped
        assert (left.reason, left.count, len(left.task_ids)) == (ENDED, 25, 25)
        assert (await real.redrive(filter="labels.half = b")).changed == 12
        young = await real.purge(all=True)
        assert (young.changed, [one.reason for one in young.skipped]) == (0, [bulk_pb2.SKIP_REASON_TOO_YOUNG])
        with pytest.raises(RefusedError, match="selection names no tasks"):
            await real.redrive()
        with pytest.raises(RefusedError, match="at character 9"):
            await real.redrive(filter="state = BROKEN")


async def test_a_blocking_client_does_the_same(address: str) -> None:
    import asyncio

    def use() -> None:
        with BlockingClient(address) as real:
            for number in range(3):
                real.submit("nobody", task_id=f"t{number}", want_result=False)
            assert real.reprioritise(["t0"], priority=Priority.LOW).changed == 1
            told: list[int] = []
            assert real.cancel_matching(all=True, on_progress=lambda so_far: told.append(so_far.changed)).changed == 3
            assert told == [3]
            assert real.redrive(filter="task_id != t0", priority=Priority.HIGH).changed == 2
            assert real.get("t1").priority == Priority.HIGH
            assert real.purge(all=True, dry_run=True).changed == 0

    await asyncio.to_thread(use)
