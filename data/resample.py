"""Crop, resize, flip and blur of many images at once, as PIL does them one by one.

Both are separable, so along each axis they are a product with a matrix of each image's own: ``W_y · image · W_xᵀ``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def bicubic_weights(starts: Tensor, lengths: Tensor, size: int, total: int) -> Tensor:
    """Matrices that crop and resize along one axis with an antialiased bicubic filter (a = -0.5), as PIL's
    ``crop((start, …, start + length, …)).resize(size, BICUBIC)`` (Pillow: Resample.c, precompute_coeffs).

    Args:
        starts, lengths: int64 ``[n]``, the box within ``total`` pixels.
        size: pixels of the result.

    Returns:
        float32 ``[n, size, total]``; rows sum to 1 and are 0 outside the box.
    """
    starts, lengths = starts.double()[:, None, None], lengths.double()[:, None, None]
    scale = lengths / size
    stretch = scale.clamp(min=1)
    target = torch.arange(size, device=starts.device, dtype=torch.float64)[None, :, None]
    source = torch.arange(total, device=starts.device, dtype=torch.float64)[None, None, :] - starts
    x = ((source + 0.5 - (target + 0.5) * scale) / stretch).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, far) * ((x < 2) & (source >= 0) & (source < lengths))
    return (weights / weights.sum(dim=2, keepdim=True)).float()


def crop_resize(pixels: Tensor, rows: list[int], boxes: list[tuple[int, int, int, int]], flips: list[bool], size: int) -> Tensor:
    """Crops of images, resized to a square with PIL's antialiased bicubic filter, some flipped left to right.

    Args:
        pixels: uint8 ``[B, 3, H, W]``.
        rows: the image of each crop.
        boxes: top, left, height and width of each crop in pixels of its image. Nothing outside enters the crop.
        flips: whether to flip it.
        size: side of the result in pixels.

    Returns:
        float32 ``[n, 3, size, size]``, grey levels 0 to 255.
    """
    out = torch.empty(len(rows), 3, size, size, device=pixels.device)
    for crop, row, (top, left, height, width), flip in zip(out, rows, boxes, flips, strict=True):
        box = pixels[row : row + 1, :, top : top + height, left : left + width]
        crop_ = F.interpolate(box, (size, size), mode="bicubic", antialias=True)[0]
        crop.copy_(crop_.flip(-1) if flip else crop_)
    return out


def box_radius(sigma: float) -> float:
    """Radius of the box that, applied three times, has the variance sigma² (Pillow: BoxBlur.c, _gaussian_blur_radius)."""
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part


def gaussian_blur(images: Tensor, sigmas: list[float]) -> None:
    """Blur image i with a Gaussian of ``sigmas[i]`` pixels, in place: three box blurs along x, then three along y, each
    rounded to whole levels (PIL's ``ImageFilter.GaussianBlur(radius=sigma)``). Images: float32 ``[n, 3, H, W]``."""
    for image, sigma in zip(images, sigmas, strict=True):
        radius = box_radius(sigma)
        whole = int(radius)
        inner = (1 - 2e-6) / (2 * radius + 1)  # a little less: PIL's fixed-point weights round ties down
        outer = inner * (radius - whole)
        reach = whole + 1
        image.round_()
        for axis in (2, 2, 2, 1, 1, 1):
            n = image.shape[axis]
            padded = torch.cat([image.narrow(axis, 0, 1)] * reach + [image] + [image.narrow(axis, n - 1, 1)] * reach, axis)
            total = image * inner
            for step in range(1, reach + 1):
                weight = outer if step == reach else inner
                total.add_(padded.narrow(axis, reach - step, n), alpha=weight)
                total.add_(padded.narrow(axis, reach + step, n), alpha=weight)
            torch.round(total, out=image)
