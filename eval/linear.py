"""A fast linear probe on cached features: many learning rates in one training, the best chosen on training images.

The authors' own protocol, which augments training images and takes as many passes through the backbone as it has epochs, is
``eval.linear_authors``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.core.probe import (
    HELD_OUT,
    Heads,
    HeadsCheckpoint,
    best_head,
    check_options,
    checkpoint_of,
    head_scores,
    measure_scores,
    probe_features,
    scaler,
    split_held_out,
    targets_of,
    train_heads,
)
from rundir.results import Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from eval.core.context import EvalContext


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

    title = "Linear"
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
