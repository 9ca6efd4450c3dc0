"""What a run would do and cost, without doing it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from backbones import build_backbone
from backbones.base import Backbone
from backbones.vit import as_on_accelerator
from common.errors import UserError
from data.datasets import open_dataset
from data.store.store import ImageStore
from data.views.spec import View
from methods.core.base import METHODS, Method, MethodConfig, Progress, ViewBatch
from rundir.log import fingerprint_of
from training.batches import MODEL, hold_out, seed_of, short_side_for
from training.config import TrainConfig
from training.machine.devices import autocast, pick_device

#: Copies of each trained parameter that an optimiser keeps.
OPTIMIZER_STATE = {"adamw": 2, "sgd": 1, "lars": 1}


def cost_of(
    build: Callable[[], Method], views: list[View], config: TrainConfig, num_labels: int | None
) -> dict[str, Any]:
    """Count what training costs, on tensors without contents, so that nothing is computed.

    Args:
        build: makes the method.
        views: of the method.
        config: resolved options.
        num_labels: columns of multi-hot labels; None where an image has one label.

    Returns:
        ``patch_size`` (None of a network without patches), ``uses_labels`` (whether the loss reads them), ``parameters`` (of
        the evaluated backbone), ``trained_parameters``, ``flops`` (of one forward pass of the backbone for
        one image), ``training_flops`` (forward and backward passes of all views of one image), and ``memory_gib``, an
        estimate: weights, gradients and optimiser state, and the tensors that autograd keeps for the backward pass of
        ``batch_size / accumulate`` images. None where the method's forward pass depends on values. A multiply-add counts as
        two operations.
    """
    accelerator = pick_device(config.device).type != "cpu"
    with torch.device("meta"):
        method = build()
    backbone = method.backbone
    parameters, flops = count(backbone, config.image_size)
    with FakeTensorMode(allow_non_fake_inputs=True):
        method.to_empty(device="cpu")
        if accelerator:
            as_on_accelerator(method)
        trained = [p for p in method.parameters() if p.requires_grad]
        weights = sum(t.nbytes for t in (*method.parameters(), *method.buffers()))
        state = (1 + OPTIMIZER_STATE[config.optimizer]) * sum(p.nbytes for p in trained)
        training_flops = activations = None
        if method.trains:
            # A method that looks at values finds none: these two costs are then not known.
            with suppress(RuntimeError, NotImplementedError):
                training_flops, activations = _training_pass(method, views, config, num_labels)
    return {
        "patch_size": backbone.stride if backbone.has_tokens else None,
        "uses_labels": method.uses_labels,
        "parameters": parameters,
        "trained_parameters": sum(p.numel() for p in trained),
        "flops": flops,
        "training_flops": training_flops,
        "memory_gib": {
            "weights": weights / 2**30,
            "gradients_and_optimizer": state / 2**30,
            "activations": None if activations is None else activations / 2**30,
        },
    }


def _training_pass(method: Method, views: list[View], config: TrainConfig, num_labels: int | None) -> tuple[int, int]:
    """Operations of a forward and backward pass, per image, and bytes kept between the two."""
    rows = config.batch_size // config.accumulate
    labels = torch.zeros(rows, dtype=torch.int64) if num_labels is None else torch.zeros(rows, num_labels)
    batch = ViewBatch([torch.empty(rows, 3, view.size, view.size) for view in views], labels)
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    method.before_step(Progress(0, 1, config.epochs))
    # What counts is the size of the numbers, so bf16 stands for fp16, too.
    precision = "fp32" if config.precision == "fp32" else "bf16"
    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter:
        with saved, autocast(torch.device("cpu"), precision):
            loss = method(batch).loss
        activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
    return round(counter.get_total_flops() / rows), activations


def print_plan(plan: dict[str, Any]) -> None:
    """Print what ``trainer.plan`` returns, as YAML with a line for every number that needs a unit."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(yaml.safe_dump({"options": plan["options"]}, sort_keys=False, allow_unicode=True), markup=False)
    memory = {name: value for name, value in plan["memory_gib"].items() if value is not None}
    lines = {
        "training images": f"{plan['images']:,} ({plan['held_out']:,} more held out for the online k-NN)",
        "left out each epoch": f"{plan['left_out']:,} images, others each time (the last, partial batch)",
        "steps": f"{plan['steps_per_epoch']:,} an epoch, {plan['total_steps']:,} in all",
        "images seen": f"{plan['images_seen']:,}",
        "device": f"{plan['device']}, {plan['options']['precision']}",
        "parameters": f"{plan['parameters']:,} of the backbone, {plan['trained_parameters']:,} trained",
        "FLOPs an image": f"{_si(plan['flops'])} of the backbone at {plan['options']['image_size']} pixels",
        "FLOPs an image, training": f"{_si(plan['training_flops'])} forward and backward of all views",
        "memory, estimated": ", ".join(f"{name.replace('_', ' ')} {value:.2f} GiB" for name, value in memory.items()),
    }
    if plan["training_flops"] is None:
        del lines["FLOPs an image, training"]
    for name, line in lines.items():
        console.print(f"{name}: {line}", markup=False)


def _si(value: float | None) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value and value >= size:
            return f"{value / size:.2f} {unit}FLOP"
    return f"{value} FLOP"


def build_method(config: TrainConfig, method_config: MethodConfig, num_classes: int) -> Method:
    """A freshly initialised method; its weights are a function of the seed."""
    torch.manual_seed(seed_of(MODEL, config.seed))

    def make_backbone(**hints: Any) -> Any:
        return build_backbone(config.backbone, config.image_size, **hints)

    return METHODS.get(config.method)(method_config, make_backbone, num_classes)


def images_of(config: TrainConfig) -> tuple[ImageStore, ImageStore]:
    """The images to train on, and those held out for the online k-NN. Of several processes the first decodes them."""
    root = None if config.data_root is None else Path(config.data_root)
    store = open_dataset(config.data, "train", root, short_side_for(config.image_size), stream=config.stream)
    if METHODS.get(config.method).uses_labels:
        labelled = (store.labels >= 0).any() if store.label_sets is None else store.label_sets.any()
        if not labelled:
            raise UserError(f"--method {config.method} needs labels, and no training image of {config.data} has one")
    trained, held_out = hold_out(len(store), config.knn_every)
    return store.subset(trained), store.subset(held_out)


def require_same_images(run: Path, config: TrainConfig) -> None:
    """See that a run that has begun goes on, or is evaluated, on the images that it began with: they may have moved, and
    ``data_root`` may then differ. Raises UserError where its log says that they were others."""
    begun = fingerprint_of(run)
    if begun is None:
        return
    now = images_of(config)[0].fingerprint
    if begun != now:
        where = f" in {config.data_root}" if config.data_root else ""
        raise UserError(
            f"{run} was begun on other images than those of {config.data}{where} (fingerprint {begun}, now {now}); "
            "give the folder of those, or another --out"
        )


def costs_of(config: TrainConfig, method_config: MethodConfig, store: ImageStore) -> dict[str, Any]:
    """What training on ``store`` costs: see ``training.plan.cost_of``."""
    views = list(METHODS.get(config.method).views(method_config, config.image_size))
    labels = None if store.label_sets is None else store.num_classes
    return cost_of(lambda: build_method(config, method_config, store.num_classes), views, config, labels)


def count(backbone: Backbone, image_size: int) -> tuple[int, int]:
    """Parameters, and floating-point operations of one forward pass of one square image of ``image_size`` pixels.

    A multiply-add counts as two operations (halve them for the "GMACs" that many papers call FLOPs). Convolutions and matrix
    products are counted, attention's included; norms and activations are not. Nothing is computed: a copy without storage
    passes the image on. Of transformers all tokens are computed, as in published counts, although pooled features need only the
    CLS token of the last block.
    """
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    shadow = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        compute = shadow.tokens if shadow.has_tokens else shadow
        compute(torch.empty(1, 3, image_size, image_size, device="meta"))
    return parameters, counter.get_total_flops()
