import json

import pytest

from agent_node.cli.bench import depth, dispatch
from agent_node.cli.bench.report import DispatchReport, StoreFacts


@pytest.fixture
def runs(monkeypatch):
    """Each run's options and surroundings; a run completes all of its tasks but `runs.lost`."""

    class Runs(list):
        lost = 0

    recorded = Runs()

    async def measure(options, surroundings, bar):
        bar.show(description="tasks", total=options.tasks, completed=0)
        recorded.append((options, surroundings))
        return DispatchReport(
            options=options,
            tasks_per_s=1_000.0,
            submitted=options.tasks,
            completed=options.tasks - recorded.lost,
            latencies_s=[0.001],
            unary_tasks_per_s=100.0,
            cpu_s={},
            rss_mb={},
            ceiling_tasks_per_s=10_000.0,
            ceiling_latency_ms=0.2,
            coordinator=StoreFacts(version="0", store="s", durability="d"),
            start_s=None,
        )

    monkeypatch.setattr(dispatch, "measure_dispatch", measure)
    return recorded


def test_json_is_one_object_alone_on_stdout(muster, runs):
    result = muster("bench", "dispatch", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["submitted"] == 20_000


def test_without_json_it_is_a_table(muster, runs):
    assert "tasks/s" in muster("bench", "dispatch").stdout


def test_the_options_arrive(muster, runs, tmp_path):
    load = ["--tasks", "7", "--capacity", "8", "--payload", "9", "--in-flight", "12"]
    arguments = [*load, "--agents", "10", "--connected", "11", "--address", "a:1"]
    assert muster("bench", "dispatch", *arguments, "--profile", str(tmp_path / "p")).exit_code == 0
    [(options, surroundings)] = runs
    assert (options.tasks, options.capacity, options.payload_bytes) == (7, 8, 9)
    assert (options.agents, options.connected, options.in_flight) == (10, 11, 12)
    assert surroundings.address == "a:1"
    assert surroundings.profile == tmp_path / "p"
    assert (tmp_path / "p").is_dir()


def test_the_working_agents_are_connected_too(muster, runs):
    muster("bench", "dispatch", "--agents", "10")
    assert runs[0][0].connected == 10


def test_an_address_of_the_environment_is_not_put_under_load(muster, runs):
    muster("bench", "dispatch", env={"MUSTER_ADDRESS": "production:7450"})
    assert runs[0][1].address is None


def test_a_lost_task_is_exit_code_1(muster, runs):
    runs.lost = 1
    assert muster("bench", "dispatch", "--json").exit_code == 1


def test_a_profile_directory_that_can_not_be_made_is_wrong_usage(muster, runs, tmp_path):
    (tmp_path / "file").write_text("")
    result = muster("bench", "dispatch", "--profile", str(tmp_path / "file" / "p"))
    assert result.exit_code == 2
    assert "can't make the directory" in result.stderr


@pytest.fixture
def depths(monkeypatch):
    """What each run was asked for; a run recovers all that it queued but `depths.lost`."""

    class Depths(list):
        lost = 0

    recorded = Depths()

    async def measure(*, tasks, payload_bytes, bar):
        bar.show(description="queueing", total=tasks, completed=0)
        recorded.append((tasks, payload_bytes))
        return depth.DepthReport(
            queued=tasks,
            payload_bytes=payload_bytes,
            rate_at_1000=2.0,
            rate_at_depth=1.0,
            rss_bytes_per_task=700.0,
            replay_s=3.0,
            snapshot_s=2.0,
            worst_stall_ms=10.0,
            recovered=tasks - recorded.lost,
            recovery_s=1.0,
        )

    monkeypatch.setattr(depth, "measure_depth", measure)
    return recorded


def test_depth_prints_one_object(muster, depths):
    result = muster("bench", "depth", "--tasks", "5000", "--payload", "7", "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout)["recovered"] == 5000
    assert depths == [(5000, 7)]


def test_depth_prints_a_table(muster, depths):
    assert "with 100,000 queued: 50 %" in muster("bench", "depth").stdout


def test_a_task_that_was_not_recovered_is_exit_code_1(muster, depths):
    depths.lost = 1
    assert muster("bench", "depth").exit_code == 1
