"""What holds for images everywhere: normalisation, and the label of pixels without a class. Imports torch only to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

#: Mask value of pixels that belong to no class.
VOID = 255

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(image: Tensor) -> Tensor:
    """uint8 ``[…, 3, H, W]`` → float32 with ImageNet's mean and deviation taken out."""
    import torch

    mean, std = (torch.tensor(values, device=image.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (image.float() / 255 - mean) / std
