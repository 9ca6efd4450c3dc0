"""The one interface of all backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError


class Backbone(nn.Module):
    """Images in, features out. Images are ``[B, 3, H, W]``, normalised; H and W are multiples of ``patch_size`` for ViTs.

    Attributes:
        width: channels D of pooled features (and of the last map).
        stride: input pixels per cell of the last map (a ViT's patch size; 32 for a ResNet-50).
        depth: number of blocks that ``tokens`` and ``maps`` can name: a ViT's blocks; a ResNet's four stages.
        has_tokens: True for ViTs: ``tokens`` and ``cls_attention`` work. They raise UserError elsewhere.
    """

    width: int
    stride: int
    depth: int
    has_tokens: bool = False

    #: The name it was built by ("vit_s16"), for messages.
    label: str = "this backbone"

    @property
    def published(self) -> nn.Module:
        """The module whose names published weights have: this one, or the model that it is made around."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features ``[B, width]``: the normed CLS token of a ViT; the spatial mean of a ResNet's last stage."""
        raise NotImplementedError

    def tokens(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        """Tokens of each named block (negative: from the end) after the final norm: ``[B, 1 + N, width]``, CLS first, then
        patches row by row (reference: ``get_intermediate_layers``)."""
        raise UserError(f"{self.label} has no CLS and patch tokens; choose a ViT, such as vit_s16")

    def maps(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        """Map of each named block, ``[B, C, h, w]``. A ViT: normed patch tokens, C = width, H/stride × W/stride. A ResNet: the
        stage's output, of its own channels and stride (``map_channels``, ``map_stride``)."""
        raise NotImplementedError

    def map_channels(self, block: int = -1) -> int:
        """Channels of ``maps(…, [block])``."""
        return self.width

    def map_stride(self, block: int = -1) -> int:
        """Input pixels per cell of ``maps(…, [block])``."""
        return self.stride

    def cls_attention(self, images: Tensor) -> Tensor:
        """CLS row of the last block's attention, softmaxed: ``[B, heads, 1 + N]``, first entry CLS to itself."""
        raise UserError(f"{self.label} has no CLS attention; choose a ViT, such as vit_s16")


def named_blocks(blocks: Sequence[int], depth: int) -> list[int]:
    """Indices in ``range(depth)`` of the named blocks (negative: from the end). Raises UserError for a block out of range."""
    for block in blocks:
        if not -depth <= block < depth:
            raise UserError(f"block {block} was asked for, but the backbone has blocks 0 to {depth - 1}")
    return [block % depth for block in blocks]


def avoid_single_pixels(network: nn.Module) -> nn.Module:
    """Let strided convolutions pad inputs of one row or column by another of zeros. As strides are above 1 and the padding is half
    of the kernel, that changes no output.

    It avoids a fault of oneDNN: on a CPU, the weight gradient of a strided bf16 convolution of a single pixel, as in ResNets on
    very small crops, reads uninitialised memory, up to NaN (seen with torch 2.15 on a CPU with AVX-512 BF16)."""
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
