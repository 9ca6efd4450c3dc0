"""A plain ViT, as DINO's recipe describes it (arXiv 2104.14294), to be timed beside ours. Its parameters have the same names, so
that weights can be exchanged."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Softmax attention written out as two matrix products."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(D // self.heads)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(B, N, D))


class Block(nn.Module):
    """Pre-norm block with stochastic depth."""

    def __init__(self, width: int, heads: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        layers = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.rate = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))

    def drop(self, branch: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)


def stem(width: int, inner: Sequence[int]) -> nn.Sequential:
    """Patches of 2 ** len(inner) pixels, embedded by convolutions (arXiv 2106.14881) of ``inner`` channels and ``width``."""
    layers: list[nn.Module] = []
    channels = [3, *inner, width]
    for number, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        stride = 1 if number == 1 else 2
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))


class VisionTransformer(nn.Module):
    """Images ``[B, 3, H, W]`` to normed CLS tokens ``[B, width]``; ``drop_path_rate`` rises linearly over the blocks. ``inner``:
    channels of a convolutional stem."""

    def __init__(
        self,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        position_size: int = 224,
        drop_path_rate: float = 0.0,
        inner: Sequence[int] = (),
    ):
        super().__init__()
        self.width = width
        self.grid = position_size // patch_size
        convolution = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.patch_embed = stem(width, inner) if inner else nn.Sequential(OrderedDict(proj=convolution))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.Sequential(
            *(Block(width, heads, drop_path_rate * index / max(1, depth - 1)) for index in range(depth))
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def positions(self, rows: int, columns: int) -> Tensor:
        if rows == columns == self.grid:
            return self.pos_embed
        g = self.grid
        patches = self.pos_embed[:, 1:].reshape(1, g, g, -1).permute(0, 3, 1, 2)
        factor = ((rows + 0.1) / g, (columns + 0.1) / g)
        patches = F.interpolate(patches, scale_factor=factor, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images)
        rows, columns = patches.shape[2:]
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = self.blocks(tokens + self.positions(rows, columns))
        return self.norm(tokens)[:, 0]
