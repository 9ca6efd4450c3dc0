"""DINO's projection head, under the authors' state-dict names (reference: facebookresearch/dino ``DINOHead``)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UsageError
from heads.mlp import MLP


class WeightNormLinear(nn.Module):
    """A bias-free linear layer whose rows are ``weight_g · weight_v / |weight_v|`` (Salimans & Kingma 2016). Torch's
    ``parametrizations.weight_norm`` has other state-dict names than the authors'; its ``weight_norm`` is deprecated."""

    def __init__(self, in_dim: int, out_dim: int, trainable_gain: bool):
        super().__init__()
        # The direction starts as nn.Linear's weight; its length scales the optimiser's step.
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=trainable_gain)
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach())

    def forward(self, features: Tensor) -> Tensor:
        # The kernel of torch's weight_norm: for 65,536 prototypes 1.5 times as fast as the formula.
        return F.linear(features, torch._weight_norm(self.weight_v, self.weight_g, 0))


class DINOHead(nn.Module):
    """MLP, L2 normalisation, weight-normalised linear layer: ``[B, in_dim]`` to logits ``[B, out_dim]``.

    Args:
        out_dim: number of prototypes (K in the paper).
        use_bn: BatchNorm after each hidden linear layer (the trainer synchronises it over ranks).
        norm_last_layer: keep the gain of the last layer at 1; else it is learned.
        nlayers: linear layers of the MLP, at least 1 (then no hidden layer and no BatchNorm).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 65536,
        use_bn: bool = False,
        norm_last_layer: bool = True,
        nlayers: int = 3,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
    ):
        super().__init__()
        if nlayers < 1:
            raise UsageError(f"the DINO head needs at least 1 layer, not {nlayers}")
        widths = [hidden_dim] * (nlayers - 1) + [bottleneck_dim]
        mlp = MLP(in_dim, widths, norm=nn.BatchNorm1d if use_bn else None, activation=nn.GELU)
        for layer in mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.mlp = mlp if nlayers > 1 else mlp[0]  # a single layer has no index in the authors' names
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, trainable_gain=not norm_last_layer)

    def forward(
        self,
        features: Tensor,
        predictor: nn.Module | None = None,
        average: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """``predictor`` maps the MLP's outputs to others of the same width, ``average`` the unit vectors before the last layer."""
        bottleneck = self.mlp(features)
        if predictor is not None:
            bottleneck = predictor(bottleneck)
        vectors = F.normalize(bottleneck, dim=-1)
        return self.last_layer(vectors if average is None else average(vectors))
