"""Evaluation images: resized, cut out at the centre, normalised."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.store.store import ImageBatch
from data.views.tensors import bicubic_weights, down_first, in_float32, normalise_levels, to_device


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
            pixels = pixels[to_device(same, out.device)].float()
            # torchvision truncates the long side and rounds the corner half to even.
            new = [int(resize * side / min(height, width)) for side in (height, width)]
            y, x = (
                _centre_weights(old, side, size, out.device) for old, side in zip((height, width), new, strict=True)
            )
            if down_first(height, width, *new):
                out[at] = (y @ pixels).clamp_(0, 255) @ x.mT
            else:
                out[at] = y @ (pixels @ x.mT).clamp_(0, 255)
    return normalise_levels(out.round_().clamp_(0, 255), mean, std)


@functools.lru_cache(maxsize=256)  # data sets have few sizes and many batches
def _centre_weights(old: int, new: int, size: int, device: torch.device) -> Tensor:
    """Weights ``[size, old]`` of the central ``size`` pixels of ``old`` ones resized to ``new``."""
    first = round((new - size) / 2)
    weights = bicubic_weights(to_device([0], device), to_device([old], device), new, old)
    return weights[0, first : first + size].clone()
