"""The whole benchmark, small, over real processes."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e


def test_a_small_run_measures_everything():
    command = [sys.executable, "-m", "agent_node.cli", "bench", "dispatch", "--json"]
    options = ["--tasks", "500", "--agents", "3", "--connected", "5", "--in-flight", "100"]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert (report["submitted"], report["completed"]) == (500, 500)
    assert report["first_error"] == ""
    for key in ("tasks_per_s", "unary_tasks_per_s", "ceiling_tasks_per_s", "ceiling_latency_ms", "coordinator_start_s"):
        assert report[key] > 0, key
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert set(report["cpu_s_per_1000"]) == set(report["rss_mb"]) == {"client", "agents", "idle_agents", "coordinator", "store"}
    assert report["coordinator"]["durability"]


def test_a_small_run_of_depth_measures_everything():
    command = [sys.executable, "-m", "agent_node.cli", "bench", "depth", "--tasks", "3000", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["queued"] == report["recovered"] >= 3000
    assert report["payload_bytes"] == 100
    for key in ("rate_at_1000", "rate_at_depth", "replay_s", "snapshot_s", "recovery_s"):
        assert report[key] > 0, key
    assert report["worst_stall_ms"] >= 0
    assert report["rss_bytes_per_task"] < 4096  # so few tasks may fit into what was free, or be outweighed by what was given back


def test_a_small_run_of_fairness_measures_everything():
    command = [sys.executable, "-m", "agent_node.cli", "bench", "fairness", "--tasks", "2000", "--ageing-period", "1", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["share_error"] == max(report["task_share_error"], report["cost_share_error"]) < 0.05
    assert report["tasks"] == 2000
    assert 3 <= report["ageing_worst_wait_s"] < 1.6 * report["expected_wait_s"]  # without ageing it is the whole run: 2.4 times that
