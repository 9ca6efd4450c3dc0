"""Options for the weights and data to evaluate. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import backbones
from common.options import IMAGE_SIZE, option
from data.sets.core.base import DATASETS, image_sizes


@dataclass(kw_only=True)
class WeightsOptions:
    """What ``make_context`` needs. The commands ``evaluate`` and ``segment`` add options of their own."""

    weights: str | None = None
    """run directory, checkpoint, weights file (the authors', timm's, torchvision's, transformers') or released weights by name:
    dino:vit_s8, barlow_twins:resnet50, timm:NAME.TAG, torchvision:NAME, hf:ORG/NAME; default: untrained"""
    key: str | None = None
    """which network of a checkpoint, such as teacher or student; default: the one that the run evaluates, else the teacher"""
    backbone: str | None = option(None, names=backbones.names)
    """backbone, by its name, or timm:NAME; default: the run's"""
    data: str | None = option(None, names=DATASETS.names)
    """data set, by its name, or hf:NAME; default: the run's"""
    data_root: str | None = None
    """folder of the data set; default: the run's; demo needs none"""
    class_names: str | None = None
    """file of names for the classes, for readers: one a line in their order, or CLASS NAME; default: for ImageNet's synsets the
    words, else the classes' own"""
    image_size: int | None = option(None, names=image_sizes, **IMAGE_SIZE)
    """side of evaluation images, which are squares, in pixels; default: the run's, else the data set's own"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """of feature extraction; auto: bf16 where the device is fast at it, else fp32"""
    out: str | None = None
    """where results go; default: the run directory, else runs/evaluate-BACKBONE-WEIGHTS-DATA-SEED"""
    seed: int = 0
    """of untrained weights and of probes"""
