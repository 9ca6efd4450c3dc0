"""A directory in which no step was taken is free: for the corrected command, and for any other."""

import os
import signal

import pytest
import yaml

import run as command_line
from commands.train import train
from common.errors import UserError
from rundir.log import holds_work
from rundir.paths import last_checkpoint
from training.checkpoint import load_checkpoint
from training.step import Stepper


def edit(run, change) -> None:
    """Change a run's ``config.yaml``."""
    file = run / "config.yaml"
    options = yaml.safe_load(file.read_text())
    change(options)
    file.write_text(yaml.safe_dump(options))


@pytest.fixture
def stopped(small, tmp_path, monkeypatch):
    """``stopped(step, **options)``: a run directory in which so many steps were taken."""

    def make(steps: int, **options):
        config, own = small(tmp_path / "run", "barlow_twins", knn_every=0, **options)
        with monkeypatch.context() as patch:
            if steps:
                step = Stepper.step

                def and_signal(self, batches, progress):
                    if progress.step == steps - 1:
                        os.kill(os.getpid(), signal.SIGTERM)
                    return step(self, batches, progress)

                patch.setattr(Stepper, "step", and_signal)
            else:
                patch.setattr(Stepper, "step", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt if not steps else SystemExit):
                train(config, own)
        return tmp_path / "run"

    return make


def test_a_refused_start_leaves_the_directory_to_the_corrected_command(small, tmp_path):
    with pytest.raises(UserError, match="fewer than one batch"):
        train(*small(tmp_path / "run", "barlow_twins", batch_size=64, knn_every=0))
    run = train(*small(tmp_path / "run", "barlow_twins", epochs=1, knn_every=0))
    assert load_checkpoint(last_checkpoint(run))["step"] == 5


def test_a_start_without_a_step_leaves_it_to_any_command(stopped, small, tmp_path):
    """Its checkpoint is of untrained weights of another seed and width, which must not be taken for this run's."""
    run = stopped(0)
    assert last_checkpoint(run).exists() and not holds_work(run)
    train(*small(run, "barlow_twins", epochs=1, knn_every=0, seed=5, projector="32-8"))
    other = train(*small(tmp_path / "other", "barlow_twins", epochs=1, knn_every=0, seed=5, projector="32-8"))
    states = [load_checkpoint(last_checkpoint(r))["method"] for r in (run, other)]
    assert all(bool((states[0][name] == value).all()) for name, value in states[1].items())


def test_the_same_command_keeps_what_was_measured_before_the_first_step(stopped, small, capsys):
    run = stopped(0)
    train(*small(run, "barlow_twins", knn_every=0))
    assert "continuing after step 0 of" in capsys.readouterr().err


def test_one_step_is_work(stopped, small):
    run = stopped(1)
    assert holds_work(run)
    with pytest.raises(UserError, match=r"holds a run with other options \(seed was 0, now 5\)"):
        train(*small(run, "barlow_twins", knn_every=0, seed=5))


def test_a_run_goes_on_after_the_toolkit_has_got_an_option(stopped, small):
    run = stopped(2)
    edit(run, lambda options: [options.pop(name) for name in ("clip_mode", "warmup_epochs", "lambd", "precision")])
    train(*small(run, "barlow_twins", knn_every=0))


@pytest.mark.parametrize(("option", "value"), [("clip_mode", "global"), ("lambd", 0.1)])
def test_but_not_with_another_value_than_its_default(option, value, stopped, small):
    run = stopped(2, **{option: value})
    edit(run, lambda options: options.pop(option))
    with pytest.raises(UserError, match=f"{option} was .*, now {value}"):
        train(*small(run, "barlow_twins", knn_every=0, **{option: value}))


def test_an_evaluations_directory_is_none_of_a_training(stopped, small, tmp_path):
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    (run / "results" / "knn.json").write_text("[]")
    (run / "config.yaml").write_text("weights: x\nbackbone: small_vit\n")
    with pytest.raises(UserError, match="holds the results of an evaluation"):
        train(*small(run, "barlow_twins", knn_every=0))


def test_a_refused_evaluation_leaves_its_directory_too(folder, tmp_path, capsys):
    words = ["evaluate", "--data", "imagefolder", "--data_root", str(folder), "--image_size", "16", "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--evals", "knn", "--knn_ks"]
    assert command_line.main([*words, "500", "--backbone", "vit_nano"]) == 1
    assert "the bank has only" in capsys.readouterr().err
    assert command_line.main([*words, "5", "--backbone", "pixels"]) == 0
