"""Raw pixels as features: what learned features have to beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import Backbone, named_blocks

#: Most cells a side.
LARGEST_SIDE = 32


class Pixels(Backbone):
    """Averages an image to at most 32 × 32 cells, as one vector ``[B, 3 · side²]``. The side is a buffer, so that a checkpoint
    for another image size does not load."""

    depth = 1

    def __init__(self, image_size: int):
        super().__init__()
        side = min(LARGEST_SIDE, image_size)
        self.register_buffer("side", torch.tensor([side]))
        self._side = side
        self.width = 3 * side**2
        self.stride = max(1, image_size // side)

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, self._side).flatten(1)

    def maps(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        """The image, averaged over cells of ``stride`` pixels: ``[B, 3, H/stride, W/stride]``."""
        named_blocks(blocks, self.depth)
        return [F.avg_pool2d(images, self.stride)] * len(blocks)

    def map_channels(self, block: int = -1) -> int:
        return 3


def build(name: str, image_size: int) -> Pixels:
    return Pixels(image_size)
