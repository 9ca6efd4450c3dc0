"""How long a training will take is told before it begins, and where that is days, the command of one that takes hours."""

import re
import shlex

import pytest

import run as command_line
from commands.train import read_options
from common.cli import words_of
from training.grids import alternative, estimate
from training.grids.alternative import DAYS, HOURS, warning_of_days
from training.grids.estimate import TimeEstimate
from training.plan import make_plan

COMMON = {"data": "imagefolder", "projector": "32-32", "batch_size": 8, "device": "cpu"}
WORDS = words_of({"method": "barlow_twins", **COMMON})
BOTH = {"methods": ["barlow_twins", "random"], "backbones": ["resnet18"], "seeds": [0, 1], "image_size": 32}
GRID = words_of({**BOTH, **COMMON})


@pytest.fixture
def slow(monkeypatch):
    """``slow(operations)``: this machine does so many a second."""

    def make(speed: float) -> None:
        monkeypatch.setattr(estimate, "product_speed", lambda device, precision: speed / estimate.SHARE)
        monkeypatch.setattr(alternative, "SLOWEST", 0.0)

    return make


def plan_of(words):
    asked = read_options(words)
    return make_plan(asked.train, asked.method, fetch=False)


@pytest.mark.parametrize(
    ("words", "speed", "changed"),
    [
        pytest.param(["--backbone", "vit_s16", "--image_size", "64"], 1e7, {"--backbone"}, marks=pytest.mark.slow),
        (["--backbone", "vit_t16", "--image_size", "96"], 1.5e6, {"--image_size"}),
        (["--backbone", "resnet18", "--image_size", "32", "--warmup_epochs", "20"], 1e6, {"--epochs"}),
        pytest.param(
            ["--backbone=resnet18", "--image_size=32", "--budget", "images=1e6"],
            1e7,
            {"--epochs"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_offered_command_takes_hours(words, speed, changed, slow, folder):
    slow(speed)
    words = [*WORDS, "--data_root", str(folder), *words]
    plan = plan_of(words)
    assert TimeEstimate([]).of_plan(plan) > DAYS
    said = warning_of_days([plan], words)
    command = shlex.split(said.splitlines()[-1])
    assert command[:2] == ["python", "run.py"]
    assert changed <= {word for word in command if word.startswith("--")}
    offered = plan_of(command[2:])
    assert 0 < TimeEstimate([]).of_plan(offered) <= HOURS * 1.01
    assert offered.directory != plan.directory


def test_hours_are_not_warned_of(slow, folder):
    slow(1e9)
    words = [*WORDS, "--data_root", str(folder), "--backbone", "vit_t16", "--image_size", "32", "--epochs", "1"]
    assert warning_of_days([plan_of(words)], words) == ""


def test_a_dry_run_tells_the_time(small, tmp_path, capsys):
    config, own = small(tmp_path / "run", "barlow_twins")
    words = words_of({k: v for k, v in {**vars(config), **vars(own)}.items() if not isinstance(v, bool)})
    assert command_line.main([*words, "--dry_run"]) == 0
    assert re.search(r"^training, estimated: \d+ s \(from counted operations, ", capsys.readouterr().out, re.M)


def test_a_training_of_days_is_warned_of_before_it_begins(slow, small, tmp_path, monkeypatch, capsys):
    slow(1e2)
    monkeypatch.setattr("training.trainer.train", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
    config, own = small(tmp_path / "run", "barlow_twins")
    words = words_of({k: v for k, v in {**vars(config), **vars(own)}.items() if not isinstance(v, bool)})
    assert command_line.main(words) == 130
    assert "warning: this training would take about" in capsys.readouterr().err


def test_a_grid_of_days_is_warned_of_with_one_of_hours(slow, folder, tmp_path, capsys):
    slow(1e6)
    words = [*GRID, "--data_root", str(folder)]
    assert command_line.main(["compare", *words, "--out", str(tmp_path / "grid"), "--dry_run"]) == 0
    output = capsys.readouterr()
    said = output.out + output.err
    assert "warning: these 2 trainings would take about" in said
    command = shlex.split(next(line for line in said.splitlines() if line.startswith("  python run.py compare")))
    assert command[command.index("--out") + 1] == str(tmp_path / "grid-short")
    capsys.readouterr()
    assert command_line.main([*command[2:], "--dry_run"]) == 0
    assert "warning: these" not in capsys.readouterr().out
    assert "--dry_run" not in command


def test_a_grid_with_a_budget_lasts_as_long_as_that(slow, folder, tmp_path, capsys):
    slow(1e6)
    words = ["compare", *GRID, "--data_root", str(folder), "--out", str(tmp_path / "grid"), "--dry_run"]
    for budget, warned in (("images=80", False), ("images=1e6", True), ("minutes=0.001", False)):
        assert command_line.main([*words, "--budget", budget]) == 0
        said = capsys.readouterr().out
        assert ("warning: these 2 trainings would take about" in said) == warned
        assert not warned or 5e3 < float(re.search(r"would take about (\S+) d on", said)[1]) < 2e4
