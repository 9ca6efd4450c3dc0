"""Segmentation as the trainer sees it: a method whose batches are images with masks, or a frozen backbone's maps of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbones.base import Backbone
from common.ahead import ahead
from common.distributed import rank, world_size
from common.errors import UserError
from data.store.decode import DamagedImage
from data.store.store import ImageStore
from data.views.dense import SegmentationAugmentation, fit_mask
from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead
from heads.segmentation.core.losses import make_loss
from heads.segmentation.setr_mla import SETRMLA
from methods.core.base import Method, MethodConfig, StepOutput, ViewBatch
from training.batches import AHEAD, CROPS, ORDER, seed_of
from training.config import TrainConfig


@dataclass(kw_only=True)
class TaskConfig(MethodConfig):
    """What of a segmentation's options belongs to the task."""

    head: str = "linear"
    finetune: bool = False
    loss: list[str] = field(default_factory=lambda: ["cross_entropy"])
    auxiliary: float = 0.0
    backbone_lr_scale: float = 0.1
    layer_decay: float = 1.0


class SegmentationTask(Method):
    """A segmentation head on a backbone, frozen or not.

    A frozen backbone stays in evaluation mode, so that not even the statistics of its BatchNorm change.

    Args:
        config: see ``eval.segmentation.SegmentationConfig``, which documents the options.
        make_backbone: gives the backbone, with its weights.
        num_classes: background included.
        precomputed: batches hold the backbone's maps of ``blocks`` in place of images; of a frozen backbone only.

    Attributes:
        blocks: of the backbone that head and auxiliary heads read, rising.
    """

    uses_labels = True

    def __init__(
        self, config: TaskConfig, make_backbone: Callable[[], Backbone], num_classes: int, precomputed: bool = False
    ):
        super().__init__(config, make_backbone, num_classes)
        if precomputed and config.finetune:
            raise ValueError("a backbone that is trained has no precomputed maps")
        self.precomputed = precomputed
        self.backbone = make_backbone()
        self.backbone.requires_grad_(config.finetune)
        self.head, self.head_blocks = build_head(config.head, self.backbone, num_classes)
        self.auxiliary = nn.ModuleList()
        self.auxiliary_blocks: tuple[int, ...] = ()
        if config.auxiliary:
            # SETR (arXiv 2012.15840, section 4): auxiliary heads of two layers on intermediate blocks.
            self.auxiliary_blocks = SETRMLA.blocks(self.backbone.depth)[:-1]
            for block in self.auxiliary_blocks:
                channels, stride = self.backbone.map_channels(block), self.backbone.map_stride(block)
                self.auxiliary.append(SEGMENTATION_HEADS.get("setr_naive")([channels], [stride], num_classes))
        self.blocks = tuple(sorted({*self.head_blocks, *self.auxiliary_blocks}))
        self._loss = make_loss(config.loss)

    def train(self, mode: bool = True) -> SegmentationTask:
        super().train(mode)
        if not self.config.finetune:
            self.backbone.eval()
        return self

    def forward(self, batch: ViewBatch) -> StepOutput:
        """``batch.views``: images ``[B, 3, S, S]``, or, precomputed, the maps of ``blocks``, ``[B, C, h, w]`` each.
        ``batch.labels``: masks uint8 ``[B, S, S]``."""
        masks = batch.labels
        size = (masks.shape[-2], masks.shape[-1])
        if self.precomputed:
            maps = batch.views
        else:
            with torch.set_grad_enabled(self.config.finetune and torch.is_grad_enabled()):
                maps = self.backbone.maps(batch.views[0], self.blocks)
        by_block = dict(zip(self.blocks, maps, strict=True))
        logits = self.head([by_block[block] for block in self.head_blocks], size)
        loss = self._loss(logits, masks)
        for block, head in zip(self.auxiliary_blocks, self.auxiliary, strict=True):
            loss = loss + self.config.auxiliary * self._loss(head([by_block[block]], size), masks)
        return StepOutput(loss)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return scaled_groups(self, self.config.backbone_lr_scale, self.config.layer_decay)


def scaled_groups(method: Method, backbone_lr_scale: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups of what is trained of a backbone and the heads on it. Biases and 1-d tensors have no weight decay. Heads have the
    whole learning rate; layer l of a backbone of L layers has ``backbone_lr_scale · layer_decay ** (L - l)`` of it
    (arXiv 2106.08254, section 2.3 of its appendix)."""
    scales = {name: 1.0 for name, _ in method.named_parameters()}
    if any(parameter.requires_grad for parameter in method.backbone.parameters()):
        layers = backbone_layers(method.backbone, layer_decay != 1)
        top = max(layers.values())
        for name, layer in layers.items():
            scales[f"backbone.{name}"] = backbone_lr_scale * layer_decay ** (top - layer)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith(".bias")
            groups.setdefault((scales[name], decayed), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, **({} if decayed else {"weight_decay": 0.0})}
        for (scale, decayed), parameters in groups.items()
    ]


def build_head(name: str, backbone: Backbone, num_classes: int) -> tuple[SegmentationHead, tuple[int, ...]]:
    """A freshly initialised head for a backbone, and the blocks that it reads."""
    head = SEGMENTATION_HEADS.get(name)
    blocks = head.blocks(backbone.depth)
    channels = [backbone.map_channels(block) for block in blocks]
    return head(channels, [backbone.map_stride(block) for block in blocks], num_classes), blocks


def backbone_layers(backbone: Backbone, required: bool) -> dict[str, int]:
    """The layer of each of a backbone's parameters, for layer-wise decay: 0 for what stands before the first block (or stage),
    i + 1 for block i, and the last for what follows it.

    Raises UserError where ``required`` and the names do not tell (none has blocks, stages or layers with numbers)."""
    names = [name for name, _ in backbone.named_parameters()]
    found: dict[str, int | None] = {}
    for name in names:
        # ResNets count their layers from 1; blocks and stages are counted from 0.
        stage, block = (
            re.search(r"(?:^|\.)layer(\d+)\.", name),
            re.search(r"(?:^|\.)(?:blocks|stages|layers)\.(\d+)\.", name),
        )
        found[name] = int(stage[1]) if stage else int(block[1]) + 1 if block else None
    numbered = [layer for layer in found.values() if layer is not None]
    if not numbered:
        if required:
            raise UserError(f"--layer_decay: the layers of {backbone.label} are not known by name; give 1")
        return dict.fromkeys(names, 0)
    last_numbered = max(position for position, name in enumerate(names) if found[name] is not None)
    return {
        name: layer if layer is not None else max(numbered) if position > last_numbered else 0
        for position, (name, layer) in enumerate(found.items())
    }


#: ``sample(image, seed)``: what of a training image stands in ``ViewBatch.views``, and its mask.
Sample = Callable[[int, int], tuple[list[Tensor], Tensor]]


class SegmentationBatches:
    """Batches of images with masks as a function of the step; the trainer uses it as ``training.batches.Batches``.

    Args:
        store: the images to train on.
        sample: makes a sample.
        config: resolved options of the training.
        device: where batches go.
        workers: threads that make samples, where that takes long.

    Raises:
        UserError: fewer images than a batch has.
    """

    def __init__(self, store: ImageStore, sample: Sample, config: TrainConfig, device: torch.device, workers: int = 1):
        if len(store) < config.batch_size:
            raise UserError(
                f"{store.name} has {len(store)} images to train on, fewer than one batch; give --batch_size {len(store)} or less "
                "(beside other evaluations: --segmentation_batch_size)"
            )
        self.config, self.device = config, device
        self._images, self._sample, self._workers = len(store), sample, workers
        self.steps_per_epoch = len(store) // config.batch_size
        self.left_out = len(store) - self.steps_per_epoch * config.batch_size

    def _gather(self, step: int, pool: ThreadPoolExecutor) -> ViewBatch:
        """This rank's part of the batch of ``step``."""
        size, seed = self.config.batch_size, self.config.seed
        epoch, place = divmod(step, self.steps_per_epoch)
        images = np.random.default_rng([ORDER, seed, epoch]).permutation(self._images)[
            place * size : (place + 1) * size
        ]
        share = size // world_size()
        mine = range(rank() * share, (rank() + 1) * share)
        seeds = [seed_of(CROPS, seed, step, row) for row in mine]
        samples = list(pool.map(self._sample, images[mine.start : mine.stop].tolist(), seeds))
        views = [torch.stack(tensors) for tensors in zip(*(views for views, _ in samples), strict=True)]
        masks = torch.stack([mask for _, mask in samples])
        if self.device.type == "cuda":  # from other memory, a copy would wait for the step before
            views, masks = [view.pin_memory() for view in views], masks.pin_memory()
        return ViewBatch(views, masks)

    def stream(self, first: int, end: int) -> Iterator[ViewBatch]:
        """The batches of the steps from ``first`` to before ``end``, made ahead of the training by threads."""
        with ThreadPoolExecutor(self._workers, "samples") as pool:
            for batch in ahead(lambda step: self._gather(step, pool), range(first, end), most=AHEAD):
                views = [view.to(self.device, non_blocking=True) for view in batch.views]
                yield ViewBatch(views, batch.labels.to(self.device, non_blocking=True))


def image_samples(store: ImageStore, augmentation: SegmentationAugmentation) -> Sample:
    """Augmented images, from their sources at full resolution."""

    def sample(image: int, seed: int) -> tuple[list[Tensor], Tensor]:
        pixels, mask = augmentation(original(store, image), class_mask(store, image), seed)
        return [pixels], mask

    return sample


def map_samples(
    store: ImageStore, maps: Mapping[int, Tensor], blocks: tuple[int, ...], augmentation: SegmentationAugmentation
) -> Sample:
    """Maps of whole images, flipped or not.

    Args:
        maps: for each block ``[n, 2, C, h, w]``: of each image as it is and flipped, as ``eval.dense.maps`` computes them.
        blocks: which of them, in order.
    """

    def sample(image: int, seed: int) -> tuple[list[Tensor], Tensor]:
        flipped = augmentation.flips(seed)
        mask = class_mask(store, image)
        mask = fit_mask(mask.flip(-1) if flipped else mask, augmentation.crop_size)
        return [maps[block][image, int(flipped)] for block in blocks], mask

    return sample


def original(store: ImageStore, image: int) -> Tensor:
    """uint8 ``[3, H, W]`` at full resolution. Raises UserError where the file has become unreadable."""
    try:
        return torch.tensor(store.original_image(image)).permute(2, 0, 1).contiguous()
    except DamagedImage as error:
        raise UserError(f"{store.names[image]} of {store.name} cannot be read any more: {error}") from error


def class_mask(store: ImageStore, image: int) -> Tensor:
    """uint8 ``[H, W]`` at full resolution."""
    return torch.from_numpy(store.mask(image))
