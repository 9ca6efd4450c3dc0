"""Weights from every layout, into the right backbone, all or nothing."""

import argparse
import os
import pickle

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from backbones import build_backbone
from backbones.formats.source import Source
from backbones.vit import VisionTransformer, interpolate_positions
from common.errors import UserError
from heads.dino import DINOHead
from heads.mlp import MLP


def tiny_vit(seed: int, **changes) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(**{"patch_size": 8, "width": 24, "depth": 2, "heads": 3, "position_size": 32} | changes)


def prefixed(prefix: str, module: nn.Module) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in module.state_dict().items()}


def assert_equal(backbone: nn.Module, expected: nn.Module) -> None:
    ours, theirs = backbone.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def resnet18():
    """A torchvision ResNet-18 with all of its tensors unlike an untrained one's."""
    torch.manual_seed(7)
    model = torchvision.models.resnet18()
    for name, value in model.state_dict().items():
        if "running" in name or "bn" in name:
            value.copy_(value + 1)
    return model


def dino_checkpoint(student: nn.Module, teacher: nn.Module, teacher_wrapped: bool = False) -> dict:
    """As main_dino.py saves them: the student in DDP, the teacher too where there is BatchNorm."""
    module = "module." if teacher_wrapped else ""
    head = DINOHead(24, 16, hidden_dim=8, bottleneck_dim=4)
    optimizer = torch.optim.AdamW(student.parameters())
    student(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return {
        "student": prefixed("module.backbone.", student) | prefixed("module.head.", head),
        "teacher": prefixed(f"{module}backbone.", teacher) | prefixed(f"{module}head.", head),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(arch="vit_small", lr=5e-4, global_crops_scale=(0.4, 1.0), use_fp16=True),
        "dino_loss": {"center": torch.zeros(1, 16)},
        "fp16_scaler": {"scale": 65536.0},
    }


@pytest.mark.parametrize("key", [None, "teacher", "student"])
def test_dino_full_checkpoint_of_a_vit(tmp_path, key):
    student, teacher, backbone = tiny_vit(1), tiny_vit(2), tiny_vit(3)
    torch.save(dino_checkpoint(student, teacher), tmp_path / "checkpoint.pth")
    report = Source(tmp_path / "checkpoint.pth").load_into(backbone, "tiny", key)
    assert_equal(backbone, student if key == "student" else teacher)
    assert (report.matched, report.total) == (30, 30)
    assert report.note == f"{key or 'teacher'}; left out: head"
    assert str(report) == f"30 of 30 tensors loaded from {tmp_path / 'checkpoint.pth'} ({report.note})"


@pytest.mark.parametrize("key", ["teacher", "student"])
def test_dino_full_checkpoint_of_a_resnet(tmp_path, key):
    torch.manual_seed(1)
    networks = {"student": build_backbone("resnet18"), "teacher": build_backbone("resnet18")}
    torch.save(dino_checkpoint(**networks, teacher_wrapped=True), tmp_path / "checkpoint.pth")
    backbone = build_backbone("resnet18")
    Source(tmp_path / "checkpoint.pth").load_into(backbone, "resnet18", key)
    assert_equal(backbone, networks[key])


def test_released_backbone(tmp_path):
    released, backbone = tiny_vit(1), tiny_vit(2)
    torch.save(released.state_dict(), tmp_path / "dino_pretrain.pth")
    report = Source(str(tmp_path / "dino_pretrain.pth")).load_into(backbone, "tiny")
    assert_equal(backbone, released)
    assert report.note == ""


def test_barlow_twins_files(tmp_path):
    torch.manual_seed(1)
    trained = torchvision.models.resnet50(zero_init_residual=True)
    trained.fc = nn.Identity()
    projector = MLP(2048, (4, 4, 4), bias=False)
    model = prefixed("module.backbone.", trained) | prefixed("module.projector.", projector)
    model |= prefixed("module.bn.", nn.BatchNorm1d(4, affine=False))
    torch.save({"epoch": 1, "model": model, "optimizer": {}}, tmp_path / "checkpoint.pth")
    torch.save(trained.state_dict(), tmp_path / "resnet50.pth")
    notes = []
    for file in ("checkpoint.pth", "resnet50.pth"):
        backbone = build_backbone("resnet50")
        report = Source(tmp_path / file).load_into(backbone, "resnet50")
        assert_equal(backbone, trained)
        assert report.matched == report.total == 318
        notes.append(report.note)
    assert notes == ["model; left out: bn, projector", ""]


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_torchvision_file(tmp_path, resnet18, name, suffix):
    path = tmp_path / f"resnet18.{suffix}"
    (torch.save if suffix == "pth" else safetensors.torch.save_file)(resnet18.state_dict(), path)
    backbone = build_backbone(name, 64).eval()
    report = Source(path).load_into(backbone, name)
    assert report.note == "left out: fc"
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = resnet18.eval().avgpool(nn.Sequential(*list(resnet18.children())[:-2])(images)).flatten(1)
        assert torch.allclose(backbone(images), expected, atol=1e-5)


def test_old_file_without_batch_counts(tmp_path, resnet18):
    state = {name: value for name, value in resnet18.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    report = Source(tmp_path / "old.pth").load_into(build_backbone("resnet18"), "resnet18")
    assert (report.matched, report.total) == (100, 120)


@pytest.mark.parametrize("name", ["timm:convnext_atto", "timm:vit_tiny_patch16_224", "timm:efficientnet_b0"])
def test_timm_file(tmp_path, name):
    torch.manual_seed(1)
    model = timm.create_model(name.removeprefix("timm:"), num_classes=10).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    backbone = build_backbone(name, 64).eval()
    report = Source(tmp_path / "model.safetensors").load_into(backbone, name)
    assert report.matched == report.total
    assert report.note in ("left out: head", "left out: classifier")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(
            backbone(images), model.forward_head(model.forward_features(images), pre_logits=True), atol=1e-5
        )


def test_timm_vit_file_into_our_vit(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval()
    torch.save({"state_dict": model.state_dict(), "epoch": 1}, tmp_path / "model.pth.tar")
    backbone = build_backbone("vit_t16").eval()
    assert Source(tmp_path / "model.pth.tar").load_into(backbone, "vit_t16").note == "state_dict; left out: head"
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(backbone(images), model.forward_features(images)[:, 0], atol=1e-5)


def test_wrapped_and_compiled_names(tmp_path):
    trained, backbone = tiny_vit(1), tiny_vit(2)
    torch.save({"model_ema": prefixed("module._orig_mod.", trained), "step": 2}, tmp_path / "m.pt")
    assert Source(tmp_path / "m.pt").load_into(backbone, "tiny", "model_ema").note == "model_ema"
    assert_equal(backbone, trained)


def run_checkpoint(student: nn.Module, teacher: nn.Module, name: str) -> dict:
    return {
        "format": 1,
        "method": prefixed("student.backbone.", student)
        | prefixed("teacher.backbone.", teacher)
        | {"center": torch.zeros(4)},
        "backbone_prefix": "teacher.backbone.",
        "backbone_name": name,
        "image_size": 32,
        "step": 10,
        "config": {"method": "dino"},
    }


@pytest.mark.parametrize("key", [None, "student"])
@pytest.mark.parametrize("name", ["vit_nano", "timm:resnet10t"])
def test_run_directory_and_its_checkpoint(tmp_path, name, key):
    torch.manual_seed(1)
    student, teacher = build_backbone(name, 32), build_backbone(name, 32)
    (tmp_path / "checkpoints").mkdir()
    torch.save(run_checkpoint(student, teacher, name), tmp_path / "checkpoints" / "last.pt")
    for spec in (tmp_path, tmp_path / "checkpoints" / "last.pt"):
        backbone = build_backbone(name, 32)
        report = Source(spec).load_into(backbone, name, key)
        assert_equal(backbone, student if key else teacher)
        assert report.matched == report.total
        assert report.note == (key or "teacher")


def test_run_of_another_backbone_or_network(tmp_path):
    path = tmp_path / "last.pt"
    torch.save(run_checkpoint(tiny_vit(1), tiny_vit(2), "vit_nano"), path)
    with pytest.raises(UserError, match="weights of vit_nano, not of vit_s16; give --backbone vit_nano"):
        Source(path).load_into(tiny_vit(3), "vit_s16")
    with pytest.raises(UserError, match=r"no backbone 'predictor' \(it has: student, teacher\)"):
        Source(path).load_into(tiny_vit(3), "vit_nano", "predictor")
    torch.save({"backbone_prefix": "backbone.", "backbone_name": "vit_nano"}, path)
    with pytest.raises(UserError, match="without method"):
        Source(path).load_into(tiny_vit(3), "vit_nano")


def test_half_precision_file(tmp_path):
    trained, backbone = tiny_vit(1).half(), tiny_vit(2)
    torch.save(trained.state_dict(), tmp_path / "half.pth")
    Source(tmp_path / "half.pth").load_into(backbone, "tiny")
    assert backbone.cls_token.dtype == torch.float32
    assert torch.equal(backbone.cls_token, trained.cls_token.float())


def test_positions_of_another_grid_are_interpolated_and_said_so(tmp_path):
    trained, backbone = tiny_vit(1, position_size=64), tiny_vit(2)
    torch.save(trained.state_dict(), tmp_path / "large.pth")
    report = Source(tmp_path / "large.pth").load_into(backbone, "tiny")
    assert report.note == "pos_embed interpolated from (1, 65, 24) to (1, 17, 24)"
    assert torch.equal(backbone.pos_embed, interpolate_positions(trained.pos_embed, 4, 4))
    assert torch.equal(backbone.blocks[1].mlp.fc1.weight, trained.blocks[1].mlp.fc1.weight)


def test_timm_positions_of_another_grid_are_interpolated_and_said_so(tmp_path):
    model = timm.create_model("vit_tiny_patch16_384", num_classes=10)
    torch.save(model.state_dict(), tmp_path / "384.pth")
    report = Source(tmp_path / "384.pth").load_into(
        build_backbone("timm:vit_tiny_patch16_224"), "timm:vit_tiny_patch16_224"
    )
    assert report.note == "left out: head; pos_embed interpolated from (1, 577, 192) to (1, 197, 192)"


def test_layout_that_timm_converts(tmp_path):
    """ConvNeXt's authors name its parts otherwise than timm does."""
    torch.manual_seed(1)
    trained, backbone = build_backbone("timm:convnext_tiny", 32), build_backbone("timm:convnext_tiny", 32)
    renames = {"stem.": "downsample_layers.0.", "head.norm.": "norm.", ".blocks.": ".", ".mlp.fc1.": ".pwconv1."}
    renames |= {".mlp.fc2.": ".pwconv2.", ".conv_dw.": ".dwconv."}
    state = {}
    for name, value in trained.model.state_dict().items():
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        if ".downsample." in name:
            stage, rest = name.removeprefix("stages.").split(".downsample.")
            name = f"downsample_layers.{stage}.{rest}"
        state[name] = value
    assert "stages.0.0.dwconv.weight" in state
    torch.save({"model": state}, tmp_path / "convnext.pth")
    Source(tmp_path / "convnext.pth").load_into(backbone, "timm:convnext_tiny")
    assert_equal(backbone, trained)


OTHER_BACKBONES = {
    "wider": {"width": 48},
    "deeper": {"depth": 3},
    "shallower": {"depth": 1},
    "patch": {"patch_size": 4, "position_size": 16},
}


@pytest.mark.parametrize("kind", OTHER_BACKBONES)
def test_another_vit_is_refused_and_nothing_loaded(tmp_path, kind):
    other, backbone, before = tiny_vit(1, **OTHER_BACKBONES[kind]), tiny_vit(2), tiny_vit(2)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"not the weights of tiny: \d+ of its 30 tensors match") as caught:
        Source(tmp_path / "other.pth").load_into(backbone, "tiny")
    message = str(caught.value)
    assert f"the file begins with cls_token {tuple(other.cls_token.shape)}" in message
    assert f"tiny with cls_token {tuple(backbone.cls_token.shape)}" in message
    assert "\n" not in message
    assert_equal(backbone, before)


def test_another_patch_size_is_not_resampled_by_timm(tmp_path):
    model = timm.create_model("vit_small_patch8_224", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "p8.pth")
    with pytest.raises(UserError, match=r"pos_embed has shape \(1, 785, 384\).*, and 1 more difference \("):
        Source(tmp_path / "p8.pth").load_into(
            build_backbone("timm:vit_small_patch16_224", 32), "timm:vit_small_patch16_224"
        )


@pytest.mark.parametrize(
    ("file", "name"), [("resnet18", "resnet18_cifar"), ("resnet18", "vit_nano"), ("vit", "resnet18")]
)
def test_another_family_is_refused(tmp_path, resnet18, file, name):
    torch.save((resnet18 if file == "resnet18" else tiny_vit(1)).state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"not the weights of {name}"):
        Source(tmp_path / "other.pth").load_into(build_backbone(name, 32), name)


def test_part_of_a_backbone_is_refused(tmp_path):
    state = tiny_vit(1).state_dict()
    del state["blocks.1.attn.qkv.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"29 of its 30 tensors match; blocks.1.attn.qkv.weight is missing \("):
        Source(tmp_path / "part.pth").load_into(tiny_vit(2), "tiny")


def test_diverged_weights_are_refused(tmp_path):
    trained = tiny_vit(1)
    trained.norm.weight.data[3] = float("nan")
    torch.save(trained.state_dict(), tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"norm.weight holds values that are not finite"):
        Source(tmp_path / "nan.pth").load_into(tiny_vit(2), "tiny")


def test_wrong_key(tmp_path):
    torch.save(dino_checkpoint(tiny_vit(1), tiny_vit(2)), tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"no network under --key args; its networks: student, teacher$"):
        Source(tmp_path / "c.pth").load_into(tiny_vit(3), "tiny", "args")


class RunsCode:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("inside", ["state", "namespace"])
@pytest.mark.parametrize("zipped", [True, False])
def test_untrusted_pickle_is_refused_and_not_run(tmp_path, inside, zipped):
    harm = RunsCode(tmp_path / "harmed")
    content = {"x": harm} if inside == "state" else {"args": argparse.Namespace(x=harm)}
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"refused, because reading it could run code \(\w+.mkdir\)") as caught:
        Source(tmp_path / "bad.pth").load_into(tiny_vit(1), "tiny")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


def test_damaged_files(tmp_path):
    good = tmp_path / "good.pth"
    torch.save(tiny_vit(1).state_dict(), good)
    safetensors.torch.save_file(tiny_vit(1).state_dict(), tmp_path / "good.safetensors")
    whole = good.read_bytes()
    damaged = {
        "empty.pth": b"",
        "text.pth": b"hello, this is no checkpoint\n" * 20,
        "html.pth": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
        "pickle.pth": pickle.dumps({"a": 1}, protocol=4),
        **{f"cut{share}.pth": whole[: len(whole) * share // 10] for share in (1, 5, 9)},
        "cut-tail.pth": whole[:-10],
        "cut.safetensors": (tmp_path / "good.safetensors").read_bytes()[:-100],
        "text.safetensors": b"hello",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a weights file, or cut short") as caught:
            Source(tmp_path / name).load_into(tiny_vit(2), "tiny")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, argparse.Namespace(a=1), "text"])
def test_file_without_names(tmp_path, content):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="holds no weights by name"):
        Source(tmp_path / "odd.pth").load_into(tiny_vit(1), "tiny")


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nothing.pth: no such weights file or run directory"):
        Source(tmp_path / "nothing.pth").load_into(tiny_vit(1), "tiny")
    with pytest.raises(UserError, match=r"a folder without checkpoints/last.pt"):
        Source(tmp_path).load_into(tiny_vit(1), "tiny")
