"""A training step, views being made already: images per second, and the share of the matrix rate by counted operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
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
from methods.core.base import METHODS, Progress, ViewBatch
from training.config import TrainConfig
from training.machine.devices import synchronize
from training.plan import build_method
from training.resolve import resolve
from training.step import Stepper

#: Backbones that the authors' code has, by its names.
AUTHORS = {"vit_t16": "vit_tiny", "vit_s16": "vit_small"}


def our_config(
    method: str, backbone: str, batch: int, device: torch.device, precision: str, **options: Any
) -> TrainConfig:
    """The trainer's options, at the method's published defaults but for ``options``."""
    size = ARCHITECTURES.get(backbone, {}).get("position_size", 224)
    chosen = {"method": method, "backbone": backbone, "batch_size": batch, "image_size": size, "precision": precision}
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


def plain_vit(backbone: str, drop_path_rate: float = 0.0) -> VisionTransformer:
    """The reference's network of a ViT of ours."""
    sizes = dict(ARCHITECTURES[backbone])
    sizes["inner"] = sizes.pop("stem", ())
    sizes.pop("init_std", None)  # weights are taken over
    return VisionTransformer(**sizes, drop_path_rate=drop_path_rate)


def plain_dino_step(backbone: str, out_dim: int, device: torch.device) -> plain_dino.PlainStep:
    """The reference's step of a ViT of ours."""
    student, teacher = (plain_dino.Network(plain_vit(backbone, rate), out_dim) for rate in (0.1, 0.0))
    return plain_dino.PlainStep(student, teacher, plain_dino.Loss(out_dim), device)


def random_views(batch: int, sizes: list[int], device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, 3, size, size, generator=generator).to(device) for size in sizes]


def dino(bench: Bench, backbone: str) -> Iterator[list[Measurement]]:
    """A training step of DINO.

    2×224 + 8×96 pixels and 65,536 prototypes; vit_nano 2×32 + 8×16 and 4,096."""
    large, small, out_dim, batch = (32, 16, 4096, 64) if backbone == "vit_nano" else (224, 96, 65536, 4)
    batch = 64 if bench.device.type == "cuda" else bench.pick(batch, 2)
    views = random_views(batch, [large] * 2 + [small] * 8, bench.device)
    out_dim = bench.pick(out_dim, 1024)
    stepper = our_stepper("dino", backbone, batch, bench.device, out_dim=out_dim)
    step = plain_dino_step(backbone, out_dim, bench.device)
    for plain, ours in ((step.student, stepper.method.student), (step.teacher, stepper.method.teacher)):
        plain.copy_weights(ours.state_dict())
    references = {"reference": step}
    if bench.authors and backbone in AUTHORS:
        references["authors"] = bench.authors.dino_step(AUTHORS[backbone], out_dim, len(views), bench.device)
    compiled = None
    if bench.device.type == "cuda":
        compiled = our_stepper("dino", backbone, batch, bench.device, compiled=True, out_dim=out_dim)
    case = f"DINO {backbone}, 2×{large} + 8×{small}, out_dim {out_dim}, batch {batch}"
    yield _compare(bench, case, stepper, references, views, compiled)


def barlow_twins(bench: Bench, backbone: str) -> Iterator[list[Measurement]]:
    """A training step of Barlow Twins.

    ResNet-50 at 224 pixels with 8192-8192-8192, ResNet-18 at 128 with 2048-2048-2048."""
    size, width, batch = {"resnet50": (224, 8192, 8), "resnet18": (128, 2048, 32)}[backbone]
    batch, width = 256 if bench.device.type == "cuda" else bench.pick(batch, 4), bench.pick(width, 256)
    views = random_views(batch, [size] * 2, bench.device)
    stepper = our_stepper("barlow_twins", backbone, batch, bench.device, projector="-".join([str(width)] * 3))
    model = plain_barlow_twins.BarlowTwins(getattr(torchvision.models, backbone)(), [width] * 3)
    model.load_state_dict(stepper.method.state_dict())
    references = {"reference": plain_barlow_twins.PlainStep(model, bench.device)}
    case = f"Barlow Twins {backbone}, 2×{size}, projector {width}³, batch {batch}"
    yield _compare(bench, case, stepper, references, views)


def _compare(
    bench: Bench,
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
    for precision in bench.precisions:
        contenders[f"ours, {precision}"] = lambda p=precision: ours(stepper, p)
        if compiled and precision == bench.precisions[-1]:
            contenders[f"ours compiled, {precision}"] = lambda p=precision: ours(compiled, p)
        for name, step in references.items():
            contenders[f"{name}, {precision}"] = lambda s=step, p=precision: theirs(s, p)
        limit = Limit(f"matrix product, {precision}", bench.product(precision), flops)
        limits |= {name: limit for name in contenders if name.endswith(precision)}
    case += f", {flops / 1e9:.0f} GFLOP an image"
    return bench.measure(case, contenders, batch * steps, "images/s", limits)
