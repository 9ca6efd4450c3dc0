"""The base class of segmentation heads, and their common parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from common.registry import Registry

SEGMENTATION_HEADS: Registry[type[SegmentationHead]] = Registry("head", "heads.segmentation")


class SegmentationHead(nn.Module):
    """Base of all heads: subclass it in ``heads/segmentation/NAME.py`` and decorate it with
    ``@SEGMENTATION_HEADS.register("NAME")``.

    Args:
        channels, strides: of the maps it will read: channels, and input pixels per cell.
        num_classes: background included.
    """

    #: Display name ("SETR-naive"); "": the file's, with spaces.
    title: ClassVar[str] = ""
    #: Its place among the heads in figures, the simple ones first.
    order: ClassVar[int] = 99

    @staticmethod
    def blocks(depth: int) -> tuple[int, ...]:
        """Which of the backbone's ``depth`` blocks it reads, counted from 0; the default is the last."""
        return (depth - 1,)

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps of ``blocks(depth)``, ``[B, channels_i, h_i, w_i]`` each, to logits ``[B, num_classes, H, W]`` with
        ``size = (H, W)``, the input's."""
        raise NotImplementedError


def resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear to ``size``, without aligned corners (as torchvision's and the SETR code's final upsampling)."""
    return logits if logits.shape[-2:] == size else F.interpolate(logits, size, mode="bilinear", align_corners=False)


def conv_norm_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Bias-free convolution that keeps the size, BatchNorm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
