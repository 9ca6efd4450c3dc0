"""Normalisation of images, and the values and colours of masks. Imports torch only to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

#: Mask value of pixels that belong to no class.
VOID = 255

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def voc_palette() -> np.ndarray:
    """VOC's colours of mask values, uint8 ``[256, 3]`` (VOC2012 development kit, ``VOClabelcolormap.m``)."""
    # Bit i of red, green and blue, counted from the highest, is bit 3·i, 3·i + 1 and 3·i + 2 of the value.
    values = np.arange(256)[:, None]
    channels = np.arange(3)[None]
    return sum(((values >> (3 * i + channels)) & 1) << (7 - i) for i in range(8)).astype(np.uint8)


def normalise(image: Tensor) -> Tensor:
    """Normalise uint8 ``[…, 3, H, W]`` to float32 by ImageNet's mean and deviation."""
    import torch

    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image.float() / 255 - mean) / std
