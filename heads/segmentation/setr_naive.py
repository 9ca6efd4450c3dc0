"""SETR-naive (arXiv 2012.15840, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead, conv_norm_relu, resize

WIDTH = 256  # of the hidden layer, as in the SETR code


@SEGMENTATION_HEADS.register("setr_naive")
class SETRNaive(SegmentationHead):
    """1×1 convolution, BatchNorm, ReLU, 1×1 convolution, bilinear upsampling to the input's size.

    Shapes: ``[B, D, h, w] → [B, 256, h, w] → [B, C, h, w] → [B, C, H, W]``. Parameters: 256·D + 512 + 257·C.
    """

    title = "SETR-naive"
    citation = "Zheng et al. 2021, arXiv 2012.15840"
    order = 2

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int):
        super().__init__(channels, strides, num_classes)
        self.hidden = conv_norm_relu(channels[-1], WIDTH, 1)
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return resize(self.classifier(self.hidden(maps[-1])), size)
