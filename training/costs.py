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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from backbones.base import Backbone
from backbones.vit import as_on_accelerator
from data.views.spec import View
from methods.core.base import Method, Progress, ViewBatch
from training.config import TrainConfig
from training.machine.devices import autocast, pick_device
from training.machine.uncompiled import without_dynamo

#: Copies of each trained parameter that an optimiser keeps.
OPTIMIZER_STATE = {"adamw": 2, "sgd": 1, "lars": 1, "larc": 1}


def cost_of(
    build: Callable[[], Method], views: list[View], config: TrainConfig, num_labels: int | None
) -> dict[str, Any]:
    """Count the costs of training on tensors without contents. ``num_labels``: columns of multi-hot labels, else None.

    Returns:
        ``patch_size`` (None without patches), ``uses_labels`` (``Method.label_use``), ``parameters`` (of the evaluated backbone),
        ``trained_parameters``, ``flops`` (one image's forward pass of the backbone), ``training_flops`` (forward and backward
        passes of all views of an image; a multiply-add is two operations), and ``memory``, an estimate in bytes: weights, gradients
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
        training_flops = activations = None
        if method.trains:
            # Only the size of the numbers counts, so bf16 stands for fp16, too.
            precision = "fp32" if config.precision == "fp32" else "bf16"
            # A method whose forward pass depends on values fails here, and these two costs stay unknown.
            with suppress(RuntimeError, NotImplementedError), Operations() as operations:
                with autocast(torch.device("cpu"), precision):
                    loss, activations = _forward(method, views, config, num_labels)
                loss.backward()
                training_flops = round(operations.total / (config.batch_size // config.accumulate))
    return {
        "patch_size": backbone.stride if backbone.has_tokens else None,
        "uses_labels": method.label_use(vars(method.config)),
        "parameters": parameters,
        "trained_parameters": sum(p.numel() for p in _trained(method)),
        "flops": flops,
        "training_flops": training_flops,
        "memory": _memory(method, config, activations),
    }


def most_costs(
    build: Callable[[], Method], views: list[View], config: TrainConfig, num_labels: int | None
) -> dict[str, Any]:
    """Upper bounds of ``training_flops`` and ``memory`` of ``cost_of``, sooner than those, from a forward pass without autocast
    and without fused attention: three times its operations, since a backward pass takes those of two; activations are twice what it
    keeps, and the weights, since autocast may keep a tensor and its half. None, as ``activations``, if the forward pass depends on
    values, or on a device that has some. Sizes that do not fit raise."""
    method, activations, flops = on_meta(build), None, None
    if method.trains:
        with suppress(RuntimeError, NotImplementedError), torch.device("meta"), without_dynamo():
            with Operations() as operations:
                kept = _forward(method, views, config, num_labels)[1]
            activations = 2 * kept + sum(p.nbytes for p in method.parameters())
            flops = 3 * operations.total / (config.batch_size // config.accumulate)
    return {"training_flops": flops, "memory": _memory(method, config, activations)}


def _trained(method: Method) -> list[nn.Parameter]:
    return [p for p in method.parameters() if p.requires_grad and method.trains]


def _memory(method: Method, config: TrainConfig, activations: int | None) -> dict[str, int | None]:
    weights = sum(t.nbytes for t in (*method.parameters(), *method.buffers()))
    state = (1 + OPTIMIZER_STATE[config.optimizer]) * sum(p.nbytes for p in _trained(method))
    return {"weights": weights, "gradients_and_optimizer": state, "activations": activations}


def on_meta(build: Callable[[], Method]) -> Method:
    """Build a method without memory for its weights."""
    with torch.device("meta"), without_dynamo():
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
    None if there is none. Only shapes are computed, in a copy: the backbone of what ``build`` gives may serve others, too."""

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


class Operations(TorchDispatchMode):
    """Counts the floating-point operations within the block by torch's formulas, as ``torch.utils.flop_counter.FlopCounterMode``
    does, but without that one's guard against being compiled, which imports ``torch._dynamo``, in over a second."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # made of others, or none of the counted ones
                if (made := func.decompose(*args, **kwargs)) is not NotImplemented:
                    return made
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


def _forward(method: Method, views: list[View], config: TrainConfig, num_labels: int | None) -> tuple[Tensor, int]:
    """Take a part of a batch without contents through the method. Returns the loss, and the bytes kept for the backward pass."""
    batch = empty_batch(views, config.batch_size // config.accumulate, num_labels)
    batch.step_labels = empty_batch([], config.batch_size, num_labels).labels
    own = {p.untyped_storage()._cdata for p in method.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    method.before_step(Progress(0, 1, config.epochs))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = method(batch).loss
    return loss, sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def count(backbone: Backbone, image_size: int) -> tuple[int, int]:
    """Count parameters, and floating-point operations of a forward pass of one square image of ``image_size`` pixels.

    A multiply-add counts as two operations (halve them for the "GMACs" that many papers call FLOPs). Convolutions and matrix
    products count, norms and activations do not. All tokens of a transformer's last block count, as in published numbers.
    """
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    shadow = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad(), without_dynamo(), Operations() as operations:
        compute = shadow.tokens if shadow.has_tokens else shadow
        compute(torch.empty(1, 3, image_size, image_size, device="meta"))
    return parameters, operations.total
