"""The log on disk, and what further loggers are told."""

import json
import sys
import types

import pytest

from common.errors import UserError
from training.logging import RunLog


def open_log(run, **flags):
    return RunLog(run, {"lr": 0.1}, 10, **{"tensorboard": False, "wandb": False, **flags})


def test_records_are_lines_and_rewinding_forgets_later_ones(tmp_path):
    with open_log(tmp_path) as log:
        for step in (1, 2, 3):
            log.write("step", step, 0, loss=float(step))
        log.write("step", 4, 1, loss=float("nan"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[0] == {"kind": "step", "step": 1, "epoch": 0, "loss": 1.0}
    assert lines[-1]["loss"] is None
    with open_log(tmp_path) as log:
        assert [r["step"] for r in log.rewind(2)] == [1, 2]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": \n{"kind": "step", "step": 1}\n')
    with open_log(tmp_path) as log, pytest.raises(UserError, match=r"log\.jsonl, line 1"):
        log.rewind(1)


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_log(tmp_path, tensorboard=True) as log:
        log.write("step", 5, 0, loss=2.5)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/loss")] == [(5, 2.5)]


def test_wandb_continues_the_same_run(tmp_path, monkeypatch):
    begun, logged = [], []
    run = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    fake = types.SimpleNamespace(init=lambda **options: begun.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        with open_log(tmp_path, wandb=True) as log:
            log.write("knn", 5, 1, top1=50.0, note="text")
    assert begun[0] == begun[1] and begun[0]["id"] and begun[0]["config"] == {"lr": 0.1}
    assert logged[0] == (5, {"knn/top1": 50.0, "epoch": 1})


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_logger_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=f"--{name} needs the package .* --extra loggers"):
        open_log(tmp_path, **{name: True})
