"""The arithmetic of `muster bench fairness`."""

import pytest

from agent_node.cli.bench.fairness import SERVICE_S, FairnessReport, expected_wait_s, share_error


def test_exact_shares_have_no_error():
    assert share_error({"one": 10, "two": 20, "three": 30, "four": 40}) == pytest.approx(0)


def test_the_worst_key_counts_as_a_part_of_what_it_should_have():
    assert share_error({"one": 15, "two": 20, "three": 30, "four": 35}) == pytest.approx(0.5)


def test_a_key_without_any_is_wholly_off():
    assert share_error({"one": 0, "two": 20, "three": 30, "four": 50}) == pytest.approx(1)


def test_the_expected_wait_is_three_periods_and_how_coarsely_ages_are_looked_at():
    assert expected_wait_s(2.0) == pytest.approx(6 + 0.125 + SERVICE_S)
    assert expected_wait_s(60.0) == pytest.approx(180 + 0.25 + SERVICE_S)


def test_the_report_has_the_larger_error():
    report = FairnessReport(
        tasks=1, task_share_error=0.01, cost_share_error=0.02, ageing_period_s=1, ageing_worst_wait_s=3, expected_wait_s=3
    )
    assert report.record()["share_error"] == 0.02
