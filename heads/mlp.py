"""The multi-layer perceptron of projection heads and predictors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class MLP(nn.Sequential):
    """Linear, norm, activation for each hidden width, then a last linear layer: ``[B, in_dim]`` to ``[B, widths[-1]]``. State-dict
    names are the authors': the layers' numbers.

    Args:
        widths: output width of each linear layer, at least one.
        bias: whether the linear layers have biases.
        norm: makes the norm after each hidden linear layer, from its width. ``nn.Identity`` keeps the numbering of a network with
            norms; None makes no layer.
        last_norm: makes the norm after the last linear layer; None: no layer.
        activation: makes the layer after each hidden norm.

    >>> MLP(6, [8, 4], bias=False)
    MLP(
      (0): Linear(in_features=6, out_features=8, bias=False)
      (1): BatchNorm1d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (2): ReLU(inplace=True)
      (3): Linear(in_features=8, out_features=4, bias=False)
    )
    """

    def __init__(
        self,
        in_dim: int,
        widths: Sequence[int],
        *,
        bias: bool = True,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm1d,
        last_norm: Callable[[int], nn.Module] | None = None,
        activation: Callable[[], nn.Module] = lambda: nn.ReLU(inplace=True),
    ):
        if not widths or min(widths) < 1:
            raise ValueError(f"widths {list(widths)}: give at least one, each at least 1")
        layers: list[nn.Module] = []
        width = in_dim
        for hidden in widths[:-1]:
            layers += [nn.Linear(width, hidden, bias=bias), *([norm(hidden)] if norm else []), activation()]
            width = hidden
        layers += [nn.Linear(width, widths[-1], bias=bias), *([last_norm(widths[-1])] if last_norm else [])]
        super().__init__(*layers)
        self.out_dim = widths[-1]

    def forward(self, features: Tensor, views: int = 1) -> Tensor:
        """Rows may be several views of equal size, one after the other. BatchNorm then normalises each view by itself, while the
        linear layers read their weights, and write their gradients, once for all views."""
        for layer in self:
            if views > 1 and isinstance(layer, _BatchNorm):
                features = torch.cat([layer(view) for view in features.chunk(views)])
            else:
                features = layer(features)
        return features


def scaling_batchnorm(width: int) -> nn.BatchNorm1d:
    """A BatchNorm with a learned scale and no shift, as after SimCLR's last layer. Its bias stays at zero."""
    norm = nn.BatchNorm1d(width)
    norm.bias.requires_grad_(False)
    return norm


def parse_widths(spec: str) -> list[int]:
    """Layer widths of ``8192-8192-8192``; raises ValueError for anything else."""
    parts = str(spec).split("-")
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError("give the layers' widths, such as 8192-8192-8192")
    return [int(part) for part in parts]
