"""The log on disk, and what further loggers are told."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import run as command_line
from common.environment import VENV
from common.errors import UserError
from training.config import TrainConfig
from training.logging import RunLog, require_loggers


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


@pytest.fixture
def weights_and_biases(tmp_path, monkeypatch):
    """``weights_and_biases(mode, …)``: a package with such settings, and a home without a netrc file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)

    def make(**settings):
        known = {"mode": "online", "api_key": None, "identity_token_file": None, "base_url": "https://api.wandb.ai"}
        fake = types.ModuleType("wandb")
        fake.__spec__ = types.SimpleNamespace()
        fake.setup = lambda: types.SimpleNamespace(settings=types.SimpleNamespace(**known | settings))
        monkeypatch.setitem(sys.modules, "wandb", fake)

    return make


@pytest.mark.parametrize(
    "netrc", ["", "machine other.org login a password b", "machine api.wandb.ai login user\n", "{"]
)
def test_without_a_login_wandb_is_refused_at_once(netrc, weights_and_biases, tmp_path):
    (tmp_path / ".netrc").write_text(netrc)
    weights_and_biases()
    with pytest.raises(UserError, match=r"--wandb: no login for api\.wandb\.ai; .*WANDB_MODE=offline"):
        require_loggers([TrainConfig(), TrainConfig(wandb=True)])
    require_loggers([TrainConfig()])


@pytest.mark.parametrize(
    "settings", [{"mode": "offline"}, {"mode": "disabled"}, {"api_key": "x"}, {"identity_token_file": "x"}, {}]
)
def test_with_a_login_or_offline_it_is_not(settings, weights_and_biases, tmp_path):
    if not settings:
        (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    weights_and_biases(**settings)
    require_loggers([TrainConfig(wandb=True)])


@pytest.mark.parametrize("command", [[], ["compare", "--methods", "random", "--backbones", "vit_nano"]])
def test_commands_ask_before_they_load_anything(command, weights_and_biases, tmp_path, capsys):
    weights_and_biases()
    words = [*command, "--data", "imagefolder", "--data_root", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert command_line.main([*words, "--wandb", "true"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --wandb: no login")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_real_package_is_asked(tmp_path):
    pytest.importorskip("wandb")
    code = "from training.logging import *; require_loggers([TrainConfig(wandb=True)])"
    for mode, status in (("online", 1), ("offline", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WANDB_MODE": mode},
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        assert ("no login for" in done.stderr) == (mode == "online")


def test_what_wandb_says_when_it_cannot_begin_is_a_sentence(tmp_path, monkeypatch):
    def init(**options):
        raise ConnectionError("timed out")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(UserError, match=r"--wandb: .* cannot begin \(timed out\); WANDB_MODE=offline"):
        open_log(tmp_path, wandb=True)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_logger_says_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(VENV))  # another environment is told pip's command
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=f"--{name} needs the package .* --extra loggers"):
        open_log(tmp_path, **{name: True})
