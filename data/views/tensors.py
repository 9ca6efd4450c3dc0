"""PIL's crop, resize, flip and blur, on many images at once: products ``W_y · image · W_xᵀ`` with matrices of each image's own.
Levels are 0 to 255."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Box = tuple[int, int, int, int]


def in_float32(function: Callable) -> Callable:
    """Make a function compute in float32 even if its caller runs under autocast."""

    @functools.wraps(function)
    def wrapped(*args: Any, **keywords: Any) -> Any:
        # Leaving autocast in one thread empties the cache of casts that another thread's forward pass uses.
        if not (torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu")):
            return function(*args, **keywords)
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            return function(*args, **keywords)

    return wrapped


def to_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a list, an array or a CPU tensor to the device, without waiting for its queued work as torch does by default."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)


def normalise_levels(levels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Compute ``(levels / 255 - mean) / std`` of each channel of float32 ``[n, 3, H, W]``, in place."""
    shift = 255 * to_device(mean, levels.device).view(3, 1, 1)
    scale = 1 / (255 * to_device(std, levels.device).view(3, 1, 1))
    return levels.sub_(shift).mul_(scale)


def crop(pixels: Tensor, rows: Sequence[int], boxes: Sequence[Box], flips: Sequence[bool], size: int) -> Tensor:
    """Cut out boxes and resize them to squares, within 1 grey level of ``PIL.Image.resize(…, BICUBIC)``: float32
    ``[n, 3, size, size]`` of whole levels.

    Args:
        pixels: uint8 ``[B, 3, H, W]``, zero outside the images.
        rows: the image of each crop.
        boxes: top, left, height and width in pixels. Nothing outside enters the crop.
        flips: whether to flip each crop left to right.
    """
    device = pixels.device
    # In float16 levels are exact, and weights err by less than 1/2000 (0.1 levels). CPUs have no fast float16 product.
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    # A batch is padded to its largest image; products leave out the pixels that no box reaches.
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


def down_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether Pillow (from version 13 on) resizes along y before x. In between it rounds and cuts to 0 to 255."""
    return height > new_height and height - new_height > 2 * (width - new_width)


def bicubic_weights(starts: Tensor, lengths: Tensor, size: int, total: int) -> Tensor:
    """Matrices that crop and resize along an axis with PIL's antialiased bicubic filter (Pillow: Resample.c, a = -0.5), from
    ``total`` to ``size`` pixels: float32 ``[n, size, total]``; rows sum to 1 and are 0 outside the box.

    Args:
        starts, lengths: int64 ``[n]``, the box of each crop.
    """
    starts, lengths = starts[:, None, None].float(), lengths[:, None, None].float()
    target = torch.arange(size, device=starts.device, dtype=torch.float32)[:, None]
    source = torch.arange(total, device=starts.device, dtype=torch.float32) - starts
    # Distances of pixel centres in units of the filter are computed from whole numbers, exact before the division.
    x = ((2 * source + 1) * size - (2 * target + 1) * lengths).abs_() / (2 * lengths.clamp(min=size))
    near, far = x.clamp(max=1), x.clamp_(1, 2)
    weights = (1.5 * near - 2.5) * near * near + 1
    weights += ((-0.5 * far + 2.5) * far - 4) * far + 2
    weights *= (source >= 0) & (source < lengths)
    return weights / weights.sum(dim=2, keepdim=True)


def gaussian_blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur image i of float32 ``[n, C, size, size]`` to whole levels, within 2 grey levels of PIL's
    ``ImageFilter.GaussianBlur(radius=sigmas[i])``: three box blurs along x, then three along y, each rounded."""
    radii, size = [box_radius(sigma) for sigma in sigmas], images.shape[-1]
    weights = spread(to_device(small_blur_weights(radii, size), images.device), size)[:, None]
    return (weights @ (images.round() @ weights.mT).round_()).round_()


def box_radius(sigma: float) -> float:
    """Radius of the box blur that, applied thrice, has the variance sigma² (Pillow: BoxBlur.c, ``_gaussian_blur_radius``)."""
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part


def blur_reach(radii: Sequence[float]) -> int:
    """Distance in pixels over which three box blurs mix pixels."""
    return 3 * (int(max(radii, default=0)) + 1)


def blur_weights(radii: Sequence[float], size: int) -> Tensor:
    """Matrices of three box blurs in a row, with border pixels repeated outside (Pillow: BoxBlur.c): float32
    ``[n, size, size]``; rows sum to 1."""
    radius = torch.tensor(radii, dtype=torch.float64)[:, None]
    reach = blur_reach(radii) // 3
    offset = torch.arange(-reach, reach + 1)
    # The box's outermost pixels count only by the part within the radius.
    kernel = (radius + 1 - offset.abs()).clamp(0, 1) / (2 * radius + 1)
    source = (torch.arange(size)[:, None] + offset).clamp(0, size - 1)
    box = torch.zeros(len(radii), size, size)
    box.scatter_add_(2, source.expand(len(radii), -1, -1), kernel.float()[:, None].expand(-1, size, -1))
    return box @ box @ box


def small_blur_weights(radii: Sequence[float], size: int) -> Tensor:
    """The smallest blur matrices, float32 ``[n, small, small]``, that ``spread`` can enlarge to ``size`` pixels."""
    return blur_weights(radii, min(size, 2 * blur_reach(radii) + 1))


def spread(weights: Tensor, size: int) -> Tensor:
    """Enlarge blur matrices ``[n, small, small]`` to ``[n, size, size]``. With ``small = 2 · reach + 1`` both have the same border
    rows, and the middle row, shifted, is each of the others."""
    small = weights.shape[1]
    at = torch.arange(size, device=weights.device)
    row = torch.where(at < small // 2, at, torch.where(at >= size - small // 2, at - size + small, small // 2))[:, None]
    column = at - at[:, None] + row
    inside = (column >= 0) & (column < small)
    return weights[:, row, column.clamp(0, small - 1)] * inside
