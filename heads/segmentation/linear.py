"""The linear head: each cell of the last map by itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead, resize


@SEGMENTATION_HEADS.register("linear")
class Linear(SegmentationHead):
    """1×1 convolution on the last map, then bilinear upsampling.

    Shapes: ``[B, D, h, w] → [B, C, h, w] → [B, C, H, W]``. Parameters: D·C + C.
    """

    title = "linear"
    order = 0

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int):
        super().__init__(channels, strides, num_classes)
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return resize(self.classifier(maps[-1]), size)
