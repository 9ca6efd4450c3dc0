"""Results files, read for another evaluation (all or nothing) and for a report (entry by entry)."""

import json

import numpy as np
import pytest

from common.errors import UserError
from rundir.correlation import read_correlations, save_correlation
from rundir.paths import correlation_file, results_file
from rundir.results import Measurement, parse_measurement, read_results, write_results

MEASUREMENT = {"evaluation": "knn", "metric": "top1", "value": 50.0, "low": 40.0, "high": 60.0, "n": 10, "protocol": {},
               "data": {"name": "demo"}}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"value": "50"}, {"value": None}, {"value": float("nan")}, {"n": True}, {"low": float("inf")}, {"data": []},
     {"data": {}}, {"protocol": 3}, {"unknown": 1}],
)  # fmt: skip
def test_damaged_results_are_no_numbers(change, tmp_path):
    path = tmp_path / "knn.json"
    path.write_text(json.dumps([MEASUREMENT]))
    assert read_results(path)[0].value == 50
    path.write_text(json.dumps([MEASUREMENT | change]))
    with pytest.raises(UserError, match=r"knn\.json: no list of measurements"):
        read_results(path)


@pytest.mark.parametrize(
    "change",
    [
        {"value": "50"},
        {"value": None},
        {"value": 10**400},
        {"n": 0},
        {"low": float("inf")},
        {"data": [1]},
        {"metric": ""},
    ],
)
def test_a_damaged_entry_is_a_sentence(change, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(change))} is "):
        parse_measurement(MEASUREMENT | change, tmp_path)


def test_a_measurement_is_read_as_it_was_written(tmp_path):
    measurement = Measurement(**MEASUREMENT, predictions="predictions/knn.npz", weights="ab", request="cd")
    file = results_file(tmp_path, "knn")
    write_results(file, [measurement])
    assert "run" not in json.loads(file.read_text())[0]
    (read,) = read_results(file)
    assert read == measurement and read.predictions_file == tmp_path / "predictions" / "knn.npz"
    older = {name: MEASUREMENT[name] for name in ("evaluation", "metric", "value", "n")}
    assert parse_measurement(older, tmp_path).protocol == {}


def test_epochs_that_an_interrupted_run_left_are_replaced(tmp_path):
    for epoch, value in ((0, 0.25), (1, 0.5), (2, 0.75), (1, 1.0)):
        save_correlation(tmp_path, epoch, np.full((3, 3), value), value, 0.0)
    kept = read_correlations(tmp_path)
    assert kept.epochs.tolist() == [0, 1] and kept.on_diagonal.tolist() == [0.25, 1.0]
    assert kept.matrices.shape == (2, 3, 3) and kept.matrices[1].min() == 1
    np.savez(
        correlation_file(tmp_path), epochs=np.arange(2), matrices=np.zeros((2, 3, 4)), on_diagonal=[0], off_diagonal=[0]
    )
    with pytest.raises(ValueError, match=r"matrices of shape \(2, 3, 4\) for 2 epochs"):
        read_correlations(tmp_path)
