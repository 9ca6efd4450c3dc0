"""``--extend``: a run gets further epochs, and everything that is made of it says so."""

import json
import os
import signal

import pytest
import yaml

from commands.train import train
from common.errors import UsageError, UserError
from reports import build_report
from reports.analysis.rows import rows_of, unequal_settings
from rundir.read import read_runs
from training.step import Stepper

OPTIONS = {"knn_every": 0, "log_every": 1, "warmup_epochs": 0.4}


def rates(run) -> list[float]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [record["lr"] for record in records if record["kind"] == "step"]


@pytest.fixture
def runs(small, tmp_path):
    """Options of Barlow Twins for so many epochs in ``tmp_path / "run"``, or another directory."""
    return lambda epochs, name="run", **more: small(tmp_path / name, "barlow_twins", epochs=epochs, **OPTIONS | more)


def test_more_epochs_name_the_ways(runs):
    train(*runs(1))
    with pytest.raises(UserError, match=r"epochs was 1, now 3.* add --extend .* --init .*run and give another --out"):
        train(*runs(3))


def test_the_longer_schedule_goes_on(runs, tmp_path):
    run = train(*runs(2))
    (run / "results").mkdir()
    (run / "results" / "knn.json").write_text("[]")
    short = rates(run)
    train(*runs(3), extend=True)
    planned = train(*runs(3, "planned"))
    assert rates(run) == short + rates(planned)[len(short) :]
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [r["epochs_before"] for r in records if r["kind"] == "extend"] == [2]
    assert [r["step"] for r in records if r["kind"] == "end"] == [15]
    assert yaml.safe_load((run / "config.yaml").read_text())["extended_from"] == [2]
    assert json.loads((run / "environment.json").read_text())["resumed"][-1]["extended_from_epochs"] == [2]
    assert (run / "after-2-epochs" / "results" / "knn.json").exists() and not list((run / "results").iterdir())

    both, _ = read_runs([run, planned])
    rows = rows_of(both)
    assert len(rows) == 2 and "budget" in unequal_settings(*rows)
    page = build_report([run, planned], tmp_path / "report").read_text()
    assert "extended from 2 epochs" in page


def test_it_continues_to_the_bit_and_the_same_command_finishes_it(runs, monkeypatch):
    run = train(*runs(1))
    step = Stepper.step

    def and_signal(self, batches, progress):
        if progress.step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batches, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", and_signal)
        with pytest.raises(SystemExit):
            train(*runs(2), extend=True)
    train(*runs(2), extend=True)  # or without it
    assert len(rates(run)) == 10
    train(*runs(2))
    train(*runs(3), extend=True)
    assert yaml.safe_load((run / "config.yaml").read_text())["extended_from"] == [1, 2]

    whole = train(*runs(1, "whole"))
    train(*runs(2, "whole"), extend=True)
    assert rates(run)[:10] == rates(whole)


@pytest.mark.parametrize(
    ("epochs", "more", "error", "words"),
    [
        (2, {"name": "other"}, UserError, "holds no training that could go on"),
        (0.5, {}, UsageError, "planned for 1 epochs already"),
        (2, {"budget": "images=100"}, UsageError, "in place of --budget"),
        (2, {"seed": 3}, UserError, "seed was 0, now 3"),
        (2, {"extended_from": [1.5]}, UsageError, "train with --epochs 1.5, then with --epochs 2 --extend"),
    ],
)
def test_what_cannot_be_extended(epochs, more, error, words, runs):
    train(*runs(1))
    with pytest.raises(error, match=words):
        train(*runs(epochs, **{"warmup_epochs": 0.1, **more} if epochs < 1 else more), extend=True)
