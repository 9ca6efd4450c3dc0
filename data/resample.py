"""Crop, resize, flip and blur of many images at once, as PIL does them one by one. All of it is separable: along each axis a
product with a matrix of each image's own, ``W_y · image · W_xᵀ``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: On a CPU, the blur's matrices, which are banded, are multiplied by blocks of so many rows.
BLOCK = 32

#: On a CPU, crops of up to so many multiplications are made by products. Beyond, most of the weights' zeros cost more than
#: going from crop to crop.
SMALL_PRODUCT = 1_250_000

Box = tuple[int, int, int, int]


class Source:
    """Images to crop from, in the form that their crops are fastest made from.

    Args:
        pixels: uint8 ``[B, 3, H, W]``, zero outside the images.
    """

    def __init__(self, pixels: Tensor):
        self.pixels = pixels
        self._packed: Tensor | None = None

    @property
    def packed(self) -> Tensor:
        """int32 ``[B, H, W]``, a pixel's levels in its three lowest bytes."""
        if self._packed is None:
            # numpy asks the system for huge pages, torch does not: the first write is several times as fast.
            self._packed = torch.from_numpy(np.empty(self.pixels[:, 0].shape, np.int32)).copy_(self.pixels[:, 2])
            for channel in (1, 0):
                self._packed.mul_(256).add_(self.pixels[:, channel])
        return self._packed

    def crop(self, rows: Sequence[int], boxes: Sequence[Box], flips: Sequence[bool], size: int) -> Tensor:
        """Crops of images, resized to a square with PIL's antialiased bicubic filter, some then flipped left to right.

        An accelerator makes them all together, by products with weight matrices; so does a CPU where they are small. There larger
        ones are made one by one with torch's port of PIL's integer resize, which leaves out the weights that are 0.
        Products are within 1 grey level of ``PIL.Image.resize(…, BICUBIC)`` of the crop; the port has weights of 16 bits
        where PIL has 24, and about 3 levels in a million are 2 from PIL's.

        Args:
            rows: the image of each crop.
            boxes: top, left, height and width of each crop in pixels of its image. Nothing outside enters the crop.
            flips: whether to flip it.
            size: side of the result in pixels.

        Returns:
            float32 ``[n, 3, size, size]``, whole levels of 0 to 255.
        """
        height, width = self.pixels.shape[2:]
        if self.pixels.device.type != "cpu" or 3 * size * width * (height + size) <= SMALL_PRODUCT:
            return crop_by_products(self.pixels, rows, boxes, flips, size)
        packed = torch.empty(len(rows), size, size, dtype=torch.int32)
        for crop, row, box, flip in zip(packed, rows, boxes, flips, strict=True):
            _crop_packed(self.packed[row], box, flip, crop)
        out = torch.empty(len(rows), 3, size, size)
        level = torch.bitwise_and(packed, 255)
        out[:, 0].copy_(level)
        for channel, shift in ((1, 8), (2, 16)):
            out[:, channel].copy_(torch.bitwise_right_shift(packed, shift, out=level).bitwise_and_(255))
        return out


def down_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether Pillow (from 13; never before) resizes along y before x. Both round and cut to 0 to 255 in between."""
    return height > new_height and height - new_height > 2 * (width - new_width)


def crop_by_products(
    pixels: Tensor, rows: Sequence[int], boxes: Sequence[Box], flips: Sequence[bool], size: int
) -> Tensor:
    """``Source.crop`` as ``W_y · image · W_xᵀ``, on any device."""
    device = pixels.device
    # Levels are exact in float16, and its weights err by less than 1/2000: 0.1 levels. CPUs have no fast product of it.
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    box = torch.tensor(boxes, device=device).view(-1, 4)
    x = bicubic_weights(box[:, 1], box[:, 3], size, pixels.shape[3])
    y = bicubic_weights(box[:, 0], box[:, 2], size, pixels.shape[2])
    x = torch.where(torch.tensor(flips, device=device)[:, None, None], x.flip(1), x)
    x, y = x.to(dtype)[:, None], y.to(dtype)[:, None]
    images = pixels[torch.tensor(rows, device=device)].to(dtype)
    out = torch.empty(len(rows), 3, size, size, device=device)
    orders = torch.tensor([down_first(box[2], box[3], size, size) for box in boxes])
    for order in orders.unique().tolist():
        at = (orders == order).nonzero()[:, 0].to(device)
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


def _crop_packed(image: Tensor, box: Box, flip: bool, out: Tensor) -> None:
    """One crop of a packed image ``[H, W]`` into ``out``, packed as well, ``[size, size]``."""
    top, left, height, width = box
    size = out.shape[1]
    crop = image[top : top + height, left : left + width]
    crop = crop.flip(1) if flip else crop.contiguous()
    levels = crop.view(torch.uint8).view(1, height, width, 4).permute(0, 3, 1, 2)
    if down_first(height, width, size, size):
        levels = F.interpolate(levels, (size, width), mode="bicubic", antialias=True)
    levels = F.interpolate(levels, (size, size), mode="bicubic", antialias=True)
    out.copy_(levels.permute(0, 2, 3, 1).contiguous().view(torch.int32)[0, :, :, 0])


class GaussianBlur:
    """Gaussian blurs within 2 grey levels of PIL's ``ImageFilter.GaussianBlur(radius=sigma)``, which is three box blurs along x,
    then three along y, each rounded.

    Args:
        sigmas: standard deviations in pixels.
        size: side of the images in pixels.
    """

    def __init__(self, sigmas: Sequence[float], size: int, device: torch.device | str = "cpu"):
        radii = [box_radius(sigma) for sigma in sigmas]
        reach = 3 * (int(max(radii, default=0)) + 1)
        block = max(BLOCK, reach) if torch.device(device).type == "cpu" else size
        small, self._places = _blocks(size, block, reach)
        self._weights = blur_weights(radii, small, device)

    def __call__(self, images: Tensor, which: Tensor) -> None:
        """Blur ``images[i]`` with ``sigmas[which[i]]``, in place.

        Args:
            images: float32 ``[n, 3, size, size]``, contiguous, levels of 0 to 255; they become whole ones.
            which: int64 ``[n]``.
        """
        n, _, size, _ = images.shape
        weights = self._weights[which]
        across = images.round_().view(n, 3 * size, size)
        once = torch.empty_like(images)
        for rows, window, part in self._places:
            torch.bmm(across[:, :, window], weights[part].mT, out=once.view(n, 3 * size, size)[:, :, rows])
        weights = weights.repeat_interleave(3, dim=0)
        down, out = once.round_().view(3 * n, size, size), images.view(3 * n, size, size)
        for rows, window, part in self._places:
            torch.bmm(weights[part], down[:, window], out=out[:, rows])
        images.round_()


def box_radius(sigma: float) -> float:
    """Radius of the box blur that, done three times, has the variance sigma² (Pillow: BoxBlur.c, ``_gaussian_blur_radius``)."""
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part


def blur_weights(radii: Sequence[float], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Matrices of three box blurs in a row, along an axis of ``size`` pixels whose border pixels continue outside
    (Pillow: BoxBlur.c). float32 ``[n, size, size]``; rows sum to 1."""
    radius = torch.tensor(radii, dtype=torch.float64)[:, None]
    reach = int(max(radii, default=0)) + 1
    offset = torch.arange(-reach, reach + 1)
    # Of the pixel at the box's end only the part within the radius counts.
    kernel = (radius + 1 - offset.abs()).clamp(0, 1) / (2 * radius + 1)
    source = (torch.arange(size)[:, None] + offset).clamp(0, size - 1)
    box = torch.zeros(len(radii), size, size)
    box.scatter_add_(2, source.expand(len(radii), -1, -1), kernel.float()[:, None].expand(-1, size, -1))
    box = box.to(device)
    return box @ box @ box


def _blocks(size: int, block: int, reach: int) -> tuple[int, list[tuple[slice, slice, tuple[slice, slice, slice]]]]:
    """How to multiply with a banded matrix block by block.

    Away from the borders a blur's matrix is the same along its diagonal, so a small image's matrix holds all its parts.

    Returns:
        The small image's size, and of each block: its rows, the window of pixels they depend on, and the small matrix's
        part (an index into ``[n, small, small]``).
    """
    if size <= block + 2 * reach:
        return size, [(slice(0, size), slice(0, size), (slice(None),) * 3)]
    small = block + 2 * reach
    places = []
    for start in range(0, size, block):
        stop, first, last = min(start + block, size), max(start - reach, 0), min(start + block + reach, size)
        shift = small - size if last == size else -first  # of the window within the small image
        part = (slice(None), slice(start + shift, stop + shift), slice(first + shift, last + shift))
        places.append((slice(start, stop), slice(first, last), part))
    return small, places
