"""A backbone's weights in other programs' layouts: what is written is what they read, with the same features."""

import sys

import numpy as np
import pytest
import safetensors
import timm
import torch
import torchvision

from backbones import build_backbone
from backbones.formats import export
from backbones.formats.export import export_backbone, plain_state
from backbones.formats.source import Source
from backbones.vit import VisionTransformer
from common.errors import UsageError, UserError


def backbone_of(name, size=64):
    """With BatchNorm statistics unlike an untrained one's."""
    torch.manual_seed(1)
    backbone = build_backbone(name, size)
    for tensor_name, value in backbone.state_dict().items():
        if "running" in tensor_name or "pos_embed" in tensor_name:
            value.add_(0.1 * torch.rand_like(value))
    with torch.no_grad():
        assert backbone.eval()(torch.randn(1, 3, size, size)).std() > 0.01  # features that can differ
    return backbone


def test_dino_names_and_shapes_are_those_of_timms_vit(tmp_path):
    """timm's ViT-S/16 has the parameters that the authors' has, and a classifier."""
    written = export_backbone(backbone_of("vit_s16"), "vit_s16", "dino", tmp_path / "vit.pth", 64)
    assert written.difference == 0 and written.reader == "a new vit_s16"
    assert "features differ by 0.0e+00 of the largest at most (1e-04 is allowed)" in str(written)
    state = torch.load(tmp_path / "vit.pth", weights_only=True)
    theirs = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in theirs.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["vit.pth"]


def test_dino_layout_of_an_xcit(tmp_path):
    """The names of facebookresearch/xcit, which timm converts from."""
    name = "timm:xcit_nano_12_p16_224"
    backbone = backbone_of(name)
    written = export_backbone(backbone, name, "dino", tmp_path / "xcit.pth", 64)
    assert written.difference == 0
    state = torch.load(tmp_path / "xcit.pth", weights_only=True)
    assert state["cls_attn_blocks.1.attn.qkv.weight"].shape == (3 * 128, 128)
    assert state["cls_attn_blocks.1.attn.qkv.bias"].shape == (3 * 128,)
    assert state["pos_embeder.token_projection.weight"].shape[0] == 128
    renamed = {"pos_embed.token_projection.weight", "pos_embed.token_projection.bias"}
    split = {
        k for k in backbone.model.state_dict() if k.startswith("cls_attn_") and k.split(".")[-2] in ("q", "k", "v")
    }
    assert set(backbone.model.state_dict()) - set(state) == renamed | split
    again = timm.create_model("xcit_nano_12_p16_224", num_classes=0)
    again.load_state_dict(timm.models.xcit.checkpoint_filter_fn(state, again))
    assert all(torch.equal(again.state_dict()[k], value) for k, value in backbone.model.state_dict().items())


@pytest.mark.parametrize("patch_size", [16, 8])
def test_dino_layout_is_that_of_the_reference(patch_size, tmp_path):
    with np.load(f"tests/golden/vit_patch{patch_size}.npz") as golden:
        reference = {name[6:]: golden[name] for name in golden.files if name.startswith("param/")}
    model = VisionTransformer(patch_size, width=48, depth=3, heads=3)
    model.load_state_dict({name: torch.tensor(value) for name, value in reference.items()})
    torch.save(plain_state(model), tmp_path / "vit.pth")
    state = torch.load(tmp_path / "vit.pth", weights_only=True)
    assert list(state) == list(reference)
    assert all(np.array_equal(state[name].numpy(), reference[name]) for name in reference)


def test_torchvision(tmp_path):
    backbone = backbone_of("resnet18")
    written = export_backbone(backbone, "resnet18", "torchvision", tmp_path / "resnet18.pth", 64)
    assert written.reader == "torchvision's resnet18" and written.difference < 1e-5
    state = torch.load(tmp_path / "resnet18.pth", weights_only=True)
    theirs = torchvision.models.resnet18().state_dict()
    assert list(state) == [name for name in theirs if not name.startswith("fc.")]
    assert all(state[name].shape == theirs[name].shape and state[name].is_contiguous() for name in state)


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("vit_t16", "timm's vit_tiny_patch16_224"),
        ("resnet18", "timm's resnet18"),
        ("timm:convnext_atto", "a new timm:convnext_atto"),
    ],
)
def test_timm(tmp_path, name, reader):
    path = tmp_path / "model.safetensors"
    written = export_backbone(backbone_of(name), name, "timm", path, 64)
    assert written.reader == reader and written.difference < 1e-5
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["architecture"] == export._timm_name(name)
    again = build_backbone(name, 64)
    assert Source(path).load_into(again, name).matched == len(again.state_dict())


@pytest.mark.parametrize("name", ["vit_nano", "resnet18"])
def test_onnx(tmp_path, name):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    backbone = backbone_of(name, 32)
    written = export_backbone(backbone, name, "onnx", tmp_path / "model.onnx", 32)
    assert written.reader == "ONNX Runtime" and written.difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    images = torch.randn(5, 3, 32, 32)
    (features,) = session.run(["features"], {"images": images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(features), backbone(images), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_onnx_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"--format onnx needs the package onnx\w*, which is not installed"):
        export_backbone(backbone_of("vit_nano", 32), "vit_nano", "onnx", tmp_path / "model.onnx", 32)
    assert list(tmp_path.iterdir()) == []


def test_other_features_leave_no_file(tmp_path, monkeypatch):
    def wrong(module):
        return {name: value * 1.01 for name, value in module.state_dict().items()}

    monkeypatch.setattr(export, "plain_state", wrong)
    (tmp_path / "resnet18.pth").write_bytes(b"before")
    with pytest.raises(
        UserError, match=r"resnet18.pth: not written, for what torchvision's resnet18 read back gives other"
    ):
        export_backbone(backbone_of("resnet18"), "resnet18", "torchvision", tmp_path / "resnet18.pth", 64)
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18.pth"]
    assert (tmp_path / "resnet18.pth").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("vit_nano", "dino", r"--format dino: there is no vit_nano in that layout \(it is for vit_t16, vit_s16"),
        ("resnet18_cifar", "torchvision", "there is no resnet18_cifar in that layout"),
        ("vit_nano", "timm", "there is no vit_nano in that layout .*timm:NAME"),
    ],
)
def test_backbones_that_a_layout_has_no_place_for(tmp_path, name, kind, message):
    with pytest.raises(UsageError, match=message):
        export_backbone(backbone_of(name, 32), name, kind, tmp_path / "m.safetensors", 32)
    assert list(tmp_path.iterdir()) == []


def test_timms_files_are_named_as_such(tmp_path):
    with pytest.raises(UsageError, match=r"m.pth: timm's files are safetensors"):
        export_backbone(backbone_of("resnet18"), "resnet18", "timm", tmp_path / "m.pth", 64)
