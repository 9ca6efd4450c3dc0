"""The one interface of all backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


class Backbone(nn.Module):
    """Turns normalised images ``[B, 3, H, W]`` into features. For ViTs, H and W are multiples of ``patch_size``.

    Attributes:
        width: channels D of pooled features (and of the last map).
        stride: input pixels per cell of the last map (a ViT's patch size; 32 for a ResNet-50).
        depth: blocks that ``tokens`` and ``maps`` can name: a ViT's blocks, a ResNet's four stages.
        has_tokens: True for ViTs. Without it, ``tokens`` and ``cls_attention`` raise UserError.
    """

    width: int
    stride: int
    depth: int
    has_tokens: bool = False

    #: The name it was built by ("vit_s16"), for messages.
    label: str = "this backbone"

    @property
    def published(self) -> nn.Module:
        """The module whose state-dict names published weights use: this one, or the model it wraps."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features ``[B, width]``: a ViT's normed CLS token, the spatial mean of a ResNet's last stage."""
        raise NotImplementedError

    def tokens(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        """Tokens ``[B, 1 + N, width]`` of each block (negative: from the end) after the final norm: CLS, then patches row
        by row (reference: ``get_intermediate_layers``)."""
        raise UserError(f"{self.label} has no CLS and patch tokens; choose a ViT, such as vit_s16")

    def maps(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        """Map ``[B, C, h, w]`` of each block: a ViT's normed patch tokens, or the output of a ResNet's stage."""
        raise NotImplementedError

    def map_channels(self, block: int = -1) -> int:
        """Channels of ``maps(…, [block])``."""
        return self.width

    def map_stride(self, block: int = -1) -> int:
        """Input pixels per cell of ``maps(…, [block])``."""
        return self.stride

    def cls_attention(self, images: Tensor) -> Tensor:
        """The last block's attention from CLS to itself and the patches, softmaxed: ``[B, heads, 1 + N]``."""
        raise UserError(f"{self.label} has no CLS attention; choose a ViT, such as vit_s16")


def named_blocks(blocks: Sequence[int], depth: int) -> list[int]:
    """Turn negative block numbers into indices of ``range(depth)``. Raises UserError for a block out of range."""
    for block in blocks:
        if not -depth <= block < depth:
            raise UserError(f"block {block} was asked for, but the backbone has blocks 0 to {depth - 1}")
    return [block % depth for block in blocks]


def avoid_single_pixels(network: nn.Module) -> nn.Module:
    """Make strided convolutions pad inputs of one row or column with another of zeros, which changes no output.

    On a CPU, oneDNN's weight gradient of a strided bf16 convolution of a single pixel (a ResNet on very small crops) reads
    uninitialised memory, up to NaN (seen with torch 2.15 on a CPU with AVX-512 BF16)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and all(
            stride > 1 and isinstance(padding, int) and kernel == 2 * padding + 1 > 1
            for stride, padding, kernel in zip(module.stride, module.padding, module.kernel_size, strict=False)
        ):
            module.register_forward_pre_hook(_pad)
    return network


def _pad(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (images,) = inputs
    height, width = images.shape[-2:]
    if images.device.type != "cpu" or min(height, width) > 1:
        return inputs
    return (F.pad(images, (0, int(width == 1), 0, int(height == 1))),)
