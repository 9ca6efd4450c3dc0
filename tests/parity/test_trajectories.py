"""Whole training runs through the trainer's own optimisation step, against the authors' code: given are the initial weights and
the crops, so that only the making of crops is left out."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from backbones.base import Backbone
from backbones.vit import VisionTransformer
from methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from methods.core.base import Progress, ViewBatch
from methods.dino import DINO, DINOConfig
from training.config import TrainConfig
from training.resolve import resolve
from training.step import Stepper

CPU = torch.device("cpu")


def state_of(arrays, prefix):
    return {name.removeprefix(prefix): torch.tensor(value) for name, value in arrays.items() if name.startswith(prefix)}


def worst_error(golden_error, module, arrays, prefix):
    """Largest error over all arrays under ``prefix``; both must have the same names."""
    ours = {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    reference = {
        name.removeprefix(prefix): value
        for name, value in arrays.items()
        if name.startswith(prefix) and not name.endswith("num_batches_tracked")
    }
    assert ours.keys() == reference.keys()
    return max(golden_error(ours[name], reference[name]) for name in reference)


def numbers_in(words):
    """``{"patch": 8, "image": 32}`` of "patch 8, image 32"."""
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", words)}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_dino(optimizer, golden, golden_error, warmup_of, end_of):
    arrays = golden(f"dino_trajectory_{optimizer}")
    meta = json.loads(str(arrays["meta"]))
    vit, head = numbers_in(meta["vit"]), numbers_in(meta["head"])
    crops = len([name for name in arrays if name.startswith("crop_0_")])
    steps_per_epoch, steps = meta["iterations_per_epoch"], len(arrays["losses"])
    method_config = DINOConfig(
        out_dim=head["out"],
        hidden_dim=head["hidden"],
        bottleneck_dim=head["bottleneck"],
        head_layers=int(re.search(r"(\d+) layers", meta["head"])[1]),
        local_crops=crops - 2,
        drop_path=0.0,
        norm_last_layer=meta["norm_last_layer"],
        momentum_teacher=float(arrays["momentum"][0]),
        student_temp=meta["student_temp"],
        warmup_teacher_temp=meta["warmup_teacher_temp"],
        teacher_temp=meta["teacher_temp"],
        warmup_teacher_temp_epochs=meta["warmup_teacher_temp_epochs"],
        center_momentum=meta["center_momentum"],
        freeze_last_layer=meta["freeze_last_layer_epochs"],
    )
    peak, warmup = float(arrays["lr"].max()), warmup_of(arrays["lr"])
    config = TrainConfig(
        optimizer=optimizer,
        epochs=meta["epochs"],
        batch_size=meta["batch"],
        lr=peak * 256 / meta["batch"],
        warmup_epochs=warmup / steps_per_epoch,
        min_lr=end_of(arrays["lr"], warmup),
        weight_decay=float(arrays["wd"][0]),
        weight_decay_end=end_of(arrays["wd"]),
        clip_grad=meta["clip_grad_per_parameter"],
        precision="fp32",
    )
    method = DINO(
        method_config,
        lambda **hints: VisionTransformer(
            vit["patch"], vit["dim"], vit["depth"], vit["heads"], position_size=vit["image"], **hints
        ),
        num_classes=0,
    )
    for network in (method.student, method.teacher):
        network.load_state_dict(state_of(arrays, "init/"))
    stepper = Stepper(method, resolve(config), CPU)
    method.train()
    losses = []
    for step in range(steps):
        progress = Progress(step, steps_per_epoch, meta["epochs"])
        lr, decay = stepper.rates(progress)
        assert abs(lr - arrays["lr"][step]) < 1e-9
        assert abs(decay - arrays["wd"][step]) < 1e-9
        views = [torch.tensor(arrays[f"crop_{step}_{view}"]).float() for view in range(crops)]
        losses.append(stepper.step([ViewBatch(views, torch.full((len(views[0]),), -1))], progress)[0])
    assert golden_error(torch.stack(losses), arrays["losses"]) < 1e-4
    assert worst_error(golden_error, method.student, arrays, "student/") < 1e-3
    assert worst_error(golden_error, method.teacher, arrays, "teacher/") < 1e-3
    assert golden_error(method.loss.center.flatten(), arrays["center"].flatten()) < 1e-3


class SmallCNN(Backbone):
    """The backbone that barlow_trajectory describes."""

    def __init__(self, hidden, width):
        super().__init__()
        self.width = width
        self.c, self.b = nn.Conv2d(3, hidden, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.c2, self.b2 = nn.Conv2d(hidden, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, images):
        return self.b2(self.c2(self.b(self.c(images)).relu())).relu().mean((2, 3))


def test_barlow_twins(golden, golden_error):
    arrays = golden("barlow_trajectory")
    meta = json.loads(str(arrays["meta"]))
    config = TrainConfig(
        **BarlowTwins.recipe
        | {
            "epochs": meta["epochs"],
            "batch_size": meta["batch"],
            "lr": meta["lr_weights"],
            "warmup_epochs": meta["warmup_epochs"],
            "weight_decay": meta["weight_decay"],
            "momentum": meta["momentum"],
            "precision": "fp32",
        }
    )
    method_config = BarlowTwinsConfig(
        projector=meta["projector"], lambd=meta["lambd"], bias_lr_scale=meta["lr_biases"] / meta["lr_weights"]
    )
    init = state_of(arrays, "init/")
    width, hidden = init["backbone.c2.weight"].shape[:2]
    method = BarlowTwins(method_config, lambda **hints: SmallCNN(hidden, width), num_classes=0)
    method.load_state_dict(init)
    stepper = Stepper(method, resolve(config), CPU)
    method.train()
    losses = []
    for step in range(len(arrays["losses"])):
        views = [torch.tensor(arrays[f"y{view}_{step}"]).float() for view in (1, 2)]
        progress = Progress(step, meta["steps_per_epoch"], meta["epochs"])
        losses.append(stepper.step([ViewBatch(views, torch.full((len(views[0]),), -1))], progress)[0])
        rates = [group["lr"] for group in stepper.optimizer.param_groups]
        assert np.abs(rates - arrays["lr_weights_biases"][step]).max() < 1e-9
    assert golden_error(torch.stack(losses), arrays["losses"]) < 1e-4
    assert worst_error(golden_error, method, arrays, "final/") < 1e-3
