"""What one process does, and two or four do alike. Run as a script by ``torchrun``, it does so as one of several and writes what
came out; the test imports it and does it alone. No ``test_`` in its name: it is part of a test."""

import hashlib
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from methods.core.base import METHODS
from tests import small_runs

CPU = torch.device("cpu")
IMAGES = 8
OPTIMIZERS = ("adamw", "sgd", "lars", "larc")
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A method's steps: with which options of its own beside those that make it small, and on what."""

    method: str
    options: dict
    backbone: str = "small_vit"
    several_labels: bool = False

    def __str__(self):
        words = [f"{name}={value}" for name, value in self.options.items()]
        words += [self.backbone] * (self.backbone != "small_vit") + ["several labels"] * self.several_labels
        return ", ".join([self.method, *words])


def cases_of(method):
    """A method with each of its switches the other way, by images of one label or, if its loss reads labels, several."""
    kind = METHODS.get(method)
    for options in small_runs.switches(kind.Config):
        labels = (False, True) if kind.label_use(vars(kind.Config(**options))) else (False,)
        yield from (Case(method, options, several_labels=several) for several in labels)


TRAINED = [name for name in METHODS.names() if METHODS.get(name).trains]
#: What no switch asks for: running means, losses by images' inner products, and BatchNorm in backbones of three kinds.
FURTHER = [
    *(Case("dino", {"targets": "label", "label_momentum": 0.9}, several_labels=several) for several in (False, True)),
    Case("dino", {"use_bn_in_head": True, "local_size": 8}, "resnet18_cifar"),
    Case("dino", {"predictor": True, "local_size": 8}, "small_cnn"),
    Case("dino", {}, "timm:resnet10t"),
    Case("barlow_twins", {"projector": "16-32"}),
    Case("barlow_twins", {}, "resnet18_cifar"),
    Case("mocov2", {"queue": 12, "bn_splits": 2}, "small_cnn"),
    Case("supervised", {}, "resnet18_cifar"),
]
EVERY = [case for name in TRAINED for case in cases_of(name)] + FURTHER
#: Cases by number of processes and strategy.
CASES_OF = {
    (2, "ddp"): EVERY,
    (2, "fsdp"): EVERY,
    (4, "ddp"): [Case(name, {}) for name in TRAINED],
    (4, "fsdp"): [Case(name, {}) for name in ("dino", "barlow_twins", "mocov3")],
}


def steps(case, accumulate=1, **further):
    """Three optimiser steps on a fixed batch of which each process takes its share. In float64, in the places as well where
    methods ask for float32: there small differences grow in normalisation layers, and a mistake could hide among them.

    Returns:
        ``losses`` (mean over processes), ``gradients`` of the first step and ``same``, the state after the last, by name.
    """
    from common.distributed import all_reduce_mean, is_shared_out, rank, whole, world_size
    from methods.core.base import Progress, ViewBatch
    from training.batches import split
    from training.plan import build_method
    from training.resolve import resolve
    from training.step import Stepper

    kind = METHODS.get(case.method).Config
    own = {"drop_path": 0.0} if "drop_path" in kind.__dataclass_fields__ else {}
    config, method_config = small_runs.small_run(
        Path("unused"),
        Path("unused"),
        case.method,
        backbone=case.backbone,
        batch_size=IMAGES,
        accumulate=accumulate,
        optimizer="sgd",
        lr=3.2,
        min_lr=0.0,
        warmup_epochs=0,
        clip_grad=0.0,
        image_size=16,
        **{**own, **small_runs.shrunk(kind), **case.options, **further},
    )
    config = resolve(config)
    method = build_method(config, method_config, num_classes=3).double()
    stepper = Stepper(method, config, CPU)
    stepper.method.train()
    shared_out = {is_shared_out(parameter) for parameter in stepper.method.parameters()}
    assert shared_out == {config.strategy == "fsdp" and world_size() > 1}
    generator = torch.Generator().manual_seed(1)
    views = [
        torch.randn(IMAGES, 3, view.size, view.size, generator=generator, dtype=torch.float64)
        for view in METHODS.get(case.method).views(method_config, config.image_size)
    ]
    labels = torch.tensor([0, 1, 2, -1, 1, -1, -1, 0])  # each half and quarter has others
    if case.several_labels:
        labels = torch.nn.functional.one_hot(labels.clamp(min=0), 3).float() * (labels >= 0)[:, None]
    share = IMAGES // world_size()
    mine = slice(rank() * share, (rank() + 1) * share)
    batch = ViewBatch([view[mine] for view in views], labels[mine])
    losses, gradients = [], {}
    for step in range(STEPS):
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            loss, _ = stepper.step(split(batch, accumulate), Progress(20 + step, 1, 40))
        losses.append(all_reduce_mean(loss))
        if step == 0:
            gradients = {n: whole(p.grad).clone() for n, p in stepper.method.named_parameters() if p.grad is not None}
    return {"losses": torch.stack(losses), "gradients": gradients, "same": whole(stepper.method.state_dict())}


def online_numbers(folder):
    """The online k-NN of an untrained network, and the features it has compared, of counts that neither two nor four divide."""
    from eval.core.online import Monitor
    from training.plan import Plan
    from training.resolve import resolve

    config, method_config = small_runs.small_run(folder, Path("unused"), "barlow_twins", backbone="small_cnn")
    plan = Plan(resolve(config), method_config)
    method = plan.build_method()
    monitor = Monitor(plan, method)
    method.eval()
    features = [monitor._features(store, np.arange(len(store))) for store in plan.images]
    return {"knn": monitor.knn(), "same": features}


def whole_run(folder, out):
    """A training of every kind of part: k-NN, diagnostics, checkpoints. Returns its run directory."""
    from commands.train import train

    return train(
        *small_runs.small_run(
            folder,
            out,
            "barlow_twins",
            backbone="small_cnn",
            accumulate=2,
            batch_size=16,
            epochs=2,
            lr=0.05,
            warmup_epochs=0,
        )
    )


def sharded_run(folder, out, **further):
    """A training whose every optimiser, clipping and teacher sees parts of tensors. Returns its run directory."""
    from commands.train import train

    options = {"batch_size": 16, "epochs": 2, "warmup_epochs": 0, "drop_path": 0.0, "clip_grad": 0.05, "lr": 0.05}
    options["keep_checkpoints"] = 3  # one before the last, also when it has ended
    return train(*small_runs.small_run(folder, out, "dino", **options, **further))


def as_after_one_epoch(run, copy):
    """Copy a run of two epochs as it was after its first."""
    shutil.copytree(run, copy)
    checkpoints = copy / "checkpoints"
    (checkpoints / "step-2.pt").replace(checkpoints / "last.pt")
    lines = (copy / "log.jsonl").read_text().splitlines(keepends=True)
    (copy / "log.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 2))


def save_case(found, path):
    """Write what the first process has found, and, as ``digests``, whether the others' weights or features are the same."""
    content = io.BytesIO()
    torch.save(found["same"], content)
    digests = [None] * world_size()
    dist.all_gather_object(digests, hashlib.sha256(content.getvalue()).hexdigest())
    if rank() == 0:
        torch.save(found | {"digests": digests}, path)


def as_two(folder, out):
    """Whole runs, by both strategies; and one that changes the strategy."""
    whole_run(folder, out / "run")
    for optimizer in OPTIMIZERS:
        options = {"optimizer": optimizer, "accumulate": 1 if optimizer == "adamw" else 2}
        for strategy in ("ddp", "fsdp"):
            options["pictures_every"] = int(strategy == "fsdp" and optimizer == "sgd")
            sharded_run(folder, out / f"{strategy}-{optimizer}", strategy=strategy, **options)
    with main_first():
        if rank() == 0:
            as_after_one_epoch(out / "ddp-adamw", out / "continued")
    sharded_run(folder, out / "continued", optimizer="adamw", strategy="fsdp")


def as_four(folder, out, of_two):
    """A run of four; and the run of two, continued by four, where its last checkpoint has been damaged."""
    sharded_run(folder, out / "fsdp-adamw", optimizer="adamw", strategy="fsdp")
    with main_first():
        if rank() == 0:
            shutil.copytree(of_two / "fsdp-adamw", out / "damaged")
            last = out / "damaged" / "checkpoints" / "last.pt"
            content = last.read_bytes()
            last.unlink()
            last.write_bytes(content[: len(content) // 2])
    sharded_run(folder, out / "damaged", optimizer="adamw", strategy="fsdp")


if __name__ == "__main__":
    import torch.distributed as dist

    from common.distributed import main_first, rank, world_size
    from training.machine.devices import process_group

    torch.set_num_threads(1)
    folder, out, *of_two = map(Path, sys.argv[1:])
    with process_group("cpu"):
        for strategy in ("ddp", "fsdp"):
            for case in CASES_OF[world_size(), strategy]:
                save_case(steps(case, strategy=strategy), out / f"{strategy}-{case}.pt")
        save_case(online_numbers(folder), out / "online.pt")
        if world_size() == 2:
            as_two(folder, out)
        else:
            as_four(folder, out, *of_two)
