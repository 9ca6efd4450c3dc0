"""Colour operations of the views, each equal to PIL's (which torchvision's transforms call) for the same parameters.

Images are float32 ``[n, 3, H, W]``, red, green and blue levels of 0 to 255. Every operation changes them in place, all at once,
with parameters of each image. Values stay unrounded where PIL cuts them to whole levels, so one operation on whole levels is
within 1 level of PIL's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: ITU-R 601-2 luma, as PIL's ``convert("L")`` has it.
LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)

# The operations of a jitter, numbered as torchvision's ColorJitter does.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

#: Hues in PIL's HSV mode: 255 make a turn, though they wrap at 256.
TURN = 255
SIXTH = TURN / 6


class Scratch:
    """Memory that operations use again and again: on a CPU, fresh memory costs more than the arithmetic on it."""

    def __init__(self, device: torch.device | str = "cpu"):
        self._memory = torch.empty(0, device=device)

    def planes(self, count: int, shape: Sequence[int]) -> list[Tensor]:
        """``count`` float32 tensors of one shape, of any content, valid until the next call."""
        size = torch.Size(shape).numel()
        if self._memory.numel() < count * size:
            self._memory = self._memory.new_empty(count * size)
        return [self._memory[i * size : (i + 1) * size].view(*shape) for i in range(count)]


def luma(images: Tensor, out: Tensor) -> Tensor:
    """Whole grey levels, into ``out`` ``[n, H, W]``."""
    torch.mul(images[:, 0], LUMA[0], out=out)
    out.add_(images[:, 1], alpha=LUMA[1])
    return out.add_(images[:, 2], alpha=LUMA[2]).round_()


def blend(images: Tensor, kinds: Sequence[int], factors: Sequence[float], scratch: Scratch) -> None:
    """Brightness, contrast or saturation: image i becomes ``factors[i] · image + (1 - factors[i]) · base``, cut to 0 to 255.

    The base is black for BRIGHTNESS, the rounded mean of the luma for CONTRAST, the luma for SATURATION (PIL's
    ImageEnhance; torchvision's adjust_brightness, adjust_contrast, adjust_saturation).

    Args:
        kinds: BRIGHTNESS, CONTRAST or SATURATION for each image.
        factors: from 0; 1 leaves an image as it is.
    """
    factor = _column(images, factors)
    base = _base(images, kinds, scratch)
    images.mul_(factor)
    if base is not None:
        images.add_(base.mul_(1 - factor[:, 0]).unsqueeze(1))
    if max(factors) > 1:
        images.clamp_(0, 255)


def _base(images: Tensor, kinds: Sequence[int], scratch: Scratch) -> Tensor | None:
    """What ``blend`` mixes images with: ``[n, H, W]``, ``[n, 1, 1]``, or None for black."""
    present = set(kinds)
    if present == {BRIGHTNESS}:
        return None
    grey = luma(images, scratch.planes(1, images[:, 0].shape)[0])
    if present == {SATURATION}:
        return grey
    mean = grey.mean(dim=(1, 2), keepdim=True).add_(0.5).floor_()
    if present == {CONTRAST}:
        return mean
    grey.mul_(_column(grey, [float(kind == SATURATION) for kind in kinds]))
    return grey.add_(mean.mul_(_column(grey, [float(kind == CONTRAST) for kind in kinds])))


def shift_hue(images: Tensor, shifts: Sequence[float], scratch: Scratch) -> None:
    """Turn the hue of image i by ``shifts[i]`` of a full turn, -0.5 to 0.5.

    Equal to the way through PIL's HSV mode (torchvision's adjust_hue on PIL images), where hue is cut to 255ths of a turn and the
    shift, in 255ths, is added modulo 256. Selections are products with masks of 0 and 1, which is several times faster
    on a CPU than ``torch.where``.
    """
    red, green, blue = images.unbind(1)
    top, low, chroma, turn, whole, a, b = scratch.planes(7, red.shape)
    torch.maximum(red, green, out=top)
    torch.maximum(top, blue, out=top)
    torch.minimum(red, green, out=low)
    torch.minimum(low, blue, out=low)
    torch.sub(top, low, out=chroma)

    # Hue in sixths of a turn: 1 + (green - red) / chroma where blue is lowest, 3 + (blue - green) / chroma where red is, else
    # 5 + (red - blue) / chroma.
    no_blue, no_red = torch.eq(blue, low, out=a), torch.eq(red, low, out=b)
    torch.sub(red, blue, out=turn)
    turn.lerp_(torch.sub(blue, green, out=whole), no_red)
    turn.lerp_(torch.sub(green, red, out=whole), no_blue)
    turn.div_(torch.clamp(chroma, min=1e-6, out=whole))
    sector = torch.sub(5.0 * _one(red), no_red, alpha=2, out=whole)
    turn.add_(sector.lerp_(no_blue, no_blue))
    turn.div_(6 * _one(red))

    # Cut to 255ths. Whole 255ths are common (any pure colour), and there PIL's result hangs on the last bit of its float32
    # quotient, which the steps above have as well; 256 · turn is exact, and so is the sign of its fraction less turn.
    # Only beyond 5/6 of a turn has PIL a sum of other rounding, which never falls short of a whole 255th.
    torch.mul(turn, 256, out=a)
    torch.floor(a, out=whole)
    a.sub_(whole).sub_(turn)
    a.add_(turn.sub_(0.832).relu_(), alpha=0.008)
    whole.add_(a.floor_())

    whole.add_(_column(whole, [int(shift * TURN) for shift in shifts]))
    wraps = torch.mul(whole, 1 / 256, out=a).floor_()
    hue = whole.sub_(wraps, alpha=256)

    # PIL cuts the saturation, chroma / top, to 255ths too: by half of one on average.
    chroma.sub_(top, alpha=0.5 / 255).relu_().mul_(1 / SIXTH)
    # A channel falls from top by chroma between 1/6 and 2/6 of a turn from its own hue. The distance to green, 2/6, and to blue,
    # 4/6, is |hue - theirs|; that to red, which is both 0 and 1, is 1/2 - |hue - 1/2|. All three go together: calls cost, too.
    torch.sub(hue.unsqueeze(1), SIXTH * _axis(images, (3, 2, 4)), out=images).abs_()
    torch.sub(3 * SIXTH * _one(red), red, out=red)
    images.clamp_(SIXTH, 2 * SIXTH)
    torch.add(top, chroma, alpha=SIXTH, out=b)
    torch.addcmul(b.unsqueeze(1), chroma.unsqueeze(1), images, value=-1, out=images)


def to_grey(images: Tensor, scratch: Scratch) -> None:
    """Replace all channels by the luma (torchvision's RandomGrayscale)."""
    images.copy_(luma(images, scratch.planes(1, images[:, 0].shape)[0]).unsqueeze(1))


def solarize(images: Tensor, threshold: float, scratch: Scratch) -> None:
    """Invert every level from ``threshold`` on (PIL's ImageOps.solarize, whose default is 128)."""
    bright, inverted = scratch.planes(2, images.shape)
    # A level between threshold - 0.5 and threshold would have been rounded up, and so inverted, by then.
    torch.ge(images, threshold - 0.5, out=bright)
    torch.sub(255 * _one(images), images, out=inverted)
    images.lerp_(inverted, bright)


def _column(images: Tensor, values: Sequence[float]) -> Tensor:
    """A value for each image, shaped to broadcast."""
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(-1, *[1] * (images.ndim - 1))


def _axis(images: Tensor, values: Sequence[float]) -> Tensor:
    """A value for each channel, shaped to broadcast."""
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)


def _one(images: Tensor) -> Tensor:
    """1 on the device: a division by a host's number becomes a product with its reciprocal on CUDA, of other rounding."""
    return torch.ones((), dtype=images.dtype, device=images.device)
