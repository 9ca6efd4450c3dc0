"""A training step, views being made already: images per second, and the share of the matrix rate by counted operations."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor

from backbones.vit import ARCHITECTURES
from benchmarks.bench import Bench, operations
from benchmarks.reference import barlow_twins as plain_barlow_twins
from benchmarks.reference import dino as plain_dino
from benchmarks.reference.transformer import VisionTransformer
from benchmarks.timing import Limit, Measurement
from common.errors import UsageError
from methods.core.base import METHODS, Progress, ViewBatch
from training.config import TrainConfig
from training.machine.devices import synchronize
from training.plan import build_method
from training.resolve import resolve
from training.step import Stepper

PRECISIONS = ("fp32", "bf16")


def our_config(
    method: str, backbone: str, batch: int, device: torch.device, precision: str, **options: Any
) -> TrainConfig:
    """The trainer's options, at the method's published defaults but for ``options``."""
    chosen = {"method": method, "backbone": backbone, "batch_size": batch, "image_size": 224, "precision": precision}
    return resolve(TrainConfig(**{**METHODS.get(method).recipe, **chosen, "device": str(device), **options}))


def our_stepper(
    method: str,
    backbone: str,
    batch: int,
    device: torch.device,
    precision: str = "fp32",
    compiled: bool = False,
    **options: Any,
) -> Stepper:
    """What the trainer steps with, at the method's published defaults but for ``options``."""
    config = our_config(method, backbone, batch, device, precision, compile=compiled)
    stepper = Stepper(build_method(config, METHODS.get(method).Config(**options), num_classes=0), config, device)
    stepper.method.train()
    return stepper


def plain_dino_step(backbone: str, out_dim: int, device: torch.device) -> plain_dino.PlainStep:
    """The reference's step of a ViT of ours."""
    sizes = ARCHITECTURES[backbone]
    student, teacher = (
        plain_dino.Network(VisionTransformer(**sizes, drop_path_rate=rate), out_dim) for rate in (0.1, 0.0)
    )
    return plain_dino.PlainStep(student, teacher, plain_dino.Loss(out_dim), device)


def random_views(batch: int, sizes: list[int], device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 3, size, size, generator=generator).to(device) for size in sizes]


def dino(bench: Bench) -> list[Measurement]:
    """DINO, 2×224 + 8×96, 65,536 prototypes."""
    batch = 64 if bench.device.type == "cuda" else bench.pick(4, 2)
    views = random_views(batch, [224] * 2 + [96] * 8, bench.device)
    out_dim = bench.pick(65536, 1024)
    found = []
    for name in bench.pick(("vit_s16", "vit_t16"), ("vit_t16",)):
        stepper = our_stepper("dino", name, batch, bench.device, out_dim=out_dim)
        step = plain_dino_step(name, out_dim, bench.device)
        for plain, ours in ((step.student, stepper.method.student), (step.teacher, stepper.method.teacher)):
            plain.copy_weights(ours.state_dict())
        references = {"reference": step}
        if bench.authors:
            authors_name = {"vit_s16": "vit_small", "vit_t16": "vit_tiny"}[name]
            references["authors"] = bench.authors.dino_step(authors_name, out_dim, len(views), bench.device)
        case = f"DINO {name}, 2×224 + 8×96, out_dim {out_dim}, batch {batch}"
        compiled = None
        if not bench.quick:
            try:
                compiled = our_stepper("dino", name, batch, bench.device, compiled=True, out_dim=out_dim)
            except UsageError as error:  # what compiles is not there
                print(f"without compiled blocks: {error}", file=sys.stderr)
        found += _compare(bench, "dino", case, stepper, references, views, compiled)
    return found


def barlow_twins(bench: Bench) -> list[Measurement]:
    """Barlow Twins, ResNet-50, 8192-8192-8192."""
    batch = 256 if bench.device.type == "cuda" else bench.pick(8, 4)
    name, width = bench.pick(("resnet50", 8192), ("resnet18", 256))
    views = random_views(batch, [224] * 2, bench.device)
    stepper = our_stepper("barlow_twins", name, batch, bench.device, projector="-".join([str(width)] * 3))
    model = plain_barlow_twins.BarlowTwins(getattr(torchvision.models, name)(), [width] * 3)
    model.load_state_dict(stepper.method.state_dict())
    references = {"reference": plain_barlow_twins.PlainStep(model, bench.device)}
    case = f"Barlow Twins {name}, 2×224, projector {width}³, batch {batch}"
    return _compare(bench, "barlow_twins", case, stepper, references, views)


def _compare(
    bench: Bench,
    benchmark: str,
    case: str,
    stepper: Stepper,
    references: dict[str, Callable[..., Tensor]],
    views: list[Tensor],
    compiled: Stepper | None = None,
) -> list[Measurement]:
    batch = len(views[0])
    # The same work for all: what the first reference's step takes.
    plain = next(iter(references.values()))
    flops = operations(lambda: plain(views)) / batch
    # An accelerator is asked for several steps before it is waited for, as in training.
    steps = 10 if bench.device.type == "cuda" else 1
    progress = Progress(step=20_000, steps_per_epoch=1000, epochs=stepper.config.epochs)
    labels = torch.full((batch,), -1, device=bench.device)

    def ours(stepper: Stepper, precision: str) -> None:
        stepper.config = dataclasses.replace(stepper.config, precision=precision)
        for _ in range(steps):
            stepper.step([ViewBatch(views, labels)], progress)
        synchronize(bench.device)

    def theirs(step: Callable[..., Tensor], precision: str) -> None:
        for _ in range(steps):
            step(views, bf16=precision == "bf16")
        synchronize(bench.device)

    contenders: dict[str, Callable[[], None]] = {}
    limits = {}
    for precision in PRECISIONS:
        contenders[f"ours, {precision}"] = lambda p=precision: ours(stepper, p)
        if compiled and precision == "bf16":
            contenders["ours compiled, bf16"] = lambda: ours(compiled, "bf16")
        for name, step in references.items():
            contenders[f"{name}, {precision}"] = lambda s=step, p=precision: theirs(s, p)
        limit = Limit(f"matrix product, {precision}", bench.product(precision), flops)
        limits |= {name: limit for name in contenders if name.endswith(precision)}
    case += f", {flops / 1e9:.0f} GFLOP an image"
    return bench.measure(benchmark, case, contenders, batch * steps, "images/s", limits)
