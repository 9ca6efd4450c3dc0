"""A fast linear probe on cached features: many learning rates in one training, the best chosen on training images.

The authors' own protocol, which augments training images and takes as many passes through the backbone as it has epochs, is
``eval.linear_authors``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console

from backbones.base import Backbone
from common.errors import UsageError, UserError
from eval.base import EVALUATIONS, Evaluation, EvaluationConfig, Measurement
from eval.features import Kind
from eval.knn import best_classes
from eval.probe import Heads, HeadsCheckpoint, head_scores, held_out, quality, scaler, train_heads
from eval.results import digest_of
from eval.scoring import classification, multi_label

if TYPE_CHECKING:
    from torch import Tensor

    from eval.context import EvalContext

#: Part of the labelled training images that the learning rate is chosen on.
HELD_OUT = 0.1


@dataclass(kw_only=True)
class LinearConfig(EvaluationConfig):
    """Options of the linear probe on cached features."""

    lrs: list[float] = field(default_factory=lambda: [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0])
    """learning rates tried, for 256 images: they are multiplied by the batch size / 256"""
    epochs: int = 100
    """passes over the features"""
    batch_size: int = 256
    """images per step"""


@EVALUATIONS.register("linear")
class Linear(Evaluation):
    """Top-1 (and top-5) of a linear classifier on frozen features, or mean average precision where images have several labels.

    Features are those that DINO's probe takes, of the central crop, standardised by the training split (which is no more than
    another parametrisation of a linear classifier, and makes one range of learning rates right for any backbone). A tenth of the
    training images chooses the learning rate; the classifier is then trained on all of them, and its last state is measured.
    """

    Config = LinearConfig
    config: LinearConfig

    def __init__(self, config: LinearConfig):
        super().__init__(config)
        check_options("linear", config.lrs, config.epochs, config.batch_size)

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return [probe_features(context.backbone)]

    def run(self, context: EvalContext) -> list[Measurement]:
        config = self.config
        kind = probe_features(context.backbone)
        rows = context.labelled("train")
        features, targets = context.features("train", kind)[rows], targets_of(context, rows)
        mean, std = scaler(features)
        features = features.sub_(mean).div_(std)

        rates = sorted(config.lrs)
        chosen, held = self._choose(context, features, targets, rates)
        rate = rates[chosen]
        final = self._heads(context, features, [rate])
        checkpoint = self._checkpoint(context, "final", [rate], features)
        train_heads(
            final, features, targets, config.epochs, config.batch_size, context.seed, "linear probe", checkpoint
        )
        del features

        test = context.features("test", kind)[context.labelled("test")].sub_(mean).div_(std)
        protocol = {
            "probe": "linear classifier on cached features of central crops, standardised",
            "features": kind,
            "optimizer": "SGD, momentum 0.9, no weight decay, cosine to 0",
            "lrs": rates,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "selection": f"learning rate by {HELD_OUT:.0%} of the training images, then trained on all; last epoch",
            "chosen_lr": rate,
            "chosen_quality": held,
        }
        return measure_scores(context, "linear", head_scores(final, test, 0), protocol)

    def _choose(self, context: EvalContext, features: Tensor, targets: Tensor, rates: list[float]) -> tuple[int, float]:
        """Train with all learning rates on nine tenths; the index of the best on the rest, and its quality there."""
        config = self.config
        out = split_held_out("linear", targets, context.seed)
        heads = self._heads(context, features, rates)
        title = "choosing a learning rate"
        kept = self._checkpoint(context, "choice", rates, features)
        train_heads(heads, features[~out], targets[~out], config.epochs, config.batch_size, context.seed, title, kept)
        return best_head("linear", heads, features[out], targets[out], rates)

    def _checkpoint(self, context: EvalContext, part: str, rates: list[float], features: Tensor) -> HeadsCheckpoint:
        config = self.config
        return checkpoint_of(context, f"linear-{part}", [rates, config.epochs, config.batch_size, list(features.shape)])

    def _heads(self, context: EvalContext, features: Tensor, rates: list[float]) -> Heads:
        scale = self.config.batch_size / 256
        return Heads(
            features.shape[1],
            context.train.num_classes,
            [rate * scale for rate in rates],
            context.device,
            multi_label=context.train.label_sets is not None,
            seed=context.seed,
        )


def probe_features(backbone: Backbone) -> Kind:
    """What the references' linear probes see (recipes of both papers): CLS of the last four blocks for ViTs up to the width of
    ViT-S, CLS and mean patch token for wider ones, pooled features of anything else."""
    if not backbone.has_tokens:
        return "pooled"
    return f"last{min(4, backbone.depth)}" if backbone.width < 768 else "cls+mean"


def targets_of(context: EvalContext, rows: np.ndarray) -> Tensor:
    """Of training images: int64 ``[n]``, or multi-hot float32 ``[n, C]``."""
    if context.train.label_sets is None:
        return torch.from_numpy(context.train.labels[rows])
    return torch.from_numpy(context.train.label_sets[rows]).float()


def split_held_out(evaluation: str, targets: Tensor, seed: int) -> Tensor:
    """Which training images choose the learning rate, bool ``[n]``."""
    if len(targets) < 10:
        raise UserError(
            f"{evaluation}: {len(targets)} labelled training images are too few to choose a learning rate on; give at least 10"
        )
    return torch.from_numpy(held_out(targets, HELD_OUT, seed))


def best_head(
    evaluation: str, heads: Heads, features: Tensor, targets: Tensor, rates: list[float]
) -> tuple[int, float]:
    """Which of the first heads, one for each of the rising ``rates``, is best on these features (the first of equals), and its
    quality. Says so where rates beyond those tried may be better still."""
    qualities = [quality(head_scores(heads, features, head), targets) for head in range(len(rates))]
    best = int(np.argmax(qualities))
    if qualities[best] < 0:
        raise UserError(f"{evaluation}: the probe diverged at every learning rate; give smaller --{evaluation}_lrs")
    others = qualities[:best] + qualities[best + 1 :]
    if best in (0, len(rates) - 1) and others and qualities[best] > max(others):
        side, further = ("smallest", "smaller") if best == 0 else ("largest", "larger")
        Console(stderr=True).print(
            f"{evaluation}: the best learning rate, {rates[best]:g}, is the {side} tried; {further} ones in "
            f"--{evaluation}_lrs may be better",
            style="yellow",
            soft_wrap=True,
        )
    return best, qualities[best]


def check_options(evaluation: str, rates: list[float], epochs: int, batch_size: int) -> None:
    if not rates or len(set(rates)) != len(rates) or not all(0 < rate < math.inf for rate in rates):
        raise UsageError(f"--{evaluation}_lrs {' '.join(map(str, rates))}: give different learning rates above 0")
    for option, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise UsageError(f"--{evaluation}_{option} {value}: give at least 1")


def checkpoint_of(context: EvalContext, name: str, options: list) -> HeadsCheckpoint:
    """Where heads are kept while they are trained: under the run's ``features/``. ``options``: what the training depends on beside
    the context, JSON-able."""
    about = [context.weights_hash, context.train.fingerprint, context.image_size, context.precision, context.seed]
    return HeadsCheckpoint(
        context.run_dir / "features" / f"{name}-{context.train.name}.pt", digest_of([about, *options])
    )


def measure_scores(
    context: EvalContext, evaluation: str, scores: Tensor, protocol: dict, suffix: str = ""
) -> list[Measurement]:
    """Measurements from logits ``[n, C]`` of the labelled test images; ``suffix`` tells the predictions file from others."""
    if not scores.isfinite().all():
        raise UserError(f"{evaluation}: the probe diverged; give smaller --{evaluation}_lrs")
    if context.train.label_sets is not None:
        return multi_label(context, evaluation, scores.numpy(), protocol, suffix)
    return classification(context, evaluation, best_classes(scores).numpy(), protocol, suffix)
