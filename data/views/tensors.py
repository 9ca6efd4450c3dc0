"""Crop, resize, flip and blur of many images at once, as PIL does them one by one. All of it is separable: along each axis a
product with a matrix of each image's own, ``W_y · image · W_xᵀ``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Box = tuple[int, int, int, int]


def down_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether Pillow (from 13; never before) resizes along y before x. Both round and cut to 0 to 255 in between."""
    return height > new_height and height - new_height > 2 * (width - new_width)


def crop(pixels: Tensor, rows: Sequence[int], boxes: Sequence[Box], flips: Sequence[bool], size: int) -> Tensor:
    """Crops of images, resized to a square with PIL's antialiased bicubic filter, some then flipped left to right: within 1 grey
    level of ``PIL.Image.resize(…, BICUBIC)`` of the crop.

    Args:
        pixels: uint8 ``[B, 3, H, W]``, zero outside the images.
        rows: the image of each crop.
        boxes: top, left, height and width of each crop in pixels of its image. Nothing outside enters the crop.
        flips: whether to flip it.
        size: side of the result in pixels.

    Returns:
        float32 ``[n, 3, size, size]``, whole levels of 0 to 255.
    """
    device = pixels.device
    # Levels are exact in float16, and its weights err by less than 1/2000: 0.1 levels. CPUs have no fast product of it.
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    # Images of several sizes are padded to the largest, which no crop of these may reach.
    pixels = pixels[:, :, : max(box[0] + box[2] for box in boxes), : max(box[1] + box[3] for box in boxes)]
    box = to_device(boxes, device).view(-1, 4)
    x = bicubic_weights(box[:, 1], box[:, 3], size, pixels.shape[3])
    y = bicubic_weights(box[:, 0], box[:, 2], size, pixels.shape[2])
    x = torch.where(to_device(flips, device)[:, None, None], x.flip(1), x)
    x, y = x.to(dtype)[:, None], y.to(dtype)[:, None]
    images = pixels[to_device(rows, device)].to(dtype)
    out = torch.empty(len(rows), 3, size, size, device=device)
    orders = torch.tensor([down_first(box[2], box[3], size, size) for box in boxes])
    for order in orders.unique().tolist():
        at = to_device((orders == order).nonzero()[:, 0], device)
        if order:
            out[at] = ((y[at] @ images[at]).clamp_(0, 255) @ x[at].mT).float()
        else:
            out[at] = (y[at] @ (images[at] @ x[at].mT).clamp_(0, 255)).float()
    return out.round_().clamp_(0, 255)


def bicubic_weights(starts: Tensor, lengths: Tensor, size: int, total: int) -> Tensor:
    """Matrices that crop and resize along one axis with PIL's antialiased bicubic filter (Pillow: Resample.c, a = -0.5).

    Args:
        starts, lengths: int64 ``[n]``, the box within ``total`` pixels.
        size: pixels of the result.

    Returns:
        float32 ``[n, size, total]``; rows sum to 1 and are 0 outside the box.
    """
    starts, lengths = starts[:, None, None].float(), lengths[:, None, None].float()
    target = torch.arange(size, device=starts.device, dtype=torch.float32)[:, None]
    source = torch.arange(total, device=starts.device, dtype=torch.float32) - starts
    # The distance of pixel centres in units of the filter, from whole numbers: exact before the division.
    x = ((2 * source + 1) * size - (2 * target + 1) * lengths).abs_() / (2 * lengths.clamp(min=size))
    near, far = x.clamp(max=1), x.clamp_(1, 2)
    weights = (1.5 * near - 2.5) * near * near + 1
    weights += ((-0.5 * far + 2.5) * far - 4) * far + 2
    weights *= (source >= 0) & (source < lengths)
    return weights / weights.sum(dim=2, keepdim=True)


def gaussian_blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Image i blurred within 2 grey levels of PIL's ``ImageFilter.GaussianBlur(radius=sigmas[i])``, which is three box blurs along
    x, then three along y, each rounded. float32 ``[n, C, size, size]``, levels of 0 to 255, to whole ones."""
    radii, size = [box_radius(sigma) for sigma in sigmas], images.shape[-1]
    weights = spread(to_device(small_blur_weights(radii, size), images.device), size)[:, None]
    return (weights @ (images.round() @ weights.mT).round_()).round_()


def box_radius(sigma: float) -> float:
    """Radius of the box blur that, done three times, has the variance sigma² (Pillow: BoxBlur.c, ``_gaussian_blur_radius``)."""
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part


def blur_reach(radii: Sequence[float]) -> int:
    """Pixels to either side that enter a pixel by three box blurs of these radii."""
    return 3 * (int(max(radii, default=0)) + 1)


def blur_weights(radii: Sequence[float], size: int) -> Tensor:
    """Matrices of three box blurs in a row, along an axis of ``size`` pixels whose border pixels continue outside
    (Pillow: BoxBlur.c). float32 ``[n, size, size]``; rows sum to 1."""
    radius = torch.tensor(radii, dtype=torch.float64)[:, None]
    reach = blur_reach(radii) // 3
    offset = torch.arange(-reach, reach + 1)
    # Of the pixel at the box's end only the part within the radius counts.
    kernel = (radius + 1 - offset.abs()).clamp(0, 1) / (2 * radius + 1)
    source = (torch.arange(size)[:, None] + offset).clamp(0, size - 1)
    box = torch.zeros(len(radii), size, size)
    box.scatter_add_(2, source.expand(len(radii), -1, -1), kernel.float()[:, None].expand(-1, size, -1))
    return box @ box @ box


def small_blur_weights(radii: Sequence[float], size: int) -> Tensor:
    """The smallest blur matrices that ``spread`` makes those of ``size`` pixels of: float32 ``[n, small, small]``."""
    return blur_weights(radii, min(size, 2 * blur_reach(radii) + 1))


def spread(weights: Tensor, size: int) -> Tensor:
    """Blur matrices ``[n, small, small]`` as those of a larger size, ``[n, size, size]``. A small one of twice the blur's reach and
    one rows holds all of a large one's: those of its borders, and the one between, which all others are like."""
    small = weights.shape[1]
    at = torch.arange(size, device=weights.device)
    row = torch.where(at < small // 2, at, torch.where(at >= size - small // 2, at - size + small, small // 2))[:, None]
    column = at - at[:, None] + row
    inside = (column >= 0) & (column < small)
    return weights[:, row, column.clamp(0, small - 1)] * inside


def to_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A list, an array or a tensor of the CPU as a tensor of the device, without a wait: by itself torch lets a copy to CUDA wait
    for all that the device was asked for before."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)
