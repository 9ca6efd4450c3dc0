"""Colour operations of the views on many images at once, each equal to PIL's (which torchvision calls) for the same parameters.

Images are float32 ``[n, 3, H, W]``: red, green and blue levels of 0 to 255. Each image has its own parameters. PIL cuts levels to
whole ones after each operation and these do not, so one operation on whole levels is within 1 level of PIL's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data.views.plan import BRIGHTNESS, SATURATION
from data.views.tensors import to_device

#: ITU-R 601-2 luma, as in PIL's ``convert("L")``.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

#: Hues in PIL's HSV mode: 255 make a turn, though they wrap at 256.
TURN = 255
SIXTH = TURN / 6


def luma(images: Tensor) -> Tensor:
    """Whole grey levels ``[n, 1, H, W]``."""
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).round_()


def blend(images: Tensor, kinds: Sequence[int], factors: Sequence[float]) -> Tensor:
    """Brightness, contrast or saturation: image i becomes ``factors[i] · image + (1 - factors[i]) · base``, cut to 0 to 255.

    The base is black for BRIGHTNESS, the rounded mean of the luma for CONTRAST, the luma for SATURATION (PIL's
    ImageEnhance; torchvision's adjust_brightness, adjust_contrast, adjust_saturation).

    Args:
        kinds: BRIGHTNESS, CONTRAST or SATURATION for each image.
        factors: 0 or more; 1 changes nothing.
    """
    kind, factor = _column(images, kinds), _column(images, factors)
    grey = luma(images)
    mean = (grey.mean(dim=(2, 3), keepdim=True) + 0.5).floor_()
    base = torch.where(kind == SATURATION, grey, mean) * (kind != BRIGHTNESS)
    return (images * factor).add_(base * (1 - factor)).clamp_(0, 255)


def shift_hue(images: Tensor, shifts: Sequence[float]) -> Tensor:
    """Turn the hue of image i by ``shifts[i]`` of a full turn, -0.5 to 0.5.

    Equal to a conversion to PIL's HSV mode and back (torchvision's adjust_hue on PIL images), which cuts hues to 255ths of a turn
    and adds the shift, in 255ths, modulo 256.
    """
    red, green, blue = images.unbind(1)
    top, low = images.amax(dim=1), images.amin(dim=1)
    chroma = top - low

    # Hue in sixths of a turn: 1 + (green - red) / chroma where blue is lowest, 3 + (blue - green) / chroma where red is, else
    # 5 + (red - blue) / chroma.
    no_blue, no_red = blue == low, red == low
    ahead = torch.where(no_blue, green - red, torch.where(no_red, blue - green, red - blue))
    sector = torch.where(no_blue, 1.0, torch.where(no_red, 3.0, 5.0))
    # CUDA turns a division by a Python number into a product with its reciprocal, which rounds differently; by a tensor it divides.
    turn = (ahead / chroma.clamp(min=1e-6) + sector) / torch.full((), 6.0, device=images.device)

    # Cut to 255ths. Whole 255ths are common (any pure colour), and there PIL's result depends on the last bit of its float32
    # quotient. The steps above round to the same bit; 256 · turn is exact, and so is the sign of its fraction less turn. Beyond
    # 5/6 of a turn PIL's sum rounds differently, but never falls short of a whole 255th: hence the relu.
    whole = (256 * turn).floor()
    rest = 256 * turn - whole - turn + 0.008 * (turn - 0.832).relu()
    whole += rest.floor() + _column(images, [int(shift * TURN) for shift in shifts])[:, 0]
    hue = whole - 256 * (whole / 256).floor()

    # PIL cuts the saturation, chroma / top, to 255ths too: by half of one on average.
    slope = (chroma - 0.5 / 255 * top).relu() / SIXTH
    # A channel falls from top by chroma between 1/6 and 2/6 of a turn from its own hue. Green's hue is 2/6, blue's 4/6; red's is
    # both 0 and 1, so its distance is 1/2 - |hue - 1/2|.
    distances = 3 * SIXTH - (hue - 3 * SIXTH).abs(), (hue - 2 * SIXTH).abs(), (hue - 4 * SIXTH).abs()
    fall = torch.stack(distances, dim=1).clamp_(SIXTH, 2 * SIXTH) - SIXTH
    return top[:, None] - slope[:, None] * fall


def to_grey(images: Tensor) -> Tensor:
    """All channels replaced by the luma (torchvision's RandomGrayscale)."""
    return luma(images).expand(-1, 3, -1, -1)


def solarize(images: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Levels of image i from ``thresholds[i]`` on inverted (PIL's ImageOps.solarize, whose default is 128)."""
    # PIL would have rounded a level between threshold - 0.5 and threshold up before this, and so have inverted it.
    return torch.where(images >= _column(images, thresholds) - 0.5, 255 - images, images)


def _column(images: Tensor, values: Sequence[float]) -> Tensor:
    """A value for each image, shaped to broadcast."""
    return to_device(values, images.device, images.dtype).view(-1, 1, 1, 1)
