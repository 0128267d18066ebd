import os

import pytest

from agent_node.cli.bench.measures import (
    GroupUsage,
    ProcessUsage,
    children_of,
    parse_proc_stat,
    parse_ps_line,
    parse_ps_time,
    percentile,
    process_table,
    usage_by_role,
)
from agent_node.cli.bench.report import used_between


@pytest.mark.parametrize("percent,expected", [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_a_percentile_is_the_nearest_rank(percent, expected):
    assert percentile([*range(100, 0, -1)], percent) == expected


def test_a_percentile_of_one_sample_is_that_sample():
    assert percentile([7.5], 99) == 7.5


@pytest.mark.parametrize("samples,percent", [([], 50), ([1.0], -1), ([1.0], 101)])
def test_a_percentile_that_means_nothing_is_refused(samples, percent):
    with pytest.raises(ValueError, match="percentile"):
        percentile(samples, percent)


def test_a_stat_line_is_read_past_a_name_with_brackets_and_spaces():
    fields = ["S", "41", *["0"] * 9, "250", "50", *["0"] * 8, "1000", *["0"] * 20]
    usage = parse_proc_stat(f"42 (a ) b (c) {' '.join(fields)}\n", ticks_per_s=100, page_bytes=4096)
    assert usage == ProcessUsage(parent_pid=41, name="a ) b (c", cpu_s=3.0, rss_mb=4.096)


@pytest.mark.parametrize("text,seconds", [("0:00.05", 0.05), ("1:02.50", 62.5), ("01:00:03", 3603), ("2-01:00:00", 176400)])
def test_ps_times_of_linux_and_macos(text, seconds):
    assert parse_ps_time(text) == pytest.approx(seconds)


def test_a_ps_line_keeps_the_last_part_of_the_command():
    pid, usage = parse_ps_line("  123     1  2048   0:01.50 /opt/my tools/bin/valkey-server\n")
    assert (pid, usage) == (123, ProcessUsage(parent_pid=1, name="valkey-server", cpu_s=1.5, rss_mb=2.097152))


def test_this_process_is_seen_with_its_parent():
    table = process_table()
    mine = table[os.getpid()]
    assert mine.parent_pid == os.getppid()
    assert mine.rss_mb > 5
    assert os.getpid() in children_of(os.getppid(), table)


def test_the_cpu_this_process_burns_is_counted():
    before = process_table()[os.getpid()].cpu_s
    burnt = os.times()
    while os.times().user - burnt.user < 0.1:
        sum(range(10_000))
    assert process_table()[os.getpid()].cpu_s - before >= 0.08


def test_a_role_is_the_sum_of_its_processes_and_is_left_out_when_one_is_not_seen():
    table = {1: ProcessUsage(0, "a", 1.0, 10.0), 2: ProcessUsage(0, "b", 0.5, 5.0)}
    roles = {"agents": [1, 2], "store": [2, 3], "nobody": []}
    assert usage_by_role(roles, table) == {"agents": GroupUsage(1.5, 15.0)}


def test_usage_between_two_looks_leaves_out_who_came_later():
    before = {"client": GroupUsage(1.0, 1.0)}
    after = {"client": GroupUsage(3.5, 2.0), "store": GroupUsage(9.0, 9.0)}
    assert used_between(before, after) == {"client": 2.5}
