"""Pictures while a network trains: when they are drawn, what they leave alone, and who gets them."""

import signal
import sys
import time
import types

import numpy as np
import pytest
import torch
from PIL import Image

from commands.train import train
from common.errors import UserError
from reports import over_training
from rundir.paths import last_checkpoint
from tests.training.test_trainer import StopAt, assert_equal_states, records_of, untimed
from training.checkpoint import load_checkpoint
from training.logging import RunLog


class Recorder:
    """In place of ``TrainingPictures``: notes when it draws, and what it is told to do then."""

    def __init__(self):
        self.drawn, self.act = [], lambda step: None

    def __call__(self, plan, method, diagnose):
        return self

    def draw(self, step, epoch):
        self.act(step)
        self.drawn.append((step, epoch))
        return {}

    def has_drawn(self, step):
        return step in [drawn for drawn, _ in self.drawn]


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(over_training, "TrainingPictures", recorder)
    return recorder


@pytest.mark.slow
@pytest.mark.parametrize(("method", "backbone"), [("weak_dino", "small_vit"), ("barlow_twins", "resnet18_cifar")])
def test_pictures_change_no_number(method, backbone, small, tmp_path, monkeypatch):
    monkeypatch.setattr(over_training, "COUNT", 1)
    options = {"backbone": backbone, "epochs": 1, "knn_every": 0}
    plain = train(*small(tmp_path / "plain", method, **options))
    drawn = train(*small(tmp_path / "drawn", method, **options, pictures_every=1))
    assert_equal_states(load_checkpoint(last_checkpoint(plain)), load_checkpoint(last_checkpoint(drawn)))
    assert untimed(records_of(plain)) == untimed(records_of(drawn))
    names = {"receptive_field", "crops", "cross_correlation"} | ({"attention-1"} if backbone == "small_vit" else set())
    steps = load_checkpoint(last_checkpoint(plain))["step"]
    files = {file.name for file in (drawn / "figures" / "training").iterdir()}
    assert files == {f"{name}-step-{step:07}.png" for name in names for step in (0, steps)}
    assert not (plain / "figures" / "training").exists()


def test_they_are_drawn_once_each_also_by_a_run_that_was_stopped(recorder, small, tmp_path, monkeypatch):
    options = {"pictures_every": 2, "epochs": 3, "knn_every": 0}
    train(*small(tmp_path / "whole", **options))
    per_epoch = records_of(tmp_path / "whole", "start")[0]["steps_per_epoch"]
    expected = [(0, 0), (2 * per_epoch, 2), (3 * per_epoch, 3)]
    assert recorder.drawn == expected
    recorder.drawn.clear()
    with monkeypatch.context() as patch:
        StopAt(patch, "dino", step=2 * per_epoch - 1)  # stopped after the step that pictures are due at
        with pytest.raises(SystemExit) as stop:
            train(*small(tmp_path / "parts", **options))
    assert stop.value.code == 128 + signal.SIGTERM
    train(*small(tmp_path / "parts", **options))
    assert recorder.drawn == expected


def test_their_time_is_not_trainings_and_their_failure_stops_nothing(recorder, small, tmp_path, monkeypatch, capsys):
    late = [0.0]
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])

    def fail(step):
        late[0] += 1e6
        raise OSError(28, "No space left on device") if step else UserError("nothing to look at")

    recorder.act = fail
    run = train(*small(tmp_path / "run", pictures_every=1, epochs=1, knn_every=0))
    assert records_of(run, "end")[0]["minutes"] < 1e5 / 60
    said = capsys.readouterr().err
    assert "pictures of epoch 0 could not be drawn: nothing to look at" in said
    assert "pictures of epoch 1 could not be drawn: No space left on device" in said


def test_the_loggers_get_them(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = []
    begun = types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)
    fake = types.SimpleNamespace(init=lambda **options: begun, Image=lambda path: ("image", path))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "crops.png")
    with RunLog(tmp_path, {}, 10, tensorboard=True, wandb=True) as log:
        log.show(7, {"crops": tmp_path / "crops.png"})
    assert logged == [(7, {"pictures/crops": ("image", str(tmp_path / "crops.png"))})]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (image,) = events.Images("pictures/crops")
    assert (image.step, image.height, image.width) == (7, 6, 9)


def test_the_network_is_a_copy_in_evaluation_mode(small, tmp_path):
    """Drawn twice in the middle of a training: the same pixels, and the method's modes, weights and buffers are as before."""
    from eval.core.online import Monitor
    from training.plan import make_plan

    plan = make_plan(*small(tmp_path, "barlow_twins", backbone="resnet18_cifar", knn_every=0))
    method = plan.build_method().train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    pictures = over_training.TrainingPictures(plan, method, Monitor(plan, method).diagnose)
    first = {what: path.read_bytes() for what, path in pictures.draw(3, 0.6).items()}
    assert pictures.has_drawn(3) and not pictures.has_drawn(4)
    assert first == {what: path.read_bytes() for what, path in pictures.draw(3, 0.6).items()}
    assert set(first) == {"receptive_field", "crops", "cross_correlation"}
    assert all(module.training for module in method.modules())
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())


def test_receptive_fields_of_diverged_weights_are_left_out_with_the_reason(small, tmp_path, capsys):
    from training.plan import make_plan

    plan = make_plan(*small(tmp_path, "dino", knn_every=0))
    method = plan.build_method()
    with torch.no_grad():
        next(method.backbone.parameters()).fill_(torch.nan)
    drawn = over_training.TrainingPictures(plan, method, lambda: ({}, None)).draw(3, 0.6)
    assert "receptive_field" not in drawn and "crops" in drawn
    assert "pictures: no receptive_field: " in (said := capsys.readouterr().err) and "not finite" in said
