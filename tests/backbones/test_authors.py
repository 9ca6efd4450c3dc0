"""Checkpoints in the authors' layouts: their keys and shapes, and back to the same state."""

import argparse
import json

import numpy as np
import pytest
import torch

from backbones import build_backbone
from backbones.base import Backbone
from backbones.formats.authors import barlow_twins_checkpoint, dino_checkpoint, method_state
from backbones.formats.source import Source
from backbones.formats.weights import read_weights
from backbones.vit import VisionTransformer
from commands.export import ExportCommand, export
from common.errors import UsageError, UserError
from methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from methods.core.base import METHODS
from methods.dino import DINO, DINOConfig
from training.config import TrainConfig
from training.optimizers import build_optimizer
from training.resolve import options_of, resolve


def golden(name, *prefixes):
    with np.load(f"tests/golden/{name}.npz") as file:
        found = {prefix: {k: torch.tensor(file[k]) for k in file.files if k.startswith(prefix)} for prefix in prefixes}
        meta = json.loads(str(file["meta"]))
    return [{k.removeprefix(prefix): v for k, v in part.items()} for prefix, part in found.items()], meta


def state_of(method, config, method_config, name, step=24, per_epoch=8):
    """As a run's checkpoint has it, after one step of the optimiser."""
    config = resolve(config)
    optimizer = build_optimizer(config.optimizer, method.parameter_groups(), config.momentum)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "method": method.state_dict(),
        "backbone_prefix": "teacher.backbone." if isinstance(method, DINO) else "backbone.",
        "optimizer": optimizer.state_dict(),
        "config": options_of(config, method_config, {}),
        "backbone_name": name,
        "image_size": 32,
        "step": step,
        "steps_per_epoch": per_epoch,
        "scaler": {"scale": 65536.0},
    }


def shapes(state):
    return [(name, tuple(value.shape)) for name, value in state.items()]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_dino_checkpoint_has_the_names_and_shapes_of_the_authors(optimizer):
    (student, teacher), meta = golden(f"dino_trajectory_{optimizer}", "student/", "teacher/")
    own = DINOConfig(
        out_dim=128, hidden_dim=64, bottleneck_dim=32, drop_path=0.0, norm_last_layer=meta["norm_last_layer"]
    )
    method = DINO(own, lambda **h: VisionTransformer(8, position_size=32, width=48, depth=3, heads=3, **h), 0)
    method.student.load_state_dict(student)
    method.teacher.load_state_dict(teacher)
    state = state_of(method, TrainConfig(optimizer=optimizer), own, "vit_s8")
    state["config"]["precision"] = "fp16"
    method.student.load_state_dict(student)  # the step changed it

    checkpoint = dino_checkpoint({**state, "method": method.state_dict()})
    assert list(checkpoint) == ["student", "teacher", "optimizer", "epoch", "args", "dino_loss", "fp16_scaler"]
    assert shapes(checkpoint["student"]) == [(f"module.{name}", shape) for name, shape in shapes(student)]
    assert shapes(checkpoint["teacher"]) == shapes(teacher)
    assert all(torch.equal(checkpoint["student"][f"module.{name}"], value) for name, value in student.items())
    assert shapes(checkpoint["dino_loss"]) == [("center", (1, 128))]
    assert checkpoint["epoch"] == 3
    arguments = checkpoint["args"]
    assert (arguments.arch, arguments.patch_size, arguments.out_dim, arguments.use_fp16) == ("vit_small", 8, 128, True)

    back = method_state(checkpoint)
    assert back.keys() == method.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in method.state_dict().items())

    # The authors' optimiser has these groups (dino/utils.py, get_params_groups), in this order.
    trained = [(n, p) for n, p in method.student.named_parameters() if p.requires_grad]
    groups = [[p for n, p in trained if not (n.endswith(".bias") or p.ndim == 1)]]
    groups.append([p for n, p in trained if n.endswith(".bias") or p.ndim == 1])
    theirs = [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]
    if optimizer == "lars":
        assert all(group["lars_adaptation_filter"] is None for group in checkpoint["optimizer"]["param_groups"])
        return
    restored = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer](theirs, lr=0.1)
    restored.load_state_dict(checkpoint["optimizer"])
    moment = {"adamw": "exp_avg", "sgd": "momentum_buffer"}[optimizer]
    assert all(restored.state[p][moment].shape == p.shape for group in groups for p in group)
    assert "lr_scale" not in restored.param_groups[0]


def test_a_teacher_with_batchnorm_is_wrapped():
    own = DINOConfig(out_dim=16, hidden_dim=8, bottleneck_dim=4)
    method = DINO(own, lambda **hints: build_backbone("resnet18", 32), 0)
    checkpoint = dino_checkpoint(state_of(method, TrainConfig(), own, "resnet18"))
    assert all(name.startswith("module.") for name in checkpoint["teacher"])
    assert checkpoint["args"].arch == "resnet18"
    assert "fp16_scaler" not in checkpoint
    assert method_state(checkpoint).keys() == method.state_dict().keys()


class SmallCNN(Backbone):
    """The backbone that tests/golden's barlow_trajectory describes."""

    width = 32

    def __init__(self):
        super().__init__()
        self.c, self.b = torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.BatchNorm2d(16)
        self.c2, self.b2 = torch.nn.Conv2d(16, 32, 3, bias=False), torch.nn.BatchNorm2d(32)


def test_barlow_twins_checkpoint_has_the_names_and_shapes_of_the_authors():
    (final,), meta = golden("barlow_trajectory", "final/")
    own = BarlowTwinsConfig(projector=meta["projector"])
    method = BarlowTwins(own, lambda **hints: SmallCNN(), 0)
    state = state_of(method, TrainConfig(method="barlow_twins", **BarlowTwins.recipe), own, "resnet50")
    method.load_state_dict(final)
    checkpoint = barlow_twins_checkpoint({**state, "method": method.state_dict()})
    assert list(checkpoint) == ["epoch", "model", "optimizer"]
    assert shapes(checkpoint["model"]) == [(f"module.{name}", shape) for name, shape in shapes(final)]
    assert checkpoint["epoch"] == 3
    matrices, vectors = checkpoint["optimizer"]["param_groups"]
    assert len(matrices["params"]) == sum(p.ndim != 1 for p in method.parameters())
    assert len(vectors["params"]) == sum(p.ndim == 1 for p in method.parameters())
    assert matrices["weight_decay_filter"] is True
    back = method_state(checkpoint)
    assert all(torch.equal(back[name], value) for name, value in final.items())


@pytest.mark.parametrize(
    ("method", "options", "convert", "message"),
    [
        ("simclr", {}, dino_checkpoint, "dino_full: a run of simclr, not of dino or weak_dino"),
        ("dino", {"predictor": True}, dino_checkpoint, "dino_full: the run has a predictor"),
        ("dino", {}, barlow_twins_checkpoint, "barlow_twins_full: a run of dino with loss, student, teacher"),
        (
            "barlow_twins",
            {"normalization": "none"},
            barlow_twins_checkpoint,
            "with backbone, projector; the authors' layout",
        ),
        ("barlow_twins", {"bn_in_projector": False}, barlow_twins_checkpoint, "a projector with BatchNorm"),
    ],
)
def test_runs_that_the_authors_layouts_have_no_place_for(small, tmp_path, method, options, convert, message):
    config, own = small(tmp_path, method, **options)
    network = METHODS.get(method)(own, lambda **hints: build_backbone("small_vit", 16), 2)
    with pytest.raises(UsageError, match=message):
        convert(state_of(network, config, own, "vit_s16"))


def test_others_files_hold_no_whole_state():
    assert method_state({"a.weight": torch.zeros(1)}) is None
    assert method_state({"model": {"module.conv1.weight": torch.zeros(1)}, "epoch": 1}) is None


@pytest.fixture
def run(tmp_path):
    """A checkpoint of a run of DINO with a ViT-T/16, and of Barlow Twins with a ResNet-18."""

    def make(kind):
        torch.manual_seed(0)
        if kind == "dino":
            own, name = DINOConfig(out_dim=16, hidden_dim=8, bottleneck_dim=4), "vit_t16"
            method, config = DINO(own, lambda **hints: build_backbone(name, 32, **hints), 0), TrainConfig(backbone=name)
        else:
            own, name = BarlowTwinsConfig(projector="8-8"), "resnet18"
            method = BarlowTwins(own, lambda **hints: build_backbone(name, 32, **hints), 0)
            config = TrainConfig(method=kind, backbone=name, **BarlowTwins.recipe)
        state = state_of(method, config, own, name)
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        torch.save(state, tmp_path / "run" / "checkpoints" / "last.pt")
        return method

    return make


def test_export_of_a_whole_dino_run(run, tmp_path):
    method = run("dino")
    command = ExportCommand(weights=str(tmp_path / "run"), format="dino_full", out=str(tmp_path / "checkpoint.pth"))
    written = export(command)
    assert written.difference == 0
    content = read_weights(tmp_path / "checkpoint.pth")
    assert isinstance(content["args"], argparse.Namespace)
    for key, network in (("student", method.student), ("teacher", method.teacher)):
        backbone = build_backbone("vit_t16", 32)
        Source(tmp_path / "checkpoint.pth").load_into(backbone, "vit_t16", key)
        assert torch.equal(backbone.pos_embed, network.backbone.pos_embed)


def test_export_of_a_whole_barlow_twins_run_and_its_backbone(run, tmp_path):
    run("barlow_twins")
    for kind in ("barlow_twins_full", "barlow_twins"):
        command = ExportCommand(weights=str(tmp_path / "run"), format=kind, out=str(tmp_path / f"{kind}.pth"))
        assert export(command).difference < 1e-5
    full, alone = (build_backbone("resnet18", 32) for _ in range(2))
    Source(tmp_path / "barlow_twins_full.pth").load_into(full, "resnet18")
    Source(tmp_path / "barlow_twins.pth").load_into(alone, "resnet18")
    assert torch.equal(full.conv1.weight, alone.conv1.weight)


def test_export_says_what_is_wrong(run, tmp_path):
    run("dino")
    weights, out = str(tmp_path / "run"), str(tmp_path / "x.pth")
    torch.save(build_backbone("vit_t16").state_dict(), tmp_path / "vit.pth")
    for options, message in (
        ({"weights": weights}, "give --weights and --out"),
        (
            {"weights": str(tmp_path / "vit.pth"), "out": out},
            "--backbone is needed, since .*vit.pth does not name its own",
        ),
        ({"weights": weights, "out": out, "format": "barlow_twins_full"}, "there is no vit_t16 in that layout"),
        (
            {"weights": str(tmp_path / "vit.pth"), "backbone": "vit_t16", "out": out, "format": "dino_full"},
            "is no run of this",
        ),
        ({"weights": weights, "backbone": "vit_s16", "out": out}, "weights of vit_t16, not of vit_s16"),
        ({"weights": str(tmp_path / "nothing"), "out": out}, "no such weights file"),
    ):
        with pytest.raises(UserError, match=message):
            export(ExportCommand(**options))
    assert not (tmp_path / "x.pth").exists()


def test_command_line(run, tmp_path, capsys, monkeypatch):
    import run as program

    run("dino")
    out = tmp_path / "vit.pth"
    assert program.main(["export", "--weights", str(tmp_path / "run"), "--key", "student", "--out", str(out)]) == 0
    assert "written, and read back by a new vit_t16" in capsys.readouterr().out
    assert program.main(["export", "--weights", str(tmp_path / "run"), "--format", "onyx", "--out", str(out)]) == 2
    assert "invalid choice" in capsys.readouterr().err
