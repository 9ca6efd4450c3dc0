"""The costs of training a method: parameters, operations and memory, counted without computing anything."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from backbones.base import Backbone
from backbones.vit import as_on_accelerator
from data.views.spec import View
from methods.core.base import Method, Progress, ViewBatch
from training.config import TrainConfig
from training.machine.devices import autocast, pick_device

#: Copies of each trained parameter that an optimiser keeps.
OPTIMIZER_STATE = {"adamw": 2, "sgd": 1, "lars": 1, "larc": 1}


def cost_of(
    build: Callable[[], Method], views: list[View], config: TrainConfig, num_labels: int | None
) -> dict[str, Any]:
    """Count the costs of training on tensors without contents. ``num_labels``: columns of multi-hot labels, else None.

    Returns:
        ``patch_size`` (None without patches), ``uses_labels`` (``Method.label_use``), ``parameters`` (of the evaluated backbone),
        ``trained_parameters``, ``flops`` (one image's forward pass of the backbone), ``training_flops`` (forward and backward
        passes of all views of an image; a multiply-add is two operations), and ``memory_gib``, an estimate: weights, gradients
        and optimiser state, and what autograd keeps for the backward pass of ``batch_size / accumulate`` images.
        ``training_flops`` and the activations are None if the method's forward pass depends on values.
    """
    accelerator = pick_device(config.device).type != "cpu"
    method = on_meta(build)
    backbone = method.backbone
    parameters, flops = count(backbone, config.image_size)
    with _empty(method):
        if accelerator:
            as_on_accelerator(method)
        trained = [p for p in method.parameters() if p.requires_grad and method.trains]
        weights = sum(t.nbytes for t in (*method.parameters(), *method.buffers()))
        state = (1 + OPTIMIZER_STATE[config.optimizer]) * sum(p.nbytes for p in trained)
        training_flops = activations = None
        if method.trains:
            # A method whose forward pass depends on values fails here, and these two costs stay unknown.
            with suppress(RuntimeError, NotImplementedError):
                training_flops, activations = _training_pass(method, views, config, num_labels)
    return {
        "patch_size": backbone.stride if backbone.has_tokens else None,
        "uses_labels": method.label_use(vars(method.config)),
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


def on_meta(build: Callable[[], Method]) -> Method:
    """Build a method without memory for its weights."""
    with torch.device("meta"):
        return build()


@contextmanager
def _empty(method: Method) -> Iterator[None]:
    """Let a method on the meta device, within the block, compute shapes as on a CPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        method.to_empty(device="cpu")
        yield


def empty_batch(views: list[View], rows: int, num_labels: int | None) -> ViewBatch:
    """A batch of ``rows`` images without contents; ``num_labels`` as for ``cost_of``."""
    labels = torch.zeros(rows, dtype=torch.int64) if num_labels is None else torch.zeros(rows, num_labels)
    return ViewBatch([torch.empty(rows, 3, view.size, view.size) for view in views], labels)


def norm_of_one_value(build: Callable[[], Method], batch: Callable[[], ViewBatch], epochs: float) -> str | None:
    """Name a BatchNorm to which a training pass of ``batch()`` would give a single value a channel, so that nothing is left of it;
    None if there is none. Only shapes are computed, in a copy:
    the backbone of what ``build`` gives may serve others, too."""

    class SingleValue(Exception):
        pass

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training and inputs[0].numel() <= inputs[0].shape[1]:
                raise SingleValue(name)

        return look

    method = copy.deepcopy(on_meta(build)).train()
    with _empty(method):
        for name, module in method.named_modules():
            if isinstance(module, _BatchNorm):
                module.register_forward_pre_hook(watch(name))
        try:
            method.before_step(Progress(0, 1, epochs))
            method(batch())
        except SingleValue as single:
            return str(single)
        except (RuntimeError, NotImplementedError):  # a forward pass that depends on values
            return None
    return None


def _training_pass(method: Method, views: list[View], config: TrainConfig, num_labels: int | None) -> tuple[int, int]:
    """Count the operations per image of a forward and backward pass, and the bytes kept between the two."""
    rows = config.batch_size // config.accumulate
    batch = empty_batch(views, rows, num_labels)
    batch.step_labels = empty_batch([], config.batch_size, num_labels).labels
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    method.before_step(Progress(0, 1, config.epochs))
    # Only the size of the numbers counts, so bf16 stands for fp16, too.
    precision = "fp32" if config.precision == "fp32" else "bf16"
    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as counter:
        with saved, autocast(torch.device("cpu"), precision):
            loss = method(batch).loss
        activations = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        loss.backward()
    return round(counter.get_total_flops() / rows), activations


def count(backbone: Backbone, image_size: int) -> tuple[int, int]:
    """Count parameters, and floating-point operations of a forward pass of one square image of ``image_size`` pixels.

    A multiply-add counts as two operations (halve them for the "GMACs" that many papers call FLOPs). Convolutions and matrix
    products count, norms and activations do not. All tokens of a transformer's last block count, as in published numbers.
    """
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    shadow = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        compute = shadow.tokens if shadow.has_tokens else shadow
        compute(torch.empty(1, 3, image_size, image_size, device="meta"))
    return parameters, counter.get_total_flops()
