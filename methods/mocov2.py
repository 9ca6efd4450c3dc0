"""MoCo v2: contrast with a queue (Chen et al. 2020, arXiv 2003.04297; He et al. 2019, arXiv 1911.05722; reference:
facebookresearch/moco).

A query, one crop, is drawn towards its key, what a slow copy of the network makes of the other crop, and away from the keys of
earlier batches, which a queue holds.

Shapes: B images, K keys in the queue, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from common.distributed import all_gather_rows
from common.errors import UsageError
from data.views.spec import View
from methods.barlow_twins import parse_widths
from methods.core.augmentation import AugmentationConfig, two_views
from methods.core.base import METHODS, Method, Progress, StepOutput, ViewBatch
from methods.core.twin import Twin


@dataclass(kw_only=True)
class MoCoV2Config(AugmentationConfig):
    """MoCo v2's options. Defaults: main_moco.py with ``--mlp --moco-t 0.2 --aug-plus --cos``."""

    global_scale: tuple[float, float] = (0.2, 1.0)
    """area of a crop, as a part of the image's, drawn uniformly"""
    saturation: float = 0.4
    """of the colour jitter: factor within 1 ± this"""
    blur_p: tuple[float, float] = (0.5, 0.5)
    """probability of a Gaussian blur, for the first and the second crop"""
    solarize_p: tuple[float, float] = (0.0, 0.0)
    """probability of solarisation, for the first and the second crop"""

    projector: str = "2048-128"
    """widths of the projector's layers"""
    queue: int = 65536
    """keys of earlier batches to contrast with; at least a batch"""
    momentum_key: float = 0.999
    """of the moving average that the key encoder is"""
    temperature: float = 0.2
    """of the softmax over similarities"""

    def __post_init__(self) -> None:
        self.require(lambda value: value >= 1, "give at least 1", "queue")
        self.require(lambda value: 0 <= value <= 1, "give 0 to 1", "momentum_key")
        self.require(lambda value: value > 0, "a temperature must be above 0", "temperature")
        parse_widths(self.projector)


@METHODS.register("mocov2")
class MoCoV2(Method):
    """What gets evaluated is the backbone of the queries. The queue holds the keys of all ranks, in rank order, and is the same
    on each.

    The reference shuffles images between GPUs before they become keys, because there a query and its key would share the
    BatchNorm statistics of one GPU's small part of the batch, which gives the pair away. Here BatchNorm's statistics are of the
    whole batch on any number of ranks: there are no parts, so nothing to shuffle.
    """

    title = "MoCo v2"
    Config = MoCoV2Config
    #: main_moco.py; 800 epochs are the longest published.
    recipe: ClassVar[dict[str, Any]] = {
        "optimizer": "sgd",
        "lr": 0.03,
        "min_lr": 0.0,
        "warmup_epochs": 0.0,
        "weight_decay": 1e-4,
        "batch_size": 256,
        "epochs": 200,
    }

    config: MoCoV2Config

    def __init__(self, config: MoCoV2Config, make_backbone: Callable[..., Backbone], num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone()
        widths = [self.backbone.width, *parse_widths(config.projector)]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU(inplace=True)]
        self.projector = nn.Sequential(*layers[:-1])  # without BatchNorm, as in the reference
        self.key_encoder = Twin(self.backbone, self.projector)
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, widths[-1])))
        self.register_buffer("queue_place", torch.zeros(1, dtype=torch.int64))

    @classmethod
    def views(cls, config: MoCoV2Config, image_size: int) -> list[View]:
        return two_views(config, image_size)

    def forward(self, batch: ViewBatch) -> StepOutput:
        queries_BD = self.projector(self.backbone(batch.views[0]))
        keys_BD = self.key_encoder(batch.views[1])
        with torch.autocast(queries_BD.device.type, enabled=False):
            queries_BD, keys_BD = F.normalize(queries_BD.float()), F.normalize(keys_BD.float())
            loss = self.loss(queries_BD, keys_BD)
        self.enqueue(all_gather_rows(keys_BD))
        return StepOutput(loss, projections=(queries_BD.detach(), keys_BD))

    def loss(self, queries_BD: Tensor, keys_BD: Tensor) -> Tensor:
        """InfoNCE, mean over the rank's own images. Equal to, in plain loops over unit vectors::

        scores = [q[i] @ k[i] / temperature] + [q[i] @ queue[j] / temperature for j in range(K)]
        loss[i] = logsumexp(scores) - scores[0]
        """
        positive_B1 = (queries_BD * keys_BD).sum(1, keepdim=True)
        # Of a copy: the queue changes before the backward pass.
        negatives_BK = queries_BD @ self.queue.clone().T
        logits = torch.cat([positive_B1, negatives_BK], dim=1) / self.config.temperature
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys_BD: Tensor) -> None:
        """Put keys (unit vectors, of all ranks) in place of the oldest."""
        if len(keys_BD) > len(self.queue):
            raise UsageError(
                f"--queue {len(self.queue)} is less than a batch of {len(keys_BD)} images; give at least as many"
            )
        places = (self.queue_place + torch.arange(len(keys_BD), device=keys_BD.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys_BD.to(self.queue.dtype))
        self.queue_place.add_(len(keys_BD)).remainder_(len(self.queue))

    def after_step(self, progress: Progress) -> None:
        self.key_encoder.follow(self.backbone, self.projector, self.config.momentum_key)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All parameters decay alike, biases and norms too, as in the reference."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]
