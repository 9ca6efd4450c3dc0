"""A way around a fault of oneDNN: the weight gradient of a strided bf16 convolution of a single pixel is made of memory that
nobody has written, up to NaN (seen with torch 2.15 on a CPU with AVX-512 BF16). ResNets meet it where a crop is so small that
a stage sees one pixel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def avoid_single_pixels(network: nn.Module) -> nn.Module:
    """Let each strided convolution of the network, on a CPU, pad inputs of one row or column by another of zeros. As strides are
    above 1 and the padding is half of the kernel, that changes no output."""
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
