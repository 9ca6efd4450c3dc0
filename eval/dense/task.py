"""Segmentation as the trainer sees it: a method that learns from images, or a frozen backbone's maps, with masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from backbones.base import Backbone
from eval.dense.maps import rounded
from heads.segmentation.core.base import SEGMENTATION_HEADS, SegmentationHead
from heads.segmentation.core.losses import make_loss
from heads.segmentation.setr_mla import SETRMLA
from methods.core.base import Method, MethodConfig, StepOutput, ViewBatch
from methods.core.layer_rates import scaled_groups


@dataclass(kw_only=True)
class TaskConfig(MethodConfig):
    """The task's options, documented in ``eval.segmentation.SegmentationConfig``."""

    head: str = "linear"
    finetune: bool = False
    loss: list[str] = field(default_factory=lambda: ["cross_entropy"])
    auxiliary: float = 0.0
    backbone_lr_scale: float = 0.1
    layer_decay: float = 1.0


class SegmentationTask(Method):
    """A segmentation head on a backbone. A frozen backbone stays in evaluation mode, so that BatchNorm keeps its statistics.

    Args:
        num_classes: background included.
        whole: the frozen backbone sees whole images, so its maps are stored in half precision, or rounded to it.
        precomputed: batches hold these maps, of ``blocks``, instead of images.

    Attributes:
        blocks: the blocks that all heads read, rising.
    """

    uses_labels = True

    def __init__(
        self,
        config: TaskConfig,
        make_backbone: Callable[[], Backbone],
        num_classes: int,
        whole: bool = False,
        precomputed: bool = False,
    ):
        super().__init__(config, make_backbone, num_classes)
        if (whole or precomputed) and config.finetune:
            raise ValueError("a backbone that is trained has no stored maps")
        self.whole, self.precomputed = whole, precomputed
        self.backbone = make_backbone()
        self.backbone.requires_grad_(config.finetune)
        head = SEGMENTATION_HEADS.get(config.head)
        self.head_blocks = head.blocks(self.backbone.depth)
        self.head = self._on_blocks(head, self.head_blocks, num_classes)
        self.auxiliary = nn.ModuleList()
        self.auxiliary_blocks: tuple[int, ...] = ()
        if config.auxiliary:
            # SETR (arXiv 2012.15840, section 4): auxiliary heads of two layers on intermediate blocks.
            self.auxiliary_blocks = SETRMLA.blocks(self.backbone.depth)[:-1]
            naive = SEGMENTATION_HEADS.get("setr_naive")
            self.auxiliary.extend(self._on_blocks(naive, (block,), num_classes) for block in self.auxiliary_blocks)
        self.blocks = tuple(sorted({*self.head_blocks, *self.auxiliary_blocks}))
        self._loss = make_loss(config.loss)

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Without a frozen backbone, whose weights the evaluated run has."""
        state = super().state_dict(*args, **options)
        if not self.config.finetune:
            for name in [name for name in state if name.startswith("backbone.")]:
                del state[name]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Also takes a state with the frozen backbone, as older files hold it."""
        own = {} if self.config.finetune else {f"backbone.{name}": v for name, v in self.backbone.state_dict().items()}
        return super().load_state_dict({**own, **state_dict}, strict, assign)

    def _on_blocks(self, head: type[SegmentationHead], blocks: tuple[int, ...], num_classes: int) -> SegmentationHead:
        """Make a head that reads these blocks."""
        channels = [self.backbone.map_channels(block) for block in blocks]
        return head(channels, [self.backbone.map_stride(block) for block in blocks], num_classes)

    def train(self, mode: bool = True) -> SegmentationTask:
        super().train(mode)
        if not self.config.finetune:
            self.backbone.eval()
        return self

    def forward(self, batch: ViewBatch) -> StepOutput:
        """Views are images ``[B, 3, S, S]`` or maps of ``blocks`` ``[B, C, h, w]``; labels are masks, uint8 ``[B, S, S]``."""
        masks_BSS = batch.labels
        size = tuple(masks_BSS.shape[-2:])
        if self.precomputed:
            maps = [view.float() for view in batch.views]
        else:
            with torch.set_grad_enabled(self.config.finetune and torch.is_grad_enabled()):
                maps = self.backbone.maps(batch.views[0], self.blocks)
            maps = rounded(maps) if self.whole else maps
        by_block = dict(zip(self.blocks, maps, strict=True))
        logits_BCSS = self.head([by_block[block] for block in self.head_blocks], size)
        loss = self._loss(logits_BCSS, masks_BSS)
        for block, head in zip(self.auxiliary_blocks, self.auxiliary, strict=True):
            loss = loss + self.config.auxiliary * self._loss(head([by_block[block]], size), masks_BSS)
        return StepOutput(loss)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return scaled_groups(self, self.config.backbone_lr_scale, self.config.layer_decay)
