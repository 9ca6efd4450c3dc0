"""Optimisers by name, rates of their parameter groups, and gradient clipping. No operation waits for the device."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from common.distributed import norms, own_parts
from common.errors import unknown_name

OPTIMIZERS = ("adamw", "sgd", "lars", "larc")
#: Elements of a tensor that a CPU core updates at a time.
BLOCK = 2**17


class Uncompiled(torch.optim.Optimizer):
    """An optimiser without torch's guards against being compiled, which import ``torch._dynamo`` (``training.machine.uncompiled``);
    nothing here compiles a step."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class AdamW(Uncompiled, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class SGD(Uncompiled, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class LARS(Uncompiled):
    """Layer-wise adaptive rate scaling, equal in DINO's and Barlow Twins' code (dino/utils.py and barlowtwins/main.py, ``class
    LARS``; You et al. 2017, arXiv 1708.03888).

    ``mu = momentum · mu + q · (grad + weight_decay · w)``, ``w -= lr · mu`` with ``q = eta · |w| / |grad + weight_decay · w|``
    (1 if either norm is zero). 1-d tensors (biases, norms) have neither decay nor adaptation. A tensor without a gradient and
    its ``mu`` stay as they are. A step overwrites the gradients.

    Args:
        larc: for tensors of any dimension ``q = eta · |w| / (|grad| + weight_decay · |w| + 1e-8)``, and neither decay nor
            adaptation if the norm of the weight or of the gradient is zero (NVIDIA/apex's ``LARC`` with ``clip=False``, as in
            SwAV's main_swav.py).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        eta: float = 0.001,
        larc: bool = False,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eta": eta})
        self.larc = larc

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            # Gradients change in place: on a CPU, fresh memory costs more than the arithmetic.
            adapted = [p for p in parameters if self.larc or p.ndim != 1]
            parameters = adapted + [p for p in parameters if not (self.larc or p.ndim != 1)]
            ratios = torch.ones(len(parameters), device=parameters[0].device)
            if adapted:
                ratios[: len(adapted)] = self._decay(adapted, group["weight_decay"], group["eta"])
            for p in parameters:
                if "mu" not in self.state[p]:
                    self.state[p]["mu"] = torch.zeros_like(p)
            mus = [self.state[p]["mu"] for p in parameters]
            parts = map(own_parts, (parameters, [p.grad for p in parameters], mus))
            _update(*parts, ratios, group["momentum"], group["lr"])

    def _decay(self, parameters: list[Tensor], decay: float, eta: float) -> Tensor:
        """Add the decay to the gradients, and return the factor of each."""
        gradients = [p.grad for p in parameters]
        weight_norms = norms(parameters)
        gradient_norms = norms(gradients) if self.larc else None
        torch._foreach_add_(own_parts(gradients), own_parts(parameters), alpha=decay)
        if not self.larc:
            update_norms = norms(gradients)
            return torch.where((weight_norms > 0) & (update_norms > 0), eta * weight_norms / update_norms, 1.0)
        adapted = eta * weight_norms / (gradient_norms + decay * weight_norms + 1e-8)
        # A weight of zeros has no decay, and is not adapted; a gradient of zeros stays one, without the decay.
        return torch.where(weight_norms > 0, adapted, 1.0) * (gradient_norms > 0)


def _update(
    weights: list[Tensor], gradients: list[Tensor], mus: list[Tensor], ratios: Tensor, momentum: float, lr: float
) -> None:
    """Apply the update of ``LARS``: on an accelerator to all tensors at once, on a CPU in blocks that stay in its cache."""
    if ratios.device.type != "cpu":
        torch._foreach_mul_(gradients, list(ratios.unbind()))
        torch._foreach_mul_(mus, momentum)
        torch._foreach_add_(mus, gradients)
        torch._foreach_add_(weights, mus, alpha=-lr)
        return
    for *tensors, ratio in zip(weights, gradients, mus, ratios.tolist(), strict=True):
        tensors = [torch.atleast_1d(tensor) for tensor in tensors]
        rows = max(1, BLOCK * len(tensors[0]) // max(1, tensors[0].numel()))
        for weight, gradient, mu in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
            mu.mul_(momentum).add_(gradient, alpha=ratio)
            weight.add_(mu, alpha=-lr)


def build_optimizer(name: str, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    """Build an optimiser for groups with ``params`` and perhaps ``lr_scale`` and a fixed ``weight_decay``; ``set_rates`` sets their
    rates before each step. AdamW has torch's betas, 0.9 and 0.999, as the references do; SGD, LARS and LARC take ``momentum``."""
    # A fixed decay needs a name of its own: torch fills in ``weight_decay`` where a group has none.
    groups = [{"lr_scale": 1.0, "fixed_weight_decay": group.get("weight_decay"), **group} for group in groups]
    if name == "adamw":
        # Fused: a single pass over weights and moments for all operations.
        return AdamW(groups, lr=0.0, weight_decay=0.0, fused=True)
    if name == "sgd":
        return SGD(groups, lr=0.0, weight_decay=0.0, momentum=momentum)
    if name in ("lars", "larc"):
        return LARS(groups, momentum=momentum, larc=name == "larc")
    raise unknown_name("optimizer", name, OPTIMIZERS)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set every group's learning rate (times its ``lr_scale``) and weight decay (unless it has a fixed one)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        fixed = group["fixed_weight_decay"]
        group["weight_decay"] = weight_decay if fixed is None else fixed


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], max_norm: float, mode: Literal["tensor", "global"]) -> None:
    """Scale gradients in place by ``min(1, max_norm / (norm + 1e-6))`` for 2-norms; a ``max_norm`` of 0 clips nothing. ``tensor``
    uses each tensor's norm (dino/utils.py, ``clip_gradients``), ``global`` the norm of all together."""
    parameters = [p for p in parameters if p.grad is not None]
    if not max_norm or not parameters:
        return
    if mode == "global":
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return
    gradients = [p.grad for p in parameters]
    torch._foreach_mul_(own_parts(gradients), list((max_norm / (norms(gradients) + 1e-6)).clamp(max=1.0).unbind()))
