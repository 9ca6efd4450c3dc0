"""Barlow Twins' projector, under the authors' state-dict names (reference: facebookresearch/barlowtwins ``main.py``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UsageError


class BarlowProjector(nn.Sequential):
    """Bias-free Linear, BatchNorm, ReLU for each size but the last, then a bias-free Linear: ``[B, in_dim]`` to
    ``[B, sizes[-1]]``. The affine-free BatchNorm of the projections belongs to the loss, not to the projector.

    Args:
        in_dim: width of the backbone's features.
        sizes: output width of each linear layer, at least one.
    """

    def __init__(self, in_dim: int, sizes: Sequence[int] = (8192, 8192, 8192)):
        if not sizes or min(sizes) < 1:
            raise UsageError(f"projector sizes {list(sizes)}: give at least one, each at least 1")
        layers: list[nn.Module] = []
        for width_in, width_out in zip([in_dim, *sizes[:-2]], sizes[:-1], strict=False):
            layers += [nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
        layers.append(nn.Linear([in_dim, *sizes][-2], sizes[-1], bias=False))
        super().__init__(*layers)
        self.out_dim = sizes[-1]

    def forward(self, features: Tensor, views: int = 1) -> Tensor:
        """The rows may be several views, one after the other, of equal size: BatchNorm then sees each by itself, as if each had
        passed alone. Products of them all read the weights, and write their gradient, once."""
        for layer in self:
            if views > 1 and isinstance(layer, _BatchNorm):
                features = torch.cat([layer(view) for view in features.chunk(views)])
            else:
                features = layer(features)
        return features
