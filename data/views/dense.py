"""Images with their masks, for segmentation. Masks are never interpolated; padding is void, so it never counts.

An image is *fitted* into a square: its longer side is resized to the square's, and its right and bottom are padded with the
mean colour, so that training and evaluation see objects at the same size.

Functions import torchvision, since that takes a second, and grids read options from modules that import this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from common.images import VOID, normalise


@dataclass(frozen=True, kw_only=True)
class SegmentationAugmentation:
    """Random scale, crop, flip and photometric distortion, as usual for segmentation on VOC (DeepLabV3, arXiv 1706.05587, section
    4.1: scale 0.5 to 2, crop 513, flip; the distortion is SSD's, as in SETR's code).

    Attributes:
        crop_size: side in pixels. An image that is smaller after scaling is padded.
        scale: range of the factor on the fitted image. Most longer sides in VOC are 500, so with a crop of 513 this is the
            published factor on the original within 3%. (1, 1): always the whole image.
        flip_p, distort_p: probabilities of the horizontal flip, and of each photometric operation.
    """

    crop_size: int
    scale: tuple[float, float] = (0.5, 2.0)
    flip_p: float = 0.5
    distort_p: float = 0.5

    def __call__(self, image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Make a training sample: image float32 ``[3, crop, crop]``, normalised; mask uint8 ``[crop, crop]``.

        Args:
            image: uint8 ``[3, H, W]``.
            mask: uint8 ``[H, W]``.
            seed: of this sample alone, so that it does not depend on how a batch is divided among devices.
        """
        u = _draws(seed)
        factor = self.scale[0] + u[0] * (self.scale[1] - self.scale[0])
        size = fitted_size(image.shape[-2:], self.crop_size, factor)
        image, mask = resize_image(image, size), resize_mask(mask, size)
        spare = [max(0, side - self.crop_size) for side in size]
        top, left = (min(int(v * (room + 1)), room) for v, room in zip(u[1:3], spare, strict=True))
        image = image[:, top : top + self.crop_size, left : left + self.crop_size]
        mask = mask[top : top + self.crop_size, left : left + self.crop_size]
        if self.flips(seed):
            image, mask = image.flip(-1), mask.flip(-1)
        return pad_image(normalise(self._distort(image, u[4:])), self.crop_size), pad_mask(mask, self.crop_size)

    def flips(self, seed: int) -> bool:
        """Whether the sample of this seed is flipped."""
        return _draws(seed)[3] < self.flip_p

    def _distort(self, image: Tensor, u: Sequence[float]) -> Tensor:
        """torchvision's ``RandomPhotometricDistort``, which changes the contrast before or after the colours."""
        import torchvision.transforms.v2.functional as T

        contrast = u[0] < self.distort_p, 0.5 + u[1]
        if u[2] < self.distort_p:
            image = T.adjust_brightness(image, 0.875 + 0.25 * u[3])
        if contrast[0] and u[4] < 0.5:
            image = T.adjust_contrast(image, contrast[1])
        if u[5] < self.distort_p:
            image = T.adjust_saturation(image, 0.5 + u[6])
        if u[7] < self.distort_p:
            image = T.adjust_hue(image, -0.05 + 0.1 * u[8])
        if contrast[0] and u[4] >= 0.5:
            image = T.adjust_contrast(image, contrast[1])
        return image


def _draws(seed: int) -> list[float]:
    """Draw from [0, 1) for scale, top, left and flip, then for the distortion."""
    return torch.rand(13, generator=torch.Generator().manual_seed(seed)).tolist()


def fitted_size(size: Sequence[int], side: int, factor: float = 1.0) -> tuple[int, int]:
    """Height and width in pixels after the longer side of ``size`` (height, width) is resized to ``factor · side``."""
    scale = factor * side / max(size)
    height, width = (max(1, round(length * scale)) for length in size)
    return height, width


def resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    """Resize uint8 ``[3, H, W]``, bilinear with antialiasing."""
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    return resize(image, list(size), InterpolationMode.BILINEAR, antialias=True)


def resize_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Resize uint8 ``[H, W]``; each pixel takes the class at its centre."""
    from torchvision.transforms.v2.functional import InterpolationMode, resize

    return resize(mask[None], list(size), InterpolationMode.NEAREST_EXACT)[0]


def fit_image(image: Tensor, side: int) -> tuple[Tensor, tuple[int, int]]:
    """Fit an image into a square: uint8 ``[3, H, W]`` → float32 ``[3, side, side]``, normalised; also its size there."""
    size = fitted_size(image.shape[-2:], side)
    return pad_image(normalise(resize_image(image, size)), side), size


def fit_mask(mask: Tensor, side: int) -> Tensor:
    """Fit a mask as ``fit_image`` does: uint8 ``[H, W]`` → ``[side, side]``."""
    return pad_mask(resize_mask(mask, fitted_size(mask.shape, side)), side)


def pad_image(image: Tensor, side: int) -> Tensor:
    """Pad a normalised ``[3, h, w]`` with zeros (the mean colour) at its right and bottom to ``[3, side, side]``."""
    return F.pad(image, (0, side - image.shape[-1], 0, side - image.shape[-2]))


def pad_mask(mask: Tensor, side: int) -> Tensor:
    """Pad ``[h, w]`` with void at its right and bottom to ``[side, side]``."""
    return F.pad(mask, (0, side - mask.shape[-1], 0, side - mask.shape[-2]), value=VOID)
