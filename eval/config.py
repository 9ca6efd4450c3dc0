"""Options of the commands ``run.py evaluate`` and ``run.py segment``. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from simple_parsing import field


@dataclass(kw_only=True)
class WeightsCommand:
    """Which weights, on which data, and how."""

    weights: str | None = None
    """run directory, checkpoint, weights file (the authors', timm's, torchvision's) or released weights by name: dino:vit_s8,
    barlow_twins:resnet50, timm:NAME.TAG, torchvision:NAME; default: untrained"""
    key: str | None = None
    """which network of a checkpoint, such as teacher or student; default: the one that the run evaluates, else the teacher"""
    backbone: str | None = None
    """vit_nano, vit_t16, vit_s16, vit_s8, vit_b16, vit_b8, resnet18, resnet18_cifar, resnet50, pixels or timm:NAME;
    default: the run's"""
    data: str | None = None
    """demo, imagefolder, cifar10, imagenet, voc2007 or voc2012, or what one evaluation reads: davis, roxford5k, rparis6k or
    copydays; default: the run's"""
    data_root: str | None = None
    """folder of the data set; default: the run's; demo needs none"""
    image_size: int | None = None
    """side of evaluation images, in pixels; default: the run's, else the data set's own (224, demo and cifar10: 32)"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """of feature extraction; auto: bf16 where the device is fast at it, else fp32"""
    out: str | None = None
    """where results go; default: the run directory, else runs/evaluate-BACKBONE-WEIGHTS-DATA-SEED"""
    seed: int = 0
    """of untrained weights and of probes"""
    again: bool = False
    """measure anew what has been measured with the same weights, data and options"""
    plugin: list[list[str]] = field(default_factory=list, action="append", type=str)
    """file or module that adds a backbone or an evaluation; may be given several times"""


@dataclass(kw_only=True)
class EvaluateCommand(WeightsCommand):
    """Evaluate any weights. Each evaluation has further options, --EVALUATION_OPTION."""

    evals: list[str] = dataclasses.field(default_factory=lambda: ["knn", "linear"])
    """evaluations, which docs/evaluations.md describes: knn, linear, linear_authors, knn_low_shot, svm, finetune, davis, …"""


@dataclass(kw_only=True)
class SegmentCommand(WeightsCommand):
    """Train segmentation heads on any weights and measure them, all under one protocol."""

    weights: list[str] | None = None
    """run directories, checkpoints or weights files, one after the other; default: untrained"""
