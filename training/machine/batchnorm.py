"""BatchNorm over the global batch, so that N processes compute the same as one. torch's SyncBatchNorm refuses CPU tensors, so the
module here takes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.distributed import all_gather_rows, is_distributed
from common.errors import UserError


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm with differentiable training statistics over the rows of all processes, equally many on each. Its state dict is
    BatchNorm's."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        local = torch.stack([values.mean(axes), values.var(axes, unbiased=False)])
        means, variances = all_gather_rows(local[None]).unbind(1)  # [world, C] each
        mean = means.mean(0)
        # Variance of the union: mean of the variances plus variance of the means.
        variance = (variances + (means - mean).square()).mean(0)
        if self.track_running_stats:
            self._update_running(mean, variance, input.numel() // input.shape[1] * means.shape[0])
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        output = (values - mean.view(shape)) * scale.view(shape)
        if self.affine:
            output = output + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.detach(), momentum)
        self.running_var.lerp_(variance.detach() * (count / max(count - 1, 1)), momentum)


class _GlobalBatchNormAct(GlobalBatchNorm):
    """timm's BatchNorm with dropout and an activation."""

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def use_global_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Make every BatchNorm in ``module`` global, keeping the names of parameters and buffers. Raises UserError for an unknown kind
    of BatchNorm."""
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm

    exact = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    with_subclasses = (nn.SyncBatchNorm, GlobalBatchNorm, BatchNormAct2d)
    for name, child in module.named_modules():
        if isinstance(child, _BatchNorm) and type(child) not in exact and not isinstance(child, with_subclasses):
            raise UserError(
                f"{name} is a {type(child).__name__}, whose statistics cannot be shared; train it in one process"
            )
    if device.type == "cuda":
        return convert_sync_batchnorm(module)
    for child in module.modules():
        if isinstance(child, _BatchNorm) and not isinstance(child, GlobalBatchNorm):
            child.__class__ = _GlobalBatchNormAct if isinstance(child, BatchNormAct2d) else GlobalBatchNorm
    return module
