"""Convolutions on a CPU whose weight gradient is a matrix product."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: oneDNN's weight gradient goes through all weights for each image. From this many on, which no core's cache holds, that is
#: most of its time (docs/performance.md).
MANY_WEIGHTS = 2**20


def use_products(network: nn.Module) -> None:
    """Let the convolutions of a network that have many weights take their gradients from products, on a CPU."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.weight.numel() >= MANY_WEIGHTS and _is_plain(module):
            module.__class__ = _Convolution


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether ``_Products`` computes it. A kernel of one pixel is a product for oneDNN, too."""
    is_zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return (
        is_zeros
        and module.bias is None
        and module.groups == 1
        and module.dilation == (1, 1)
        and module.kernel_size != (1, 1)
    )


class _Convolution(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu" and self.weight.requires_grad and torch.is_grad_enabled():
            return _Products.apply(images, self.weight, self.stride, self.padding)
        return super().forward(images)


class _Products(torch.autograd.Function):
    """A convolution of images ``[B, C, H, W]``, as torch computes it but for the gradient of its weight ``[O, C, k, l]``."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.steps = stride, padding
        return F.conv2d(images, weight, None, stride, padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        images, weight = ctx.saved_tensors
        stride, padding = ctx.steps
        dtype = gradient.dtype  # of autocast
        of_images = None
        if ctx.needs_input_grad[0]:
            options = None, stride, padding, (1, 1), False, (0, 0), 1, (True, False, False)
            of_images, *_ = torch.ops.aten.convolution_backward(gradient, images.to(dtype), weight.to(dtype), *options)
            of_images = of_images.to(images.dtype)
        rows, columns = padding
        padded_BHWC = F.pad(images.to(dtype).permute(0, 2, 3, 1), (0, 0, columns, columns, rows, rows))
        height, width = weight.shape[2:]
        patches_BhwCkl = padded_BHWC.unfold(1, height, stride[0]).unfold(2, width, stride[1])
        patches = patches_BhwCkl.permute(0, 1, 2, 4, 5, 3).flatten(0, 2).flatten(1)
        of_weight = gradient.permute(0, 2, 3, 1).flatten(0, 2).T @ patches
        of_weight = of_weight.view(-1, height, width, weight.shape[1]).permute(0, 3, 1, 2)
        return of_images, of_weight.to(weight.dtype), None, None
