"""MoCo v2: contrast with a queue (Chen et al. 2020, arXiv 2003.04297; He et al. 2019, arXiv 1911.05722; reference:
facebookresearch/moco).

The projection of one crop (the query) is drawn towards a slow copy's projection of the other crop (its key), and away from the
keys of earlier batches, which a queue holds.

Shapes: B images, K keys in the queue, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.distributed import all_gather_rows, rank, world_size
from common.errors import UsageError
from common.options import option
from heads.mlp import MLP, parse_widths
from methods.core.augmentation import AugmentationConfig
from methods.core.base import (
    METHODS,
    MakeBackbone,
    Method,
    Progress,
    StepOutput,
    ViewBatch,
    full_precision,
    power_of_two,
)
from methods.core.teacher import SlowCopy


@dataclass(kw_only=True)
class MoCoV2Config(AugmentationConfig):
    """MoCo v2's options. Defaults: main_moco.py with ``--mlp --moco-t 0.2 --aug-plus --cos``."""

    global_scale: tuple[float, float] = (0.2, 1.0)
    saturation: float = 0.4
    blur_p: tuple[float, float] = (0.5, 0.5)
    solarize_p: tuple[float, float] = (0.0, 0.0)

    projector: str = option("2048-128", form=parse_widths)
    """widths of the projector's layers"""
    queue: int = option(65536, at_least=1)
    """keys of earlier batches to contrast with; at least a batch"""
    momentum_key: float = option(0.999, at_least=0, at_most=1)
    """of the key encoder's moving average"""
    temperature: float = option(0.2, above=0)
    """of the softmax over similarities"""
    bn_splits: int = option(8, at_least=1)
    """parts of a batch, of at least two images, that the backbone's BatchNorms normalise apart (published: those of 8 GPUs)"""

    def smaller_for(self, images: int, steps: int, epochs: float) -> dict[str, float]:
        # In a longer queue, an image meets keys of its own from an epoch before.
        return {"queue": power_of_two(images / 2)} if self.queue > images else {}


@METHODS.register("mocov2")
class MoCoV2(Method):
    """The queries' backbone is evaluated. The queue holds the keys of all ranks, in rank order, and is the same on each.

    A query and its key must not share BatchNorm's statistics: these tell the key of the same images from the queue's, of others,
    and the loss falls without anything learned (the paper's section 3.3, "Shuffling BN"). So the backbone normalises ``bn_splits``
    parts of the batch apart, and other images are together when they become keys than when they become queries
    (``places_in_parts``). A part has as many images of each rank, so the parts are the same on any number of ranks that have an
    image for each.
    """

    title = "MoCo v2"
    citation = "Chen et al. 2020, arXiv 2003.04297"
    differs = (
        "the batch is dealt out to BatchNorm's parts by a fixed rule, and not by chance: its order is by chance already",
        "the learning rate falls with each step, not with each epoch",
        "crops are resized bicubically, not bilinearly",
    )
    version = 2  # BatchNorm normalises parts of the batch
    Config = MoCoV2Config
    #: main_moco.py; 800 epochs are the longest published.
    recipe = {
        "optimizer": "sgd",
        "lr": 0.03,
        "min_lr": 0.0,
        "warmup_epochs": 0.0,
        "weight_decay": 1e-4,
        "batch_size": 256,
        "epochs": 200,
    }
    small = {"projector": "256-128", "queue": 2048, "momentum_key": 0.99}
    decays_all = True

    def __init__(self, config: MoCoV2Config, make_backbone: MakeBackbone, num_classes: int):
        super().__init__(config, make_backbone, num_classes)
        self.backbone = make_backbone()
        # Without BatchNorm, as in the reference.
        self.projector = MLP(self.backbone.width, parse_widths(config.projector), norm=None)
        self.key_encoder = SlowCopy(self.backbone, self.projector)
        self.has_batchnorm = any(isinstance(module, _BatchNorm) for module in self.backbone.modules())
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, self.projector.out_dim)))
        self.register_buffer("queue_place", torch.zeros(1, dtype=torch.int64))
        self._keys: list[Tensor] = []  # of the step's parts

    def before_step(self, progress: Progress) -> None:
        self._keys.clear()

    def forward(self, batch: ViewBatch) -> StepOutput:
        images = len(batch.step_labels) * world_size()
        if images > len(self.queue):
            raise UsageError(f"--queue {len(self.queue)} is less than a batch of {images} images; give as many")
        rows = len(batch.views[0])
        parts = max(1, min(self.config.bn_splits, rows, rows * world_size() // 2)) if self.has_batchnorm else 1
        query_places, key_places = places_in_parts(rows, parts, batch.views[0].device)
        queries_BD = self.projector(in_parts(self.backbone, batch.views[0], query_places, parts))
        keys_BD = in_parts(self.key_encoder, batch.views[1], key_places, parts)
        with full_precision(queries_BD):
            queries_BD, keys_BD = F.normalize(queries_BD.float()), F.normalize(keys_BD.float())
            loss = self.loss(queries_BD, keys_BD)
        self._keys.append(keys_BD)
        return StepOutput(loss, projections=(queries_BD.detach(), keys_BD))

    def loss(self, queries_BD: Tensor, keys_BD: Tensor) -> Tensor:
        """InfoNCE of unit vectors, mean over the rank's own images. In plain loops::

        scores = [q[i] @ k[i] / temperature] + [q[i] @ queue[j] / temperature for j in range(K)]
        loss[i] = logsumexp(scores) - scores[0]
        """
        positive_B1 = (queries_BD * keys_BD).sum(1, keepdim=True)
        negatives_BK = queries_BD @ self.queue.T
        logits = torch.cat([positive_B1, negatives_BK], dim=1) / self.config.temperature
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys_BD: Tensor) -> None:
        """Put keys (unit vectors, of all ranks; no more than the queue holds) in place of the oldest."""
        places = (self.queue_place + torch.arange(len(keys_BD), device=keys_BD.device)) % len(self.queue)
        self.queue.index_copy_(0, places, keys_BD.to(self.queue.dtype))
        self.queue_place.add_(len(keys_BD)).remainder_(len(self.queue))

    def after_step(self, progress: Progress) -> None:
        if self._keys:
            self.enqueue(all_gather_rows(torch.cat(self._keys)))
        self._keys.clear()
        self.key_encoder.follow(self.backbone, self.projector, self.config.momentum_key)


def places_in_parts(rows: int, parts: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Orders of this rank's images ``[rows]``, to be cut into ``parts``: of the queries, and of the keys. The q-th image of each
    round of ``parts`` images is in part q of the queries. With each round the key's part moves on by one, so that images that are
    together as queries are spread evenly as keys, and each rank has equally many in each part."""
    image = torch.arange(rows, device=device)
    rounds = image // parts + (rank() * (rows // parts) if rows % parts == 0 else 0)
    return (image % parts).argsort(stable=True), ((image + rounds) % parts).argsort(stable=True)


def in_parts(network: nn.Module, images: Tensor, places: Tensor, parts: int) -> Tensor:
    """Outputs for images ``[B, …]``, ``parts`` of which pass one after the other, in the order of ``places``."""
    if parts == 1:
        return network(images)
    outputs = torch.cat([network(part) for part in images[places].tensor_split(parts)])
    return outputs[places.argsort()]
