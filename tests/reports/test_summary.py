"""Sentences of the report's summary."""

from __future__ import annotations

import shutil

import pytest

from reports.analysis.comparison import compare
from reports.analysis.rows import rows_of
from reports.page.comparison_tables import differences, shown_difference
from reports.page.summary import findings
from rundir.read import read_runs
from tests.reports.factory import write_run


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_tie_is_no_win(tmp_path, seeds):
    for seed in range(seeds):
        one = write_run(tmp_path / f"dino-{seed}", "dino", seed=seed)
        other = write_run(tmp_path / f"barlow-{seed}", "barlow_twins", seed=seed)
        for folder in ("results", "predictions"):
            shutil.rmtree(other / folder)
            shutil.copytree(one / folder, other / folder)
    comparison = compare(rows_of(read_runs([tmp_path])[0]))[0]
    words = " ".join(finding.words for finding in findings(comparison))
    assert (
        "DINO and Barlow Twins tie in k-NN top-1 accuracy (k 20), at" in words
        or "Barlow Twins and DINO tie in" in words
    )
    assert "is best" not in words and "above" not in words
    assert {row[3].text for row in differences(comparison, "differences").rows} == {"0.0"}


def test_a_small_difference_is_not_shown_as_none():
    assert [shown_difference(value, 1, "+") for value in (0.0, 0.04, -0.004, 1.26)] == [
        "0.0",
        "+0.04",
        "-0.004",
        "+1.3",
    ]
