"""DeepLabV3 (arXiv 1706.05587): torchvision's head, on any backbone's last map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead, resize


@SEGMENTATION_HEADS.register("deeplabv3")
class DeepLabV3(SegmentationHead):
    """Atrous spatial pyramid pooling (1×1, three dilated 3×3, image pooling; 256 channels each), 3×3 convolution,
    1×1 classifier, bilinear upsampling. Rates are the paper's: 6, 12, 18 at stride 16, twice that at stride 8, half at 32.

    Shapes: ``[B, D, h, w] → [B, 256, h, w] → [B, C, h, w] → [B, C, H, W]``.
    Parameters: 256·(D + 3·9·D + D + 5·256 + 9·256) + BatchNorm's 2·256·7 + 257·C. In training B must be at least 2, for the
    BatchNorm of the pooled branch.
    """

    title = "DeepLabV3"
    citation = "Chen et al. 2017, arXiv 1706.05587"
    order = 5

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int):
        super().__init__(channels, strides, num_classes)
        rates = [max(1, round(rate * 16 / strides[-1])) for rate in (6, 12, 18)]
        self.head = DeepLabHead(channels[-1], num_classes, rates)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return resize(self.head(maps[-1]), size)
