import os

from agent_node.cli.bench.ceiling import (
    TASKS_PER_MESSAGE,
    ceiling_session,
    measure_ceiling,
    ping_pong,
    request_of,
    response_of,
    stream_messages,
)
from agent_node.cli.bench.measures import children_of, process_table


def test_a_message_holds_the_tasks_and_its_answer_their_results():
    request, response = request_of(TASKS_PER_MESSAGE, bytes(100)), response_of(TASKS_PER_MESSAGE)
    tasks = request.submit.tasks
    assert len(tasks) == len(response.results) == 100
    assert {len(task.payload) for task in tasks} == {100}
    assert [task.task_id for task in tasks] == [result.task_id for result in response.results]
    assert len({task.task_id for task in tasks}) == 100


async def test_the_server_answers_each_message_in_kind():
    async with ceiling_session() as session:
        for count in (1, 7, 100):
            await session.write(request_of(count, b"x"))
            answer = await session.read()
            assert len(answer.results) == count


async def test_the_window_reads_every_answer():
    async with ceiling_session() as session:
        await stream_messages(session, request_of(3, b"x"), 25)
        assert len(await ping_pong(session, request_of(1, b"x"), 4)) == 4


async def test_a_miniature_run_gives_two_figures_and_leaves_no_process():
    before = set(children_of(os.getpid(), process_table()))
    ceiling = await measure_ceiling(tasks=1_000, payload_bytes=100)
    assert ceiling.tasks_per_s > 1_000
    assert 0.01 < ceiling.latency_ms < 1_000
    table = process_table()
    left = [pid for pid in children_of(os.getpid(), table) if pid not in before]
    assert not [table[pid].name for pid in left]
