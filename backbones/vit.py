"""DINO's vision transformers, under the authors' state-dict names, so that released weights load as they are.

Reference: facebookresearch/dino ``vision_transformer.py``. Shapes: B images, N patches, D width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import PATCH_SIZES
from backbones.base import Backbone, named_blocks
from common.errors import UserError


class Attention(nn.Module):
    """Multi-head self-attention (reference: ``Attention``).

    Attributes:
        written_out: compute half precision on a CPU by matrix products; see ``as_on_accelerator``.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.written_out = True
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split(self, tokens_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``[B, heads, N, D / heads]`` each."""
        # Taken apart before they are turned, so that their gradients are put together in the order of the product.
        query, key, value = self.qkv(tokens_BND).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        query, key, value = self.split(tokens_BND)
        if self.written_out and query.device.type == "cpu" and query.dtype != torch.float32:
            # On CPUs the fused kernel is slow in half precision: it took 2.8 times as long as these matrix products for
            # forward and backward of 197 tokens. In float32, and on accelerators, it is faster.
            mixed = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1).to(value.dtype) @ value
        else:
            mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def first(self, tokens_BND: Tensor) -> Tensor:
        """The first of ``forward``'s tokens, ``[B, 1, D]``, without the keys and values of all: the query passes the keys' weights
        and meets the tokens themselves, and each head's mean of tokens passes the values' weights. A key's bias adds the same to
        all scores, so softmax takes it out."""
        parts = (3, self.heads, -1)
        (query_w, key_w, value_w), (query_b, _, value_b) = (
            self.qkv.weight.unflatten(0, parts),
            self.qkv.bias.unflatten(0, parts),
        )
        query = F.linear(tokens_BND[:, 0], query_w.flatten(0, 1), query_b.flatten()).unflatten(-1, parts[1:])
        query_HBD = (query * query.shape[-1] ** -0.5).transpose(0, 1) @ key_w
        weights_BHN = (query_HBD.transpose(0, 1) @ tokens_BND.mT).softmax(-1).to(query.dtype)
        mixed_HBD = (weights_BHN @ tokens_BND).transpose(0, 1)
        value = mixed_HBD @ value_w.mT + value_b.unsqueeze(1)
        return self.proj(value.transpose(0, 1).flatten(1)).unsqueeze(1)


def as_on_accelerator(network: nn.Module) -> None:
    """Make a network on a CPU keep the tensors that it would keep on an accelerator, to count its memory there."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.written_out = False


class Mlp(nn.Module):
    """Two layers with a GELU between, four times as wide inside (reference: ``Mlp``)."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens_BND)))


class Block(nn.Module):
    """Pre-norm transformer block (reference: ``Block``): tokens ``[B, N, D]`` to tokens, or to the first of them only.

    Args:
        drop_path: probability of leaving out each of an image's two branches in training; a kept branch is divided by
            1 - drop_path (reference: ``drop_path``).
    """

    def __init__(self, width: int, heads: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.drop_path = drop_path

    def forward(self, tokens_BND: Tensor, first_only: bool = False) -> Tensor:
        return self._transform(tokens_BND, self._kept(tokens_BND), self._kept(tokens_BND), first_only)

    def compile(self, **options: Any) -> None:
        """Compile all but the random numbers, so that blocks of all rates share one program."""
        self._transform = torch.compile(self._transform, **options)

    def _kept(self, tokens_BND: Tensor) -> Tensor | None:
        """The factor of each image's branch, ``[B, 1, 1]``."""
        if not (self.training and self.drop_path):
            return None
        return tokens_BND.new_empty(len(tokens_BND), 1, 1).bernoulli_(1 - self.drop_path).div_(1 - self.drop_path)

    def _transform(self, tokens_BND: Tensor, kept1: Tensor | None, kept2: Tensor | None, first_only: bool) -> Tensor:
        normed_BND = self.norm1(tokens_BND)
        branch = self.attn.first(normed_BND) if first_only else self.attn(normed_BND)
        if first_only:
            tokens_BND = tokens_BND[:, :1]
        tokens_BND = tokens_BND + (branch if kept1 is None else branch * kept1.to(branch.dtype))
        branch = self.mlp(self.norm2(tokens_BND))
        return tokens_BND + (branch if kept2 is None else branch * kept2.to(branch.dtype))


class PatchEmbedding(nn.Module):
    """Images ``[B, 3, H, W]`` to tokens of patches ``[B, N, D]``, row by row (reference: ``PatchEmbed``)."""

    def __init__(self, patch_size: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).mT


class ConvolutionalStem(nn.Sequential):
    """Embeds patches of 4 or 8 pixels by small convolutions (Xiao et al. 2021, arXiv 2106.14881), ``[B, 3, H, W]`` to
    ``[B, H/P · W/P, D]``, so that a transformer learns from few images and steps, such as the demo's."""

    def __init__(self, width: int, *inner: int):
        """``inner``: channels of the inner stages. The first halves the sides, and so do all after the second and the last, of
        ``width``: two make patches of 4 pixels, three of 8."""

        def stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

        channels = (3, *inner, width)
        strides = (2, 1, *[2] * (len(inner) - 1))
        stages = [stage(*each) for each in zip(channels[:-1], channels[1:], strides, strict=True)]
        super().__init__(*itertools.chain.from_iterable(stages), nn.Conv2d(width, width, 1))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.contiguous(memory_format=torch.channels_last)).flatten(2).mT


class VisionTransformer(Backbone):
    """A ViT with a CLS token and learned positions, for images of any size that the patch divides, square or not.

    Args:
        patch_size: side of a patch in pixels.
        position_size: side in pixels of the square image whose grid the position embeddings have. It is independent of the
            training size, so that weights fit all input sizes.
        drop_path_rate: ``drop_path`` of the last block; it rises linearly from 0 at the first.
        stem: embed patches by a ``ConvolutionalStem`` with these inner channels.
        init_std: standard deviation of the linear layers' truncated normal.
    """

    has_tokens = True

    def __init__(
        self,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        position_size: int = 224,
        drop_path_rate: float = 0.0,
        stem: tuple[int, ...] | None = None,
        init_std: float = 0.02,
    ):
        super().__init__()
        self.patch_size = self.stride = patch_size
        self.width = width
        self.depth = depth
        self.grid = position_size // patch_size

        self.patch_embed = ConvolutionalStem(width, *stem) if stem else PatchEmbedding(patch_size, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid**2, width))
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        # As in the reference's ``_init_weights``, the patch convolution keeps PyTorch's initial weights.
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std)
                nn.init.zeros_(module.bias)

    def _embed(self, images: Tensor) -> Tensor:
        """Tokens ``[B, 1 + N, D]`` before the first block."""
        rows, columns = check_divisible(images.shape[-2:], self.patch_size)
        patches = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.to(patches.dtype).expand(patches.shape[0], -1, -1), patches], dim=1)
        return tokens + interpolate_positions(self.pos_embed, rows, columns)

    def _before_last(self, images: Tensor) -> Tensor:
        """Tokens ``[B, 1 + N, D]`` before the last block."""
        tokens = self._embed(images)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        return tokens

    def _pooled(self, before_last_BND: Tensor) -> Tensor:
        return self.norm(self.blocks[-1](before_last_BND, first_only=True)[:, 0])

    def forward(self, images: Tensor) -> Tensor:
        return self._pooled(self._before_last(images))

    def tokens(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        return self._tokens(self._embed(images), blocks)[0]

    def tokens_and_pooled(self, images: Tensor, blocks: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """``tokens`` of blocks of which one is the last, and ``forward``, from one pass. The last block's CLS token is computed by
        itself, too (0.1% of vit_s16's operations), as ``forward`` does, since it is rounded otherwise among all tokens."""
        tokens, before_last = self._tokens(self._embed(images), blocks)
        return tokens, self._pooled(before_last)

    def _tokens(self, tokens: Tensor, blocks: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """``tokens`` of embedded images, and what the last of these blocks was given."""
        wanted = named_blocks(blocks, self.depth)
        outputs = {}
        for index, block in enumerate(self.blocks[: max(wanted) + 1]):
            before, tokens = tokens, block(tokens)
            if index in wanted:
                outputs[index] = self.norm(tokens)
        return [outputs[index] for index in wanted], before

    def maps(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        rows = images.shape[-2] // self.patch_size
        return [tokens[:, 1:].mT.unflatten(2, (rows, -1)) for tokens in self.tokens(images, blocks)]

    def cls_attention(self, images: Tensor) -> Tensor:
        last = self.blocks[-1]
        query, key, _ = last.attn.split(last.norm1(self._before_last(images)))
        scores = (query[:, :, :1] * query.shape[-1] ** -0.5) @ key.mT
        return scores.squeeze(2).softmax(-1)


def interpolate_positions(pos_embed: Tensor, rows: int, columns: int) -> Tensor:
    """Interpolate position embeddings of a square grid, ``[1, 1 + g², D]``, to ``[1, 1 + rows · columns, D]``, all but the CLS
    token's (reference: ``interpolate_pos_encoding``)."""
    grid = math.isqrt(pos_embed.shape[1] - 1)
    if rows == columns == grid:
        return pos_embed
    patches = pos_embed[:, 1:].unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    # The authors scale by a factor, and add 0.1 of a cell against rounding down (facebookresearch/dino issue 8). Interpolating to
    # a size would move the sampling points and change the features.
    patches = F.interpolate(patches, scale_factor=((rows + 0.1) / grid, (columns + 0.1) / grid), mode="bicubic")
    return torch.cat([pos_embed[:, :1], patches.flatten(2).mT], dim=1)


def check_divisible(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """The patch grid (rows, columns) of an image of ``size`` (height, width); raises UserError if it is not whole."""
    height, width = size
    if height % patch_size or width % patch_size or not (height and width):
        below, above = max(1, width // patch_size) * patch_size, -(-width // patch_size) * patch_size
        raise UserError(
            f"images of {height}×{width} pixels do not divide into patches of {patch_size}; "
            f"choose sides that are multiples of {patch_size}, such as {below}"
            + (f" or {above}" if above > below else "")
        )
    return height // patch_size, width // patch_size


#: The authors' models (reference: ``vit_tiny``, ``vit_small``, ``vit_base``), MoCo v3's ViT-S, and small ones that learn on
#: a CPU core: pico and nano from images of 32 pixels within a minute, micro from those of 64.
_SHAPES: dict[str, dict[str, Any]] = {
    "vit_nano": {"width": 96, "depth": 2, "heads": 3, "position_size": 32, "stem": (32, 64), "init_std": 0.1},
    "vit_pico": {"width": 64, "depth": 2, "heads": 2, "position_size": 32, "stem": (16, 32), "init_std": 0.1},
    "vit_micro8": {"width": 128, "depth": 4, "heads": 4, "position_size": 64, "stem": (16, 32, 64), "init_std": 0.1},
    "vit_t16": {"width": 192, "depth": 12, "heads": 3},
    "vit_s16": {"width": 384, "depth": 12, "heads": 6},
    "vit_s16_12heads": {"width": 384, "depth": 12, "heads": 12},
    "vit_s8": {"width": 384, "depth": 12, "heads": 6},
    "vit_b16": {"width": 768, "depth": 12, "heads": 12},
    "vit_b8": {"width": 768, "depth": 12, "heads": 12},
}
ARCHITECTURES = {name: {"patch_size": PATCH_SIZES[name], **shape} for name, shape in _SHAPES.items()}


def build(name: str, image_size: int, drop_path_rate: float = 0.0) -> VisionTransformer:
    """Build the ViT called ``name``; ``image_size`` is only checked against the patch."""
    check_divisible((image_size, image_size), PATCH_SIZES[name])
    return VisionTransformer(drop_path_rate=drop_path_rate, **ARCHITECTURES[name])
