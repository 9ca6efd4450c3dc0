"""Slow copies of a network: DINO's teacher, BYOL's target, MoCo's key encoder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from common.distributed import own_parts
from common.schedules import cosine
from methods.core.base import Progress


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """``teacher = momentum · teacher + (1 - momentum) · student`` over parameters; buffers are left alone
    (reference: main_dino.py, "EMA update for the teacher")."""
    targets, sources = (own_parts([p.data for p in network.parameters()]) for network in (teacher, student))
    torch._foreach_lerp_(targets, sources, 1 - momentum)


def rising_momentum(start: float, progress: Progress) -> float:
    """Momentum of a moving average: a cosine from ``start`` to 1 over the run."""
    return cosine(start, 1.0, progress.step, progress.total_steps)


class SlowCopy(nn.Module):
    """Copy of a backbone and its projector, without gradients, whose weights follow as a moving average. In training its BatchNorms
    use the batch's statistics, as the originals' do."""

    def __init__(self, backbone: Backbone, projector: nn.Module):
        super().__init__()
        self.backbone, self.projector = copy.deepcopy(backbone), copy.deepcopy(projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` to projections ``[B, D]``."""
        return self.projector(self.backbone(images))

    def follow(self, backbone: Backbone, projector: nn.Module, momentum: float) -> None:
        """``self = momentum · self + (1 - momentum) · original``."""
        ema_update(self.backbone, backbone, momentum)
        ema_update(self.projector, projector, momentum)
