"""A fast linear probe on cached features; ``eval.linear_authors`` has the authors' protocol, which augments training images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from common.options import option
from eval.core import probe
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.probe import Heads, HeadsCheckpoint
from rundir.results import Measurement


@dataclass(kw_only=True)
class LinearConfig(EvaluationConfig):
    lrs: list[float] = option(
        [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0], above=0, form=probe.different_rates
    )
    """learning rates tried, for 256 images: they are multiplied by the batch size / 256"""
    epochs: int = option(100, at_least=1)
    """passes over the features"""
    batch_size: int = option(256, at_least=1)
    """images per step"""


@EVALUATIONS.register("linear")
class Linear(Evaluation):
    """Top-1 (and top-5) of a linear classifier on frozen features, or mean average precision where images have several labels.

    Features of central crops, chosen as in ``probe.kind_for``, are standardised by the training split, so that one range of
    learning rates suits any backbone. A tenth of the training images chooses the learning rate; the classifier is then trained
    on all, and its last state is measured.
    """

    title = "Linear"
    Config = LinearConfig
    config: LinearConfig

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return [probe.kind_for(context.backbone)]

    def check(self, outlook: Outlook) -> None:
        outlook.labelled("test")
        probe.require_images("linear", outlook.labelled("train"))

    def run(self, context: EvalContext) -> list[Measurement]:
        config = self.config
        kind = probe.kind_for(context.backbone)
        rows = context.labelled("train")
        targets, out = probe.targets_of(context, "linear", rows)
        features = context.features("train", kind)[rows]
        mean, std = probe.scaler(features)
        features = features.sub_(mean).div_(std)

        about = [config.epochs, config.batch_size, list(features.shape)]
        rates = sorted(config.lrs)
        heads = self._trained(context, "choice", rates, features, targets, about, (~out).nonzero()[:, 0])
        chosen, held = probe.best_head("linear", heads, features[out], targets[out], rates)
        heads = self._trained(context, "final", [rates[chosen]], features, targets, about)
        del features

        test = context.features("test", kind)[context.labelled("test")].sub_(mean).div_(std)
        protocol = {
            "probe": "linear classifier on cached features of central crops, standardised",
            "features": kind,
            "optimizer": "SGD, momentum 0.9, no weight decay, cosine to 0",
            "lrs": rates,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "selection": f"learning rate by {probe.HELD_OUT:.0%} of the training images, then trained on all; last epoch",
            "chosen_lr": rates[chosen],
            "chosen_quality": held,
        }
        return probe.measure_logits(context, "linear", probe.head_scores(heads, test, 0), protocol)

    def _trained(
        self,
        context: EvalContext,
        part: str,
        rates: list[float],
        features: Tensor,
        targets: Tensor,
        about: list,
        rows: Tensor | None = None,
    ) -> Heads:
        """Train heads for all epochs, on some ``rows`` or all; ``about`` is what they depend on beside the rates."""
        config = self.config
        heads = probe.heads_for(context, features.shape[1], rates, config.batch_size)
        checkpoint = HeadsCheckpoint(context, f"linear-{part}", [rates, *about])
        title = f"linear probe, {part}"
        settings = config.epochs, config.batch_size, context.seed, title, checkpoint
        probe.train_heads(heads, features, targets, *settings, rows)
        return heads
