"""SETR-MLA: multi-level feature aggregation (arXiv 2012.15840, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead, conv_norm_relu, resize

STREAMS = 4


@SEGMENTATION_HEADS.register("setr_mla")
class SETRMLA(SegmentationHead):
    """Four blocks spread over the depth (6, 12, 18, 24 of 24 in the paper; a ResNet's four stages), each a stream:

    1×1 convolution D → D/2; top-down sum with the deeper streams; 3×3 convolution; 3×3 convolution; 3×3 convolution
    D/2 → D/4; upsampling to a quarter of the input's size (×4 at the paper's stride of 16). The streams' concatenation is
    classified by a 1×1 convolution and upsampled ×4. Every convolution but the last has BatchNorm and ReLU. Streams of other
    sizes (a ResNet's) are resized to the last one's for the sums.

    Shapes: ``4 × [B, D_i, h_i, w_i] → 4 × [B, D/4, H/4, W/4] → [B, D, H/4, W/4] → [B, C, H, W]``, D the last map's channels.
    Parameters, for equal D_i: 4·(D²/2 + 2·9·D²/4 + 9·D²/8 + BatchNorm's 3.5·D) + D·C + C.
    """

    title = "SETR-MLA"
    citation = "Zheng et al. 2021, arXiv 2012.15840"
    order = 4

    @staticmethod
    def blocks(depth: int) -> tuple[int, ...]:
        return tuple(-(-(i + 1) * depth // STREAMS) - 1 for i in range(STREAMS))

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int):
        super().__init__(channels, strides, num_classes)
        half, quarter = channels[-1] // 2, channels[-1] // 4
        self.reduce = nn.ModuleList(conv_norm_relu(c, half, 1) for c in channels)
        self.refine = nn.ModuleList(conv_norm_relu(half, half, 3) for _ in channels)
        self.streams = nn.ModuleList(
            nn.Sequential(conv_norm_relu(half, half, 3), conv_norm_relu(half, quarter, 3)) for _ in channels
        )
        self.classifier = nn.Conv2d(quarter * len(channels), num_classes, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        reduced = [resize(reduce(m), maps[-1].shape[-2:]) for reduce, m in zip(self.reduce, maps, strict=True)]
        sums = [reduced[-1]]
        for features in reversed(reduced[:-1]):
            sums.append(sums[-1] + features)
        sums.reverse()
        quarter = (-(-size[0] // 4), -(-size[1] // 4))
        streams = [
            resize(stream(refine(s)), quarter)
            for s, refine, stream in zip(sums, self.refine, self.streams, strict=True)
        ]
        return resize(self.classifier(torch.cat(streams, dim=1)), size)
