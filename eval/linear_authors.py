"""The authors' linear evaluation: a classifier on a frozen backbone, trained on augmented images (references: dino/eval_linear.py
for ViTs, barlowtwins/evaluate.py for ResNets)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import tee

import numpy as np
import torch
from torch import Tensor

from common.options import option
from common.progress import working
from data.views.maker import ViewMaker
from data.views.plan import ViewParams
from data.views.spec import View
from eval.core import probe
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.probe import Heads, HeadsCheckpoint
from eval.features.extract import compute_features
from rundir.results import Measurement
from training.batches import HostBatch, crops_ahead
from training.machine.devices import autocast

#: Weight decay, and learning rates for 256 images around the published one (0.001 for ViTs, 0.3 for ResNets).
VIT_RATES, VIT_DECAY = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2], 0.0
RESNET_RATES, RESNET_DECAY = [0.03, 0.1, 0.3, 1.0], 1e-6


@dataclass(kw_only=True)
class LinearAuthorsConfig(EvaluationConfig):
    """Options of the authors' linear evaluation (defaults: theirs)."""

    lrs: list[float] | None = option(None, above=0, form=probe.different_rates)
    """learning rates tried, for 256 images: they are multiplied by the batch size / 256; default: around the published one"""
    epochs: int = option(100, at_least=1)
    """passes over the augmented training images"""
    batch_size: int = option(256, at_least=1)
    """images per step (DINO's authors: 1024 on eight devices)"""
    weight_decay: float | None = option(None, at_least=0)
    """default: 0 for ViTs (DINO's authors have none for ResNets, either), 1e-6 for others (Barlow Twins' authors)"""
    blocks: int | None = option(None, at_least=1)
    """features of a ViT: the CLS tokens of so many last blocks; default: 4 for ViTs up to the width of ViT-S, for wider ones the
    CLS and the mean patch token of the last"""


@EVALUATIONS.register("linear_authors")
class LinearAuthors(Evaluation):
    """Top-1 (and top-5) of a linear classifier trained by SGD on random resized crops and flips, or mean average precision where
    images have several labels. The learning rate falls once an epoch along half a cosine; crops are resized bicubically.

    All learning rates share the passes through the backbone, each with two classifiers: one never sees a held-out tenth of the
    training images, which chooses the rate; the other sees all, and its last state is measured. (The references report the epoch
    that is best on the test images.)
    """

    title = "Linear (authors’)"
    citation = "Caron et al. 2021, arXiv 2104.14294"
    Config = LinearAuthorsConfig
    config: LinearAuthorsConfig

    def feature_kinds(self, context: EvalContext) -> list[str]:
        return [f"last{self.config.blocks}" if self.config.blocks else probe.kind_for(context.backbone)]

    def check(self, outlook: Outlook) -> None:
        outlook.labelled("test")
        probe.require_images("linear_authors", outlook.labelled("train"))

    def run(self, context: EvalContext) -> list[Measurement]:
        config = self.config
        vit = context.backbone.has_tokens
        rates = sorted(config.lrs or (VIT_RATES if vit else RESNET_RATES))
        decay = config.weight_decay
        if decay is None:
            decay = VIT_DECAY if vit else RESNET_DECAY
        (kind,) = self.feature_kinds(context)
        rows = context.labelled("train")
        targets, out = probe.targets_of(context, "linear_authors", rows)
        central = context.features("train", kind)
        heads = probe.heads_for(context, central.shape[1], rates * 2, config.batch_size, decay)
        self._train(context, heads, rows, targets, out, kind)
        chosen, held = probe.best_head("linear_authors", heads, central[rows[out.numpy()]], targets[out], rates)
        test = context.features("test", kind)[context.labelled("test")]
        protocol = {
            "probe": "linear classifier on random resized crops (scale 0.08 to 1) and flips",
            "features": kind,
            "optimizer": f"SGD, momentum 0.9, weight decay {decay:g}, cosine per epoch to 0",
            "lrs": rates,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "selection": f"learning rate by {probe.HELD_OUT:.0%} of the training images; trained on all; last epoch",
            "chosen_lr": rates[chosen],
            "chosen_quality": held,
        }
        return probe.measure_logits(
            context, "linear_authors", probe.head_scores(heads, test, len(rates) + chosen), protocol
        )

    def _train(
        self, context: EvalContext, heads: Heads, rows: np.ndarray, targets: Tensor, out: Tensor, kind: str
    ) -> None:
        """Train all epochs, from where an interruption left them."""
        config, device = self.config, context.device
        maker = ViewMaker([View(name="crop", size=context.image_size, scale=(0.08, 1.0))])
        half = len(heads.rates_M) // 2
        sees_held_out = (torch.arange(2 * half) >= half).to(device)
        options = [config.lrs, config.epochs, config.batch_size, len(rows), kind]
        if config.weight_decay is not None:
            options.append(config.weight_decay)
        checkpoint = HeadsCheckpoint(context, "linear_authors", options)
        start = checkpoint.load(heads)
        steps = math.ceil(len(rows) / config.batch_size)

        def draws() -> Iterator[tuple[Tensor, ViewParams]]:
            """Rows of each step's images, and their crops."""
            for epoch in range(start, config.epochs):
                # Order and crops depend on the seed and the epoch alone, so that a training continues alike.
                generator = torch.Generator().manual_seed((context.seed << 32) + epoch)
                for part in torch.randperm(len(rows), generator=generator).split(config.batch_size):
                    yield part, maker.sample(len(part), generator)

        def gather(drawn: tuple[Tensor, ViewParams]) -> HostBatch:
            part, params = drawn
            images = context.train.batch(rows[part.numpy()])
            return HostBatch(images, torch.arange(len(part))[None], params, targets[part])

        wanted, taken = tee(draws())
        batches = zip(taken, crops_ahead(gather, wanted, maker, device), strict=True)
        with working("linear_authors: steps", config.epochs * steps, start * steps) as work:
            for step, ((part, _), batch) in enumerate(batches, start * steps):
                epoch = step // steps
                factor = 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
                with torch.inference_mode(), autocast(device, context.precision):
                    features = compute_features(context.backbone, batch.views[0], [kind])[kind]
                used_BM = ~out[part].to(device, non_blocking=True)[:, None] | sees_held_out
                heads.step(features, batch.labels, factor, used_BM)
                work.advance(step + 1)
                if (step + 1) % steps == 0:
                    checkpoint.save(heads, epoch + 1, last=epoch + 1 == config.epochs)
