"""SETR-PUP: progressive upsampling (arXiv 2012.15840, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead, conv_norm_relu, resize

WIDTH = 256  # of every stage, as in the SETR code


@SEGMENTATION_HEADS.register("setr_pup")
class SETRPUP(SegmentationHead):
    """Stages of 3×3 convolution, BatchNorm, ReLU and ×2 bilinear upsampling up to the input's size, then a 1×1 convolution.

    The paper's stride of 16 takes four stages; a stride of 2ⁿ takes n, so that the last stage ends at full size: no
    upsampling is by more than ×2, which is the head's purpose.

    Shapes: ``[B, D, h, w] → [B, 256, 2h, 2w] → … → [B, 256, H, W] → [B, C, H, W]``.
    Parameters: 9·256·D + 9·256²·(n - 1) + 512·n + 257·C.
    """

    title = "SETR-PUP"
    citation = "Zheng et al. 2021, arXiv 2012.15840"
    order = 3

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int):
        super().__init__(channels, strides, num_classes)
        count = max(1, math.ceil(math.log2(strides[-1])))
        widths = [channels[-1]] + [WIDTH] * count
        self.stages = nn.ModuleList(conv_norm_relu(widths[i], widths[i + 1], 3) for i in range(count))
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        features = maps[-1]
        for stage in self.stages:
            features = stage(features)
            height, width = features.shape[-2:]
            features = resize(features, (min(2 * height, size[0]), min(2 * width, size[1])))
        return resize(self.classifier(features), size)
