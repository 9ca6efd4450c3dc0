"""Checkpoints as other people's programs leave them: which network is found, or what the error says."""

import argparse
import pathlib

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from backbones import build_backbone
from backbones.formats.source import Source
from backbones.formats.weights import fitting_backbone, read_weights
from common.errors import UserError
from tests.backbones.test_weights import assert_equal, prefixed, tiny_vit


@pytest.fixture(scope="module")
def nets():
    """Three tiny ViTs with different tensors, and ResNet-18s by name."""
    torch.manual_seed(5)
    resnets = {name: torchvision.models.resnet18() for name in "ab"}
    return {"teacher": tiny_vit(1), "student": tiny_vit(2), "other": tiny_vit(3), **resnets}


def chunked(prefix, vit):
    """DINOv2's blocks in chunks, numbered on: blocks.CHUNK.NUMBER."""
    return {
        name.replace("blocks.1.", "blocks.1.1.").replace("blocks.0.", "blocks.0.0."): value
        for name, value in prefixed(prefix, vit).items()
    }


def head():
    return {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_g": torch.zeros(3, 1)}


#: What a file holds, ``--key``, and whose tensors are found, under which name.
FILES = {
    "bare": (lambda n: n["teacher"].state_dict(), None, "teacher", ""),
    "ddp": (lambda n: prefixed("module.", n["teacher"]), None, "teacher", ""),
    "compiled": (lambda n: prefixed("_orig_mod.", n["teacher"]), None, "teacher", ""),
    "compiled ddp": (lambda n: prefixed("module._orig_mod.", n["teacher"]), None, "teacher", ""),
    "ddp compiled": (lambda n: prefixed("_orig_mod.module.", n["teacher"]), None, "teacher", ""),
    "compiled blocks": (
        lambda n: {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in n["teacher"].state_dict().items()},
        None,
        "teacher",
        "",
    ),
    "fsdp blocks": (
        lambda n: {
            k.replace("blocks.1.", "blocks.1._fsdp_wrapped_module."): v for k, v in n["teacher"].state_dict().items()
        },
        None,
        "teacher",
        "",
    ),
    "model prefix": (lambda n: prefixed("model.", n["teacher"]), None, "teacher", "model"),
    "encoder prefix": (lambda n: prefixed("module.encoder.", n["teacher"]) | head(), None, "teacher", "encoder"),
    "state_dict": (lambda n: {"state_dict": n["teacher"].state_dict(), "epoch": 3}, None, "teacher", "state_dict"),
    "state_dict with prefix": (
        lambda n: {"state_dict": prefixed("module.model.", n["teacher"])},
        None,
        "teacher",
        "state_dict.model",
    ),
    "entry in an entry": (
        lambda n: {"checkpoint": {"model": {"state_dict": prefixed("backbone.", n["teacher"])}}, "step": 3},
        None,
        "teacher",
        "checkpoint.model.state_dict",
    ),
    "dino": (
        lambda n: {
            "student": prefixed("module.backbone.", n["student"]) | head(),
            "teacher": prefixed("backbone.", n["teacher"]) | head(),
            "args": argparse.Namespace(arch="vit_small"),
        },
        None,
        "teacher",
        "teacher",
    ),
    "dinov2": (
        lambda n: {
            "model": prefixed("teacher.backbone.", n["teacher"]) | prefixed("student.backbone.", n["student"]),
            "iteration": 10,
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        },
        None,
        "teacher",
        "model.teacher",
    ),
    "dinov2 student": (
        lambda n: {"model": prefixed("teacher.backbone.", n["teacher"]) | prefixed("student.backbone.", n["student"])},
        "student",
        "student",
        "model.student",
    ),
    "dinov2 chunks": (
        lambda n: {"model": chunked("teacher.backbone.", n["teacher"])},
        "teacher",
        "teacher",
        "model.teacher",
    ),
    "dinov2 eval": (lambda n: {"teacher": prefixed("backbone.", n["teacher"])}, "teacher", "teacher", "teacher"),
    "lightning": (
        lambda n: {
            "state_dict": prefixed("teacher_backbone.", n["teacher"])
            | prefixed("student_backbone.", n["student"])
            | head(),
            "hyper_parameters": {"data": pathlib.PosixPath("/data"), "lr": np.float64(0.1)},
            "pytorch-lightning_version": "2.5",
        },
        None,
        "teacher",
        "state_dict.teacher_backbone",
    ),
    "lightning student": (
        lambda n: {
            "state_dict": prefixed("teacher_backbone.", n["teacher"]) | prefixed("student_backbone.", n["student"])
        },
        "student",
        "student",
        "state_dict.student_backbone",
    ),
    "lightning backbone": (
        lambda n: {"state_dict": prefixed("backbone.", n["teacher"]) | head(), "callbacks": {"x": {"best": 0.1}}},
        None,
        "teacher",
        "state_dict",
    ),
    "timm with ema": (
        lambda n: {"state_dict": n["teacher"].state_dict(), "state_dict_ema": n["student"].state_dict()},
        None,
        "teacher",
        "state_dict",
    ),
    "timm's ema": (
        lambda n: {"state_dict": n["teacher"].state_dict(), "state_dict_ema": n["student"].state_dict()},
        "state_dict_ema",
        "student",
        "state_dict_ema",
    ),
    "only an ema": (lambda n: {"ema": {"module": n["teacher"].state_dict()}, "epoch": 1}, None, "teacher", "ema"),
    "model and model_ema": (
        lambda n: {"model": n["teacher"].state_dict(), "model_ema": n["student"].state_dict()},
        "model",
        "teacher",
        "model",
    ),
    "moco": (
        lambda n: {
            "state_dict": prefixed("module.base_encoder.", n["teacher"])
            | prefixed("module.momentum_encoder.", n["other"])
        },
        "base_encoder",
        "teacher",
        "state_dict.base_encoder",
    ),
    "key of several parts": (
        lambda n: {"nets": {"a": n["teacher"].state_dict(), "b": n["student"].state_dict()}},
        "nets.b",
        "student",
        "nets.b",
    ),
    "resnet, sequential": (lambda n: nn.Sequential(*list(n["a"].children())[:-1]).state_dict(), None, "a", ""),
    "resnet, sequential in lightning": (
        lambda n: {"state_dict": prefixed("backbone.", nn.Sequential(*list(n["a"].children())[:-1])) | head()},
        None,
        "a",
        "state_dict",
    ),
    "resnet, whole modules": (lambda n: {"model": n["a"], "epoch": 3}, None, "a", "model"),
    "resnet, the module alone": (lambda n: n["b"], None, "b", ""),
    "resnet in mmcv": (
        lambda n: {"state_dict": prefixed("backbone.", n["a"]), "meta": {"epoch": 3}},
        None,
        "a",
        "state_dict",
    ),
    "resnet in vissl": (
        lambda n: {"classy_state_dict": {"base_model": {"model": {"trunk": prefixed("_feature_blocks.", n["a"])}}}},
        None,
        "a",
        "classy_state_dict.base_model.model.trunk._feature_blocks",
    ),
}


@pytest.mark.parametrize("file", FILES)
def test_the_network_is_found(tmp_path, nets, file):
    content, key, expected, name = FILES[file]
    torch.save(content(nets), tmp_path / "file.pth")
    resnet = expected in "ab"
    backbone = build_backbone("resnet18") if resnet else tiny_vit(9)
    report = Source(tmp_path / "file.pth").load_into(backbone, "resnet18" if resnet else "tiny", key)
    wanted = {k: v for k, v in nets[expected].state_dict().items() if not k.startswith("fc.")}
    assert all(torch.equal(backbone.state_dict()[k], v) for k, v in wanted.items())
    assert report.matched == report.total
    assert report.note.partition("; ")[0].partition("left out")[0] == name


#: What a file holds, ``--key``, and what the error says.
WRONG = {
    "several": (
        lambda n: {"a": n["teacher"].state_dict(), "b": n["student"].state_dict()},
        None,
        r"several networks fit tiny; choose one by --key \(networks: a, b\)",
    ),
    "moco": (
        lambda n: {"state_dict": prefixed("base_encoder.", n["teacher"]) | prefixed("momentum_encoder.", n["other"])},
        None,
        r"networks: state_dict.base_encoder, state_dict.momentum_encoder\)",
    ),
    "another key": (
        lambda n: {"model": prefixed("teacher.backbone.", n["teacher"]) | prefixed("student.backbone.", n["student"])},
        "predictor",
        r"no network under --key predictor; its networks: model.teacher, model.student",
    ),
    "a key of one network": (
        lambda n: n["teacher"].state_dict(),
        "teacher",
        "it holds one network, without a name, so leave --key out",
    ),
    "no network": (
        lambda n: {"optimizer": {"lr": 0.1}, "epoch": 3},
        None,
        r"no network is known in it \(its entries: optimizer, epoch",
    ),
    "another one": (
        lambda n: {"model": n["a"].state_dict()},
        None,
        r"not the weights of tiny.*it fits resnet18: give --backbone resnet18",
    ),
}


@pytest.mark.parametrize("file", WRONG)
def test_what_is_wrong_is_one_sentence(tmp_path, nets, file):
    content, key, message = WRONG[file]
    torch.save(content(nets), tmp_path / "file.pth")
    backbone, before = tiny_vit(9), tiny_vit(9)
    with pytest.raises(UserError, match=message) as caught:
        Source(tmp_path / "file.pth").load_into(backbone, "tiny", key)
    assert "\n" not in str(caught.value)
    assert_equal(backbone, before)


def test_every_network_that_an_error_lists_is_a_key(tmp_path, nets):
    torch.save(
        {"model": prefixed("teacher.backbone.", nets["teacher"]) | prefixed("net.student.", nets["student"])},
        tmp_path / "f.pth",
    )
    with pytest.raises(UserError) as caught:
        Source(tmp_path / "f.pth").load_into(tiny_vit(9), "tiny", "nothing")
    listed = str(caught.value).partition("its networks: ")[2].split(", ")
    assert listed == ["model.teacher", "model.net.student"]
    for key in listed:
        backbone = tiny_vit(9)
        Source(tmp_path / "f.pth").load_into(backbone, "tiny", key)
        assert_equal(backbone, nets[key.rpartition(".")[2]])


SHAPES = """vit_pico vit_nano vit_t16 vit_s8 resnet18 resnet18_cifar resnet50 timm:resnet34 timm:vit_tiny_patch16_384
timm:convnext_atto timm:vit_small_patch14_dinov2 timm:vit_small_patch14_reg4_dinov2"""


@pytest.mark.parametrize("name", SHAPES.split())
def test_the_backbone_is_read_off_its_shapes(name):
    with torch.device("meta"):
        backbone = build_backbone(name, 224)
    state = {f"model.{key}": torch.zeros(value.shape) for key, value in backbone.published.state_dict().items()}
    expected = {"timm:vit_tiny_patch16_384": "vit_t16"}.get(name, name)  # whose positions are interpolated
    assert fitting_backbone({"state_dict": state}) == expected


def test_a_file_of_another_depth_names_what_it_fits(tmp_path):
    torch.manual_seed(0)
    torch.save({"model": build_backbone("resnet50").state_dict()}, tmp_path / "r.pth")
    with pytest.raises(UserError, match=r"not the weights of resnet18: .*it fits resnet50: give --backbone resnet50"):
        Source(tmp_path / "r.pth").load_into(build_backbone("resnet18"), "resnet18")
    with pytest.raises(UserError, match=r"--backbone is needed, since .* does not name its own; it fits resnet50"):
        Source(tmp_path / "r.pth").backbone_name()


class Runs:
    def __reduce__(self):
        import os

        return os.mkdir, ("harmed",)


def test_objects_beside_the_weights_are_not_made(tmp_path, nets, monkeypatch):
    """Names of unknown modules get records; what could do harm is refused."""
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"w": nets["teacher"].state_dict(), "hyper_parameters": {"x": pathlib.PosixPath("a"), "loss": nn.MSELoss()}},
        "fine.pth",
    )
    assert type(read_weights(pathlib.Path("fine.pth"))["hyper_parameters"]["x"]).__module__ == "pathlib"
    assert isinstance(read_weights(pathlib.Path("fine.pth"))["hyper_parameters"]["x"], dict)
    torch.save({"w": nets["teacher"].state_dict(), "hyper_parameters": {"x": Runs()}}, "bad.pth")
    with pytest.raises(UserError, match=r"refused, because reading it could run code \(\w+.mkdir\)"):
        read_weights(pathlib.Path("bad.pth"))
    assert not (tmp_path / "harmed").exists()
