"""Colour operations of the views, each equal to PIL's (which torchvision's transforms call) for the same parameters.

Images are float32 ``[n, 3, H, W]`` with grey levels 0 to 255, red, green and blue. Every operation changes them in place, for
all images at once, with parameters of each image. Values are not rounded between operations, where PIL truncates to whole
levels: one operation on whole levels is within 1 level of PIL's.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: ITU-R 601-2 luma, as PIL's ``convert("L")`` has it, in 65536ths.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

# The operations of a jitter, numbered as torchvision's ColorJitter does.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def luma(images: Tensor) -> Tensor:
    """Grey levels ``[n, H, W]``, not rounded."""
    grey = images[:, 0] * LUMA[0]
    grey.add_(images[:, 1], alpha=LUMA[1])
    return grey.add_(images[:, 2], alpha=LUMA[2])


def blend(images: Tensor, kinds: list[int], factors: list[float]) -> None:
    """Brightness, contrast or saturation: image i becomes ``factors[i] · image + (1 - factors[i]) · base``, cut to 0 to 255.

    The base is black for BRIGHTNESS, the rounded mean of the luma for CONTRAST, the luma for SATURATION (PIL's
    ImageEnhance; torchvision's adjust_brightness, adjust_contrast, adjust_saturation).

    Args:
        kinds: BRIGHTNESS, CONTRAST or SATURATION for each image.
        factors: from 0; 1 leaves an image as it is.
    """
    first, alike = kinds[0], len(set(kinds)) == 1
    factor = _column(images, factors)
    if alike and first == BRIGHTNESS:
        images.mul_(factor)
    else:
        grey = luma(images)
        if not (alike and first == SATURATION):
            mean = grey.mean(dim=(1, 2), keepdim=True).add_(0.5).floor_()
            if alike and first == CONTRAST:
                grey = mean
            else:
                grey.mul_(_column(grey, [float(kind == SATURATION) for kind in kinds]))
                grey.add_(mean.mul_(_column(grey, [float(kind == CONTRAST) for kind in kinds])))
        images.mul_(factor).add_(grey.unsqueeze(1).mul_(1 - factor))
    if max(factors) > 1:
        images.clamp_(0, 255)


def shift_hue(images: Tensor, shifts: list[float]) -> None:
    """Turn the hue of image i by ``shifts[i]`` of a full turn, -0.5 to 0.5.

    As PIL's HSV mode does (torchvision's adjust_hue on PIL images), hue is cut to 255ths of a turn, to which the shift in
    256ths is added.
    """
    red, green, blue = images.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = top - low
    safe = chroma.clamp(min=1e-6)
    r, g, b = ((top - channel) / safe for channel in (red, green, blue))
    sixths = torch.where(red == top, b - g, torch.where(green == top, 2 + (r - b), 4 + (g - r)))
    turn = sixths / 6
    turn = torch.where(turn < 0, turn + 1, turn)
    hue = torch.remainder((turn * 255).floor() + _column(turn, [int(shift * 255) for shift in shifts]), 256) * (6 / 255)
    chroma = (chroma - top * (1 / 510)).clamp_(min=0)  # PIL cuts the saturation to 255ths too: half of one on average
    low = top - chroma
    red.copy_(low + chroma * ((hue - 3).abs() - 1).clamp(0, 1))
    green.copy_(low + chroma * (2 - (hue - 2).abs()).clamp(0, 1))
    blue.copy_(low + chroma * (2 - (hue - 4).abs()).clamp(0, 1))


def to_grey(images: Tensor) -> None:
    """Replace all channels by the luma (torchvision's RandomGrayscale)."""
    images.copy_(luma(images).unsqueeze(1).expand_as(images))


def solarize(images: Tensor, threshold: float) -> None:
    """Invert every level from ``threshold`` on (PIL's ImageOps.solarize, whose default is 128)."""
    # A level between threshold - 0.5 and threshold would have been rounded up, and so inverted, by then.
    images.copy_(torch.where(images >= threshold - 0.5, 255 - images, images))


def _column(images: Tensor, values: list[float]) -> Tensor:
    """A value for each image, shaped to broadcast."""
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, *[1] * (images.ndim - 1))
