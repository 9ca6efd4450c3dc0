"""Evaluation images: resized, cut out at the centre, normalised."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.store.store import ImageBatch
from data.views.tensors import bicubic_weights, down_first, in_float32, normalise_levels, to_device

#: Pixels of the output along an axis that are computed together, from the part of the image that has weight in them.
BAND = 32
#: That part, and the weights ``[BAND, part]``.
Band = tuple[slice, Tensor]


@torch.no_grad()
@in_float32
def eval_images(
    images: ImageBatch,
    size: int,
    resize: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """Resize the short side (bicubic, antialiased), cut out the centre, normalise: float32 ``[B, 3, size, size]``, within 1 grey
    level of torchvision's ``Resize(256, interpolation=3)`` and ``CenterCrop(224)`` on PIL images (dino/eval_knn.py).

    Args:
        size: in pixels.
        resize: short side in pixels, at least ``size`` (else ValueError); by default ``round(size · 256 / 224)``.
    """
    resize = round(size * 256 / 224) if resize is None else resize
    if resize < size:
        raise ValueError(f"the short side is resized to {resize} pixels, too few to cut out {size}")
    out = torch.empty(len(images.sizes), 3, size, size, device=images.device)
    for rows, block in images.blocks:
        sizes = images.sizes[rows]
        for height, width in sizes.unique(dim=0).tolist():
            same = (sizes == torch.tensor([height, width])).all(dim=1).nonzero()[:, 0]
            at, pixels = to_device(rows[same], out.device), block[:, :, :height, :width]
            # torchvision truncates the long side and rounds the corner half to even.
            new = [int(resize * side / min(height, width)) for side in (height, width)]
            if new == [height, width]:  # as stores for this size have them: the weights would be 1 and 0
                top, left = (_first(side, size) for side in new)
                pixels = pixels[:, :, top : top + size, left : left + size]
                out[at] = pixels[to_device(same, out.device)].float()
                continue
            pixels = pixels[to_device(same, out.device)].float()
            y, x = (_centre_bands(old, side, size, out.device) for old, side in zip((height, width), new, strict=True))
            if down_first(height, width, *new):
                out[at] = _across(_down(pixels, y).clamp_(0, 255), x)
            else:
                out[at] = _down(_across(pixels, x).clamp_(0, 255), y)
    return normalise_levels(out.round_().clamp_(0, 255), mean, std)


def _first(new: int, size: int) -> int:
    """The first of the central ``size`` pixels of ``new`` ones."""
    return round((new - size) / 2)


@functools.lru_cache(maxsize=256)  # data sets have few sizes and many batches
def _centre_bands(old: int, new: int, size: int, device: torch.device) -> list[Band]:
    """Weights of the central ``size`` pixels of ``old`` ones resized to ``new``."""
    zero, length = torch.tensor([0]), torch.tensor([old])
    weights = bicubic_weights(zero, length, new, old)[0, _first(new, size) :][:size]
    bands = []
    for part in weights.split(BAND):
        (used,) = part.any(dim=0).nonzero(as_tuple=True)
        taken = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((taken, to_device(part[:, taken].clone(), device)))
    return bands


def _across(pixels: Tensor, bands: list[Band]) -> Tensor:
    return torch.cat([pixels[..., taken] @ weights.mT for taken, weights in bands], dim=-1)


def _down(pixels: Tensor, bands: list[Band]) -> Tensor:
    return torch.cat([weights @ pixels[..., taken, :] for taken, weights in bands], dim=-2)
