"""How MoCo v3's ViTs start (reference: facebookresearch/moco-v3, vits.py): fixed positions of sines and cosines, Xavier's weights,
and a patch projection that can stay as it was drawn. For DINO's ViTs and timm's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from backbones.base import Backbone


def sincos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Position embeddings ``[rows · columns, width]`` of a patch grid, row by row: sines and cosines of the row, then of the
    column, at ``width / 4`` frequencies from 1 down to almost 1 / 10,000 (Vaswani et al. 2017, section 3.5, in two dimensions).
    Raises ValueError for a width that 4 does not divide."""
    if width % 4:
        raise ValueError(f"width {width}: give a multiple of 4")
    frequencies = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def start_as_mocov3(backbone: Backbone) -> None:
    """Give a ViT fixed positions and Xavier's weights, in place; other backbones, and ViTs without absolute positions of a whole
    grid, keep what they have of each."""
    if not backbone.has_tokens:
        return
    network = backbone.published
    with torch.no_grad():
        _fix_positions(network)
        for name, module in network.named_modules():
            if isinstance(module, nn.Linear):
                # Queries, keys and values are three layers in one.
                outputs = module.out_features // 3 if name.endswith("qkv") else module.out_features
                _xavier(module, module.in_features, outputs)
        if isinstance(getattr(network, "cls_token", None), nn.Parameter):
            nn.init.normal_(network.cls_token, std=1e-6)
        if (projection := patch_projection(backbone)) is not None:
            _xavier(projection, projection.weight[0].numel(), projection.out_channels)


def patch_projection(backbone: Backbone) -> nn.Conv2d | None:
    """The linear projection of a ViT's patches; None for another backbone or another stem, such as convolutions that overlap."""
    stem = getattr(backbone.published, "patch_embed", None)
    projection = getattr(stem, "proj", None)
    if not backbone.has_tokens or not isinstance(projection, nn.Conv2d) or projection.kernel_size != projection.stride:
        return None
    convolutions = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    return projection if len(convolutions) == 1 else None


def _fix_positions(network: nn.Module) -> None:
    """Overwrite learned positions by fixed ones, zeros for the tokens before the patches'."""
    positions = getattr(network, "pos_embed", None)
    if not isinstance(positions, nn.Parameter) or positions.ndim != 3 or positions.shape[2] % 4:
        return
    count = positions.shape[1]
    rows, columns = getattr(getattr(network, "patch_embed", None), "grid_size", None) or [math.isqrt(count)] * 2
    extra = count - rows * columns
    if not 0 <= extra <= getattr(network, "num_prefix_tokens", 1):
        return
    positions.zero_()
    positions[0, extra:] = sincos_positions(rows, columns, positions.shape[2])
    positions.requires_grad_(False)


def _xavier(module: nn.Linear | nn.Conv2d, inputs: int, outputs: int) -> None:
    """Weights that are uniform within ``± sqrt(6 / (inputs + outputs))`` (Glorot & Bengio 2010), biases of zero."""
    bound = math.sqrt(6 / (inputs + outputs))
    nn.init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
