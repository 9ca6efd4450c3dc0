"""MoCo v3: contrast within a large batch, for ViTs too (Chen et al. 2021, arXiv 2104.02057; reference:
facebookresearch/moco-v3).

Each crop's prediction is drawn towards what a slow copy of the network makes of the other crop of its image, and away from
what it makes of that crop of all other images. No queue.

Shapes: B images of this rank, N of all ranks, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from common.distributed import all_gather_rows, rank
from common.schedules import cosine
from data.views.spec import View
from heads.barlow import BarlowProjector
from methods.barlow_twins import parse_widths
from methods.core.augmentation import AugmentationConfig, two_views
from methods.core.base import METHODS, Method, Progress, StepOutput, ViewBatch
from methods.core.twin import Twin


@dataclass(kw_only=True)
class MoCoV3Config(AugmentationConfig):
    """MoCo v3's options. Defaults: those of its ViTs (main_moco.py and CONFIG.md); the augmentation is BYOL's."""

    global_scale: tuple[float, float] = (0.08, 1.0)
    """area of a crop, as a part of the image's, drawn uniformly"""

    projector: str = "4096-4096-256"
    """widths of the projector's layers (published for ResNets: 4096-256)"""
    predictor_dim: int = 4096
    """hidden width of the predictor"""
    momentum_key: float = 0.99
    """of the key encoder's moving average at the start; a cosine takes it to 1"""
    temperature: float = 0.2
    """of the softmax over similarities (published for ResNets: 1.0)"""
    freeze_patch_embedding: bool = True
    """keep a ViT's patch embedding as it was drawn, for stability (the paper's section 4)"""

    def __post_init__(self) -> None:
        self.require(lambda value: value >= 1, "give at least 1", "predictor_dim")
        self.require(lambda value: 0 <= value <= 1, "give 0 to 1", "momentum_key")
        self.require(lambda value: value > 0, "a temperature must be above 0", "temperature")
        parse_widths(self.projector)


@METHODS.register("mocov3")
class MoCoV3(Method):
    """What gets evaluated is the backbone of the queries. Keys are gathered from all ranks and have no gradient, so the loss is
    a mean over the rank's own images."""

    title = "MoCo v3"
    Config = MoCoV3Config
    #: The paper's section 5 and appendix (AdamW, 1.5e-4 × batch / 256). It warms up for 40 of its 300 epochs.
    recipe: ClassVar[dict[str, Any]] = {
        "lr": 1.5e-4,
        "min_lr": 0.0,
        "weight_decay": 0.1,
        "batch_size": 4096,
        "epochs": 300,
    }
    warmup_endpoint: ClassVar[bool] = False

    config: MoCoV3Config

    def __init__(self, config: MoCoV3Config, make_backbone: Callable[..., Backbone], num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone(zero_init_residual=True)
        if config.freeze_patch_embedding and self.backbone.has_tokens:
            for name, parameter in self.backbone.named_parameters():
                if "patch_embed." in name:
                    parameter.requires_grad_(False)
        self.projector = _mlp(self.backbone.width, parse_widths(config.projector))
        width = parse_widths(config.projector)[-1]
        self.predictor = _mlp(width, [config.predictor_dim, width])
        self.key_encoder = Twin(self.backbone, self.projector)

    @classmethod
    def views(cls, config: MoCoV3Config, image_size: int) -> list[View]:
        return two_views(config, image_size)

    def forward(self, batch: ViewBatch) -> StepOutput:
        # One crop after the other, as the reference has it: BatchNorm's statistics are those of one crop.
        z1, z2 = (self.projector(self.backbone(view)) for view in batch.views)
        q1, q2 = self.predictor(z1), self.predictor(z2)
        k1, k2 = (self.key_encoder(view) for view in batch.views)
        with torch.autocast(z1.device.type, enabled=False):
            loss = self.contrast(q1.float(), k2.float()) + self.contrast(q2.float(), k1.float())
        return StepOutput(loss, projections=(z1.detach(), z2.detach()))

    def contrast(self, queries_BD: Tensor, keys_BD: Tensor) -> Tensor:
        """InfoNCE against the keys of all ranks. Equal to, in plain loops, with s the cosine similarities of this rank's queries
        with the N keys and ``own`` the key of the same image::

            scores = [s[i, j] / temperature for j in range(N)]
            loss[i] = 2 * temperature * (logsumexp(scores) - scores[own])

        (The factor is the paper's algorithm 1.)
        """
        keys_ND = all_gather_rows(F.normalize(keys_BD))
        logits_BN = F.normalize(queries_BD) @ keys_ND.T / self.config.temperature
        own_B = torch.arange(len(queries_BD), device=queries_BD.device) + rank() * len(queries_BD)
        return 2 * self.config.temperature * F.cross_entropy(logits_BN, own_B)

    def after_step(self, progress: Progress) -> None:
        momentum = cosine(self.config.momentum_key, 1.0, progress.step, progress.total_steps)
        self.key_encoder.follow(self.backbone, self.projector, momentum)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All parameters decay alike, biases and norms too, as in the reference."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


def _mlp(in_dim: int, widths: list[int]) -> nn.Sequential:
    """A projector whose outputs are normalised over the batch (reference: ``_build_mlp``)."""
    return nn.Sequential(*BarlowProjector(in_dim, widths), nn.BatchNorm1d(widths[-1], affine=False))
