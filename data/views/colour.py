"""PIL's colour operations (which torchvision calls) on many images at once, each with its own parameters.

Images are float32 RGB ``[n, 3, H, W]`` of levels 0 to 255. PIL cuts levels to whole ones after each operation, these
do not, so one operation on whole levels is within 1 level of PIL's, and a jitter of four 1.4 levels above it on average.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data.views.plan import BRIGHTNESS, SATURATION
from data.views.tensors import to_device

#: ITU-R 601-2 luma, as in PIL's ``convert("L")``.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

#: A full turn in PIL's HSV mode, although hues wrap at 256.
TURN = 255
SIXTH = TURN / 6


def luma(images: Tensor) -> Tensor:
    """Compute whole grey levels ``[n, 1, H, W]``."""
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).round_()


def blend(images: Tensor, kinds: Sequence[int], factors: Sequence[float]) -> Tensor:
    """Blend image i with a base: ``factors[i] · image + (1 - factors[i]) · base``, cut to 0 to 255, with factors from 0.

    The base is black where ``kinds[i]`` is BRIGHTNESS, the luma's rounded mean for CONTRAST, the luma for SATURATION (PIL's
    ImageEnhance; torchvision's adjust_brightness, adjust_contrast, adjust_saturation).
    """
    kind, factor = _column(images, kinds), _column(images, factors)
    grey = luma(images)
    mean = (grey.mean(dim=(2, 3), keepdim=True) + 0.5).floor_()
    base = torch.where(kind == SATURATION, grey, mean) * (kind != BRIGHTNESS)
    return (images * factor).add_(base * (1 - factor)).clamp_(0, 255)


def shift_hue(images: Tensor, shifts: Sequence[float]) -> Tensor:
    """Turn the hue of image i by ``shifts[i]`` of a full turn, -0.5 to 0.5, as torchvision's adjust_hue does on PIL images:
    PIL's HSV mode cuts hues to 255ths of a turn, and the shift, in 255ths, is added modulo 256."""
    red, green, blue = images.unbind(1)
    top, low = images.amax(dim=1), images.amin(dim=1)
    chroma = top - low

    # The hue in sixths of a turn is ahead / chroma + sector.
    no_blue, no_red = blue == low, red == low
    ahead = torch.where(no_blue, green - red, torch.where(no_red, blue - green, red - blue))
    sector = torch.where(no_blue, 1.0, torch.where(no_red, 3.0, 5.0))
    # CUDA turns a division by a Python number into a product with its reciprocal, which rounds differently; by a tensor it divides.
    turn = (ahead / chroma.clamp(min=1e-6) + sector) / torch.full((), 6.0, device=images.device)

    # Whole 255ths are common (any pure colour), and PIL's result for them depends on the last bit of its float32 quotient. The
    # steps above round to the same bit; 256 · turn is exact, and so is the sign of its fraction less turn. Beyond 5/6 of a
    # turn PIL's sum rounds differently, but never falls short of a whole 255th: hence the relu.
    whole = (256 * turn).floor()
    rest = 256 * turn - whole - turn + 0.008 * (turn - 0.832).relu()
    whole += rest.floor() + _column(images, [int(shift * TURN) for shift in shifts])[:, 0]
    hue = whole - 256 * (whole / 256).floor()

    # PIL cuts the saturation, chroma / top, to 255ths too: by half of one on average.
    slope = (chroma - 0.5 / 255 * top).relu() / SIXTH
    # A channel falls from top by chroma between 1/6 and 2/6 of a turn from its own hue: 2/6 for green, 4/6 for blue, 0 and 1
    # for red.
    distances = 3 * SIXTH - (hue - 3 * SIXTH).abs(), (hue - 2 * SIXTH).abs(), (hue - 4 * SIXTH).abs()
    fall = torch.stack(distances, dim=1).clamp_(SIXTH, 2 * SIXTH) - SIXTH
    return top[:, None] - slope[:, None] * fall


def to_grey(images: Tensor) -> Tensor:
    """Replace all channels by the luma (torchvision's RandomGrayscale)."""
    return luma(images).expand(-1, 3, -1, -1)


def solarize(images: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Invert levels of image i from ``thresholds[i]`` on (PIL's ImageOps.solarize, whose default is 128)."""
    # PIL has rounded a level of threshold - 0.5 or more up to the threshold.
    return torch.where(images >= _column(images, thresholds) - 0.5, 255 - images, images)


def _column(images: Tensor, values: Sequence[float]) -> Tensor:
    """Shape a value for each image to broadcast."""
    return to_device(values, images.device, images.dtype).view(-1, 1, 1, 1)
