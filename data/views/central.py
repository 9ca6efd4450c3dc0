"""Images as evaluations see them: resized, cut out at the centre, normalised."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.store.store import ImageBatch
from data.views.tensors import bicubic_weights, down_first, to_device


def _in_float32(function: Callable) -> Callable:
    """Pixels are computed as written here also where the caller's forward pass is under autocast."""

    @functools.wraps(function)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        # Only there: to leave autocast in one thread empties the cache of casts that another one's forward pass is using.
        if not (torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu")):
            return function(*args, **keywords)
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **keywords)

    return wrapped


@torch.no_grad()
@_in_float32
def eval_images(
    images: ImageBatch,
    size: int,
    resize: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Tensor:
    """Images as the evaluations see them: the short side resized (bicubic, antialiased), the centre cut out, normalised. Within 1
    grey level of torchvision's ``Resize(256, interpolation=3)`` and ``CenterCrop(224)`` on PIL images (dino/eval_knn.py).

    Args:
        size: side of the result in pixels.
        resize: short side after the resize, at least ``size``; by default ``round(size · 256 / 224)``.

    Returns:
        float32 ``[B, 3, size, size]`` on the device of the images.

    Raises:
        ValueError: ``resize`` is less than ``size``.
    """
    resize = round(size * 256 / 224) if resize is None else resize
    if resize < size:
        raise ValueError(f"the short side is resized to {resize} pixels, too few to cut out {size}")
    out = torch.empty(len(images.sizes), 3, size, size, device=images.pixels.device)
    for height, width in images.sizes.unique(dim=0).tolist():
        at = to_device((images.sizes == torch.tensor([height, width])).all(dim=1).nonzero()[:, 0], out.device)
        pixels = images.pixels[:, :, :height, :width][at].float()
        # torchvision truncates the long side and rounds the corner half to even.
        new = [int(resize * side / min(height, width)) for side in (height, width)]
        y, x = (_centre_weights(old, side, size, out.device) for old, side in zip((height, width), new, strict=True))
        if down_first(height, width, *new):
            out[at] = (y @ pixels).clamp_(0, 255) @ x.mT
        else:
            out[at] = y @ (pixels @ x.mT).clamp_(0, 255)
    return normalize(out.round_().clamp_(0, 255), mean, std)


@functools.lru_cache(maxsize=256)  # data sets have few sizes, and many batches
def _centre_weights(old: int, new: int, size: int, device: torch.device) -> Tensor:
    """``[size, old]``: the central ``size`` pixels of ``old`` ones resized to ``new``."""
    first = round((new - size) / 2)
    weights = bicubic_weights(to_device([0], device), to_device([old], device), new, old)
    return weights[0, first : first + size].clone()


def normalize(levels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(levels / 255 - mean) / std`` of each channel of ``[n, 3, H, W]``, in place."""
    shift = 255 * to_device(mean, levels.device).view(3, 1, 1)
    scale = 1 / (255 * to_device(std, levels.device).view(3, 1, 1))
    return levels.sub_(shift).mul_(scale)
