"""The linear head in its pixel-rearranging form (Apavou & Zucker's "Linear")."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead, resize


@SEGMENTATION_HEADS.register("linear_pixels")
class LinearPixels(SegmentationHead):
    """Every cell of stride P predicts its own P × P pixels: a linear map D → P²·C, rearranged.

    Shapes: ``[B, D, h, w] → [B, C·P², h, w] → [B, C, h·P, w·P]``, resized only where h·P is not H. Parameters: (D + 1)·C·P².
    """

    title = "linear, pixels"
    order = 1

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int):
        super().__init__(channels, strides, num_classes)
        self.stride = strides[-1]
        self.classifier = nn.Conv2d(channels[-1], num_classes * self.stride**2, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return resize(F.pixel_shuffle(self.classifier(maps[-1]), self.stride), size)
