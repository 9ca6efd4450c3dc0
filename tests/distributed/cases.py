"""What one process does, and two or four do alike. Run as a script by ``torchrun``, it does so as one of several and writes what
came out; the test imports it and does it alone. No ``test_`` in its name: it is part of a test."""

import hashlib
import importlib.util
import io
import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
IMAGES = 8
OPTIMIZERS = ("adamw", "sgd", "lars")
STEPS = 3

#: Case name: method, backbone, the method's own options.
CASES = {
    "dino-vit": ("dino", "small_vit", {"local_size": 8}),
    "dino-resnet": ("dino", "resnet18_cifar", {"use_bn_in_head": True, "local_size": 8}),
    "dino-predictor": ("dino", "small_vit", {"predictor": True, "use_bn_in_head": True, "local_size": 8}),
    "dino-sinkhorn": ("dino", "small_vit", {"centering": "sinkhorn_knopp"}),
    "dino-timm": ("dino", "timm:resnet10t", {}),
    "weak_dino": ("weak_dino", "small_vit", {}),
    "weak_dino-means": ("weak_dino", "small_vit", {"targets": "label", "centering": "sinkhorn_knopp"}),
    "weak_dino-running-means": ("weak_dino", "small_vit", {"targets": "label", "label_momentum": 0.9}),
    "barlow_twins-vit": ("barlow_twins", "small_vit", {}),
    "barlow_twins-resnet": ("barlow_twins", "resnet18_cifar", {}),
    "barlow_twins-predictor": ("barlow_twins", "small_cnn", {"predictor": True, "loss": "cross_entropy"}),
    "barlow_twins-covariance": ("barlow_twins", "small_cnn", {"normalization": "none"}),
    "simclr": ("simclr", "small_cnn", {}),
    "supcon": ("supcon", "small_cnn", {}),
    "supcon-several-labels": ("supcon", "small_cnn", {}),
    "byol": ("byol", "small_cnn", {}),
    "mocov2": ("mocov2", "small_cnn", {"queue": 12}),
    "mocov3": ("mocov3", "small_vit", {}),
    "vicreg": ("vicreg", "small_cnn", {}),
    "swav": ("swav", "small_cnn", {}),
    "supervised-vit": ("supervised", "small_vit", {}),
    "supervised-resnet": ("supervised", "resnet18_cifar", {}),
    "supervised-several-labels": ("supervised", "small_cnn", {}),
}
#: Cases by number of processes and strategy: by four, one of every method, of small networks.
CASES_OF = {
    (2, "ddp"): tuple(CASES),
    (2, "fsdp"): tuple(CASES),
    (4, "ddp"): (
        "dino-vit",
        "weak_dino",
        "barlow_twins-vit",
        "simclr",
        "supcon",
        "byol",
        "mocov2",
        "mocov3",
        "vicreg",
        "swav",
        "supervised-vit",
    ),
    (4, "fsdp"): ("dino-vit", "barlow_twins-vit", "mocov3"),
}


def small():
    """The module that describes small runs."""
    spec = importlib.util.spec_from_file_location("small_runs", HERE.parent / "small_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps(name, accumulate=1, **further):
    """Three optimiser steps on a fixed batch of which each process takes its share. In float64, in the places as well where
    methods ask for float32: there small differences grow in normalisation layers, and a mistake could hide among them.

    Returns:
        ``losses`` (mean over processes), ``gradients`` of the first step and ``same``, the state after the last, by name.
    """
    from common.distributed import all_reduce_mean, is_shared_out, rank, whole, world_size
    from methods.core.base import METHODS, Progress, ViewBatch
    from training.batches import split
    from training.plan import build_method
    from training.resolve import resolve
    from training.step import Stepper

    method_name, backbone, own = CASES[name]
    runs = small()
    if "drop_path" in {f.name for f in METHODS.get(method_name).Config.__dataclass_fields__.values()}:
        own = {"drop_path": 0.0, **own}
    config, method_config = runs.small_run(
        Path("unused"),
        Path("unused"),
        method_name,
        backbone=backbone,
        batch_size=IMAGES,
        accumulate=accumulate,
        optimizer="sgd",
        lr=3.2,
        min_lr=0.0,
        warmup_epochs=0,
        clip_grad=0.0,
        image_size=16,
        **{**own, **further},
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
        for view in METHODS.get(method_name).views(method_config, config.image_size)
    ]
    labels = torch.tensor([0, 1, 2, -1, 1, -1, -1, 0])  # each half and quarter has others
    if name.endswith("several-labels"):
        labels = torch.nn.functional.one_hot(labels.clamp(min=0), 3).float() * (labels >= 0)[:, None]
    share = IMAGES // world_size()
    mine = slice(rank() * share, (rank() + 1) * share)
    batch = ViewBatch([view[mine] for view in views], labels[mine])
    losses, gradients = [], {}
    for step in range(STEPS):
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            loss, _ = stepper.step(split(batch, accumulate), Progress(1 + step, 1, 10))
        losses.append(all_reduce_mean(loss))
        if step == 0:
            gradients = {n: whole(p.grad).clone() for n, p in stepper.method.named_parameters() if p.grad is not None}
    return {"losses": torch.stack(losses), "gradients": gradients, "same": whole(stepper.method.state_dict())}


def online_numbers(folder):
    """The online k-NN of an untrained network, and the features it has compared, of counts that neither two nor four divide."""
    from eval.core.online import Monitor
    from training.plan import Plan
    from training.resolve import resolve

    config, method_config = small().small_run(folder, Path("unused"), "barlow_twins", backbone="small_cnn")
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
        *small().small_run(
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
    return train(*small().small_run(folder, out, "dino", **options, **further))


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
            for name in CASES_OF[world_size(), strategy]:
                save_case(steps(name, strategy=strategy), out / f"{strategy}-{name}.pt")
        save_case(online_numbers(folder), out / "online.pt")
        if world_size() == 2:
            as_two(folder, out)
        else:
            as_four(folder, out, *of_two)
