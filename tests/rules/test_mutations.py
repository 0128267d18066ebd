"""The table of mutations follows the code: a guard that was renamed must not drop out of it unseen."""

from pathlib import Path

import pytest

from tests.mutation_table import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[each.name for each in MUTATIONS])
def test_each_guard_stands_once_in_its_file(mutation):
    assert (ROOT / mutation.path).read_text(encoding="utf-8").count(mutation.guard) == 1, mutation.guard
    assert mutation.instead != mutation.guard


def test_the_names_differ():
    names = [each.name for each in MUTATIONS]
    assert len(names) == len(set(names))
