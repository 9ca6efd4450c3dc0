"""Fine-tuning as the trainer sees it: supervised training of a backbone that has its weights, at rates of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from methods.supervised import Supervised, SupervisedConfig
from training.segmentation import scaled_groups


@dataclass(kw_only=True)
class FinetuneTaskConfig(SupervisedConfig):
    """What of a fine-tuning's options belongs to the task; see ``eval.finetune.FinetuneConfig``, which documents them."""

    backbone_lr_scale: float = 1.0
    layer_decay: float = 1.0


class FinetuneTask(Supervised):
    """A classifier on a pre-trained backbone, trained with it."""

    config: FinetuneTaskConfig

    def parameter_groups(self) -> list[dict[str, Any]]:
        return scaled_groups(self, self.config.backbone_lr_scale, self.config.layer_decay)
