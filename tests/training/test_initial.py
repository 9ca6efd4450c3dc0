"""--init: from a backbone, from whole states, from other methods; what is recorded; continuing without the file."""

import argparse
import hashlib
import shutil

import pytest
import torch
import yaml

from backbones import build_backbone
from backbones.formats.authors import dino_checkpoint
from backbones.formats.source import Source
from commands.train import train
from common.errors import UsageError, UserError
from common.files import read_json_lines
from methods.core.base import METHODS
from training.initial import advice, labels_of, start_from, with_initial_weights
from training.resolve import resolve


def make(small, out, method="dino", **options):
    """A method as ``small`` has it, untrained, with the options of its training."""
    config, own = small(out, method, **options)
    torch.manual_seed(config.seed)
    return METHODS.get(method)(own, lambda **hints: build_backbone(config.backbone, 16, **hints), 2), config, own


def checkpoint_of(method, config, path, about=None):
    """A run's last checkpoint, with tensors that no fresh method has."""
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter))
        for name, buffer in method.named_buffers():
            if "center" in name:
                buffer.add_(1)
    prefix = "teacher.backbone." if hasattr(method, "teacher") else "backbone."
    state = {
        "format": 1,
        "method": method.state_dict(),
        "backbone_prefix": prefix,
        "backbone_name": config.backbone,
        "image_size": 16,
        "optimizer": None,
        "config": {
            "method": config.method,
            "pairing": config.pairing,
            "label_fraction": config.label_fraction,
            **(about or {}),
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return state


def test_whole_state_of_a_run(small, tmp_path):
    old, config, _ = make(small, tmp_path / "a", seed=1)
    checkpoint_of(old, config, tmp_path / "a" / "checkpoints" / "last.pt")
    new, _, _ = make(small, tmp_path / "b", "weak_dino", seed=2)
    told = start_from(new, Source(str(tmp_path / "a")), "small_vit")
    assert told == f"the whole state (student, teacher, loss) of {tmp_path / 'a'}"
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())


def test_other_heads_leave_the_backbone(small, tmp_path):
    old, config, _ = make(small, tmp_path / "a", seed=1)
    checkpoint_of(old, config, tmp_path / "last.pt")
    new, _, _ = make(small, tmp_path / "b", seed=2, out_dim=32)
    before = {name: value.clone() for name, value in new.state_dict().items() if ".backbone." not in name}
    told = start_from(new, Source(str(tmp_path / "last.pt")), "small_vit")
    assert (
        "all else starts anew, since student.head.last_layer.weight_g has the shape (64, 1) there, not (32, 1)" in told
    )
    for network in (new.student, new.teacher):
        assert torch.equal(network.backbone.pos_embed, old.teacher.backbone.pos_embed)
    assert all(torch.equal(new.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize(("source", "target"), [("dino", "barlow_twins"), ("barlow_twins", "dino"), ("simclr", "byol")])
def test_one_method_from_another(small, tmp_path, source, target):
    old, config, _ = make(small, tmp_path / "a", source, seed=1)
    checkpoint_of(old, config, tmp_path / "last.pt")
    new, _, _ = make(small, tmp_path / "b", target, seed=2)
    assert start_from(new, Source(str(tmp_path / "last.pt")), "small_vit").startswith(
        f"the backbone of {tmp_path / 'last.pt'} ("
    )
    found = [v for name, v in new.state_dict().items() if name.endswith("backbone.pos_embed")]
    assert len(found) == (1 if target == "barlow_twins" else 2)
    assert all(torch.equal(value, old.backbone.pos_embed) for value in found)


def test_the_authors_full_checkpoint(small, tmp_path):
    old, config, own = make(small, tmp_path / "a", seed=1)
    with torch.no_grad():
        old.teacher.backbone.cls_token.add_(1)
    optimizer = {"state": {}, "param_groups": []}
    everything = {**vars(resolve(config)), **vars(own)}
    state = {"method": old.state_dict(), "config": everything, "backbone_name": "vit_s8", "optimizer": optimizer}
    saved = dino_checkpoint({**state, "step": 4, "steps_per_epoch": 2})
    assert isinstance(saved["args"], argparse.Namespace)
    torch.save(saved, tmp_path / "checkpoint.pth")
    new, _, _ = make(small, tmp_path / "b", seed=2)
    assert start_from(new, Source(str(tmp_path / "checkpoint.pth")), "small_vit").startswith(
        "the whole state (student, teacher, loss)"
    )
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())
    # Another method takes of it what is evaluated: the teacher.
    twins, _, _ = make(small, tmp_path / "c", "barlow_twins", seed=2)
    told = start_from(twins, Source(str(tmp_path / "checkpoint.pth")), "small_vit")
    assert "(teacher; left out: head)" in told
    assert "since it holds a training of student, teacher, loss, and BarlowTwins has backbone, projector, bn" in told
    assert torch.equal(twins.backbone.cls_token, old.teacher.backbone.cls_token)


def test_a_backbone_file_and_what_does_not_fit(small, tmp_path):
    trained = build_backbone("vit_nano", 32)
    torch.save(trained.state_dict(), tmp_path / "vit.pth")
    new, _, _ = make(small, tmp_path / "b", backbone="vit_nano")
    assert start_from(new, Source(str(tmp_path / "vit.pth")), "vit_nano").endswith(
        "since the file holds no whole training"
    )
    assert torch.equal(new.student.backbone.cls_token, trained.cls_token)
    other, _, _ = make(small, tmp_path / "c")
    with pytest.raises(UserError, match="not the weights of small_vit"):
        start_from(other, Source(str(tmp_path / "vit.pth")), "small_vit")
    old, config, _ = make(small, tmp_path / "a")
    checkpoint_of(old, config, tmp_path / "last.pt")
    with pytest.raises(UserError, match="weights of small_vit, not of vit_nano; give --backbone small_vit"):
        start_from(new, Source(str(tmp_path / "last.pt")), "vit_nano")
    old.student.head.last_layer.weight_v.data[0, 0] = float("nan")
    checkpoint_of(old, config, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not finite"):
        start_from(other, Source(str(tmp_path / "last.pt")), "small_vit")


def test_label_use_of_initial_weights(small, tmp_path):
    path = tmp_path / "last.pt"
    cases = [
        (("dino", {}), {}, "none"),
        (("dino", {"pairing": "same_label", "label_fraction": 0.1}), {}, "10% (pairs)"),
        (("supervised", {}), {}, "all"),
        (("dino", {"label_fraction": 0.1}), {"targets": "label"}, "10% (targets)"),
        (("weak_dino", {}), {"targets": "label"}, "all (pairs, targets)"),
        (("dino", {}), {"init": "torchvision:resnet50", "init_labels": "all"}, "none; start: all"),
        (("dino", {}), {"method": "of_a_plugin"}, "?"),
    ]
    for (method, options), about, expected in cases:
        network, config, _ = make(small, tmp_path / "a", method, **options)
        checkpoint_of(network, config, path, about)
        assert labels_of(Source(path)) == expected
    torch.save({"weight": torch.zeros(1)}, path)
    assert labels_of(Source(path)) == "?"
    assert labels_of(Source("torchvision:resnet50")) == "all"
    assert labels_of(Source("dino:vit_s8:full")) == "none"


def test_the_warning_names_what_is_not_gentle(small, tmp_path):
    config, own = small(tmp_path)
    assert "gentler ones are --lr 5e-05 --momentum_teacher 0.9995; compare" in advice(resolve(config), own)
    config, own = small(tmp_path, lr=5e-5, momentum_teacher=0.9995)
    assert advice(resolve(config), own) is None
    config, own = small(tmp_path, "barlow_twins", warmup_epochs=0)
    assert "gentler ones are --lr 0.02 --warmup_epochs 1; compare" in advice(resolve(config), own)
    config, own = small(tmp_path, "barlow_twins", optimizer="adamw", lr=4e-3)
    assert "gentler ones are --lr 5e-05; compare" in advice(resolve(config), own)


def test_a_run_from_another_and_its_continuation(small, tmp_path, capsys):
    options = {"epochs": 1, "knn_every": 0}
    config, own = small(tmp_path / "first", "barlow_twins", pairing="same_label", **options)
    train(config, own)
    first = torch.load(tmp_path / "first" / "checkpoints" / "last.pt", weights_only=True)
    capsys.readouterr()

    init = str(tmp_path / "first")
    config, own = small(tmp_path / "second", init=init, seed=3, keep_checkpoints=9, lr=1e-8, **options)
    train(config, own)
    out = capsys.readouterr().out
    assert f"starts from the backbone of {init} (" in out and "gentler ones are --momentum_teacher 0.9995" in out
    digest = hashlib.sha256((tmp_path / "first" / "checkpoints" / "last.pt").read_bytes()).hexdigest()
    there = yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())
    assert (there["init"], there["init_sha256"], there["init_labels"]) == (init, digest, "all (pairs)")
    start = read_json_lines(tmp_path / "second" / "log.jsonl")[0]
    assert start["kind"] == "start" and start["initial"].startswith("the backbone of")
    last = torch.load(tmp_path / "second" / "checkpoints" / "last.pt", weights_only=True)
    assert last["config"]["init_sha256"] == digest
    name = "backbone.blocks.0.attn.qkv.weight"
    before = torch.load(tmp_path / "second" / "checkpoints" / "step-0.pt", weights_only=True)
    assert torch.equal(before["method"][f"student.{name}"], first["method"][name])
    assert torch.allclose(last["method"][f"teacher.{name}"], first["method"][name], atol=1e-4)

    # It continues without the file, to the same weights; and not from another.
    (tmp_path / "second" / "checkpoints" / "last.pt").unlink()
    records = (tmp_path / "second" / "log.jsonl").read_text().splitlines()
    (tmp_path / "second" / "log.jsonl").write_text("\n".join(r for r in records if '"end"' not in r) + "\n")
    (tmp_path / "second" / "checkpoints" / "best.pt").unlink(missing_ok=True)
    shutil.move(tmp_path / "first", tmp_path / "moved")
    train(config, own)
    again = torch.load(tmp_path / "second" / "checkpoints" / "last.pt", weights_only=True)
    assert all(torch.equal(again["method"][name], value) for name, value in last["method"].items())
    assert "starts from" not in capsys.readouterr().out

    # Before its first checkpoint it does need it, the same one.
    shutil.rmtree(tmp_path / "second" / "checkpoints")
    with pytest.raises(UserError, match=f"{init}: no such weights file"):
        train(config, own)
    shutil.copytree(tmp_path / "second", tmp_path / "first")
    (tmp_path / "first" / "checkpoints").mkdir()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "first" / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match=rf"holds a run with other options \(init_sha256 was {digest}, now \w+"):
        train(config, own)
    shutil.rmtree(tmp_path / "first")

    new, own = small(tmp_path / "third", init=init, **options)
    with pytest.raises(UserError, match=f"{init}: no such weights file"):
        train(new, own)
    new, own = small(tmp_path / "third", init=str(tmp_path / "moved"), init_sha256="0" * 64, **options)
    with pytest.raises(UserError, match=rf"has the SHA-256 digest {digest}, not 0+; give the file"):
        train(new, own)
    assert not (tmp_path / "third").exists() or not (tmp_path / "third" / "config.yaml").exists()


def test_options_that_contradict(small, tmp_path):
    with pytest.raises(UsageError, match="--init_sha256 and --init_labels are about --init"):
        with_initial_weights(small(tmp_path, init_labels="all")[0])
    with pytest.raises(
        UsageError, match=r"random trains nothing; run\.py evaluate --weights dino:vit_s8 measures them"
    ):
        with_initial_weights(small(tmp_path, "random", init="dino:vit_s8")[0])
