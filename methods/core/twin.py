"""The slow copy of a network that BYOL calls the target and MoCo the key encoder."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from methods.core.base import ema_update


class Twin(nn.Module):
    """Copy of a backbone and its projector: no gradient, and weights that follow theirs as a moving average. Its BatchNorms
    normalise with the batch's statistics, as the originals' do."""

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
