"""SupCon: supervised contrast (Khosla et al. 2020, arXiv 2004.11362; reference: HobbitLong/SupContrast).

SimCLR whose positives are all views of all images with the same label: the paper's equation 2 (sum outside the logarithm).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from backbones.base import Backbone
from common.distributed import all_gather_rows
from heads.mlp import MLP
from methods.core.base import METHODS, MakeBackbone
from methods.core.labels import alike
from methods.simclr import SimCLR, SimCLRConfig


@dataclass(kw_only=True)
class SupConConfig(SimCLRConfig):
    """SupCon's options: SimCLR's. Temperature 0.1 and projector 2048-128 are the paper's as well (sections 3 and 4)."""


@METHODS.register("supcon")
class SupCon(SimCLR):
    """An image without a label has only its own two views as positives, as in SimCLR. Images with several labels are positives if
    they share a label. All other views are negatives; in a batch without negatives (all of one label) the loss is 0."""

    title = "SupCon"
    citation = "Khosla et al. 2020, arXiv 2004.11362"
    differs = (
        "learning rate, weight decay and augmentation are SimCLR's (the paper names no rates, and has AutoAugment for ImageNet)",
        "LARS and a batch of 6144, as the paper for ImageNet (the reference's code is for CIFAR, by SGD)",
        "the loss is the paper's, without the code's factor temperature / 0.07, which LARS does not notice",
    )
    uses_labels = True
    batch_statistics = {"the positives and the negatives": {}}
    version = 2  # a projector without norms
    Config = SupConConfig
    #: The paper's section 4: LARS for ImageNet, batch 6144, 700 epochs.
    recipe = {**SimCLR.recipe, "batch_size": 6144, "epochs": 700}
    small = {"projector": "256-128"}

    def make_networks(self, make_backbone: MakeBackbone, widths: list[int]) -> tuple[Backbone, MLP]:
        """A backbone, and a projector without norms (reference: networks/resnet_big.py, ``SupConResNet``)."""
        backbone = make_backbone()
        return backbone, MLP(backbone.width, widths, norm=None)

    def positives(self, image_M: Tensor, labels: Tensor) -> Tensor:
        labels_M = all_gather_rows(labels)[image_M]
        return alike(labels_M, labels_M) | super().positives(image_M, labels)
