"""Fine-tunes backbone and classifier together on all or some training labels (DINO, arXiv 2104.14294, table 6; Barlow Twins,
arXiv 2103.03230, table 2; reference: barlowtwins/evaluate.py, ``--weights finetune``)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import UsageError
from common.files import digest_of
from common.options import one_of, option
from common.progress import note
from data.label_subset import labelled_parts, most_labelled
from data.store.store import ImageStore
from data.views.central import eval_images
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.nested import NestedTraining
from eval.core.probe import HELD_OUT, best_rate, different_rates, measure_logits, quality, targets_of
from methods.core.layer_rates import scaled_groups
from methods.supervised import Supervised, SupervisedConfig
from rundir.results import Measurement
from training.batches import MODEL, Batches, seed_of
from training.costs import empty_batch, norm_of_one_value
from training.failures import too_small_batch
from training.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class _Recipe:
    optimizer: str
    lrs: Sequence[float]
    backbone_lr_scale: float
    weight_decay: float
    warmup_epochs: float | None


#: From Barlow Twins' README (1% of labels): SGD, 0.5 for the classifier and 0.005 for the ResNet. For ViTs, DINO follows DeiT, with
#: AdamW and its weight decay; the rates are ours.
RESNET = _Recipe("sgd", (0.15, 0.5, 1.5), 0.01, 0.0, 0.0)
VIT = _Recipe("adamw", (3e-5, 1e-4, 3e-4), 1.0, 0.05, None)


@dataclass(kw_only=True)
class FinetuneConfig(EvaluationConfig):
    """Options of fine-tuning. The defaults of a ResNet are those of Barlow Twins with 1% of the labels."""

    fractions: list[float] = option([1.0], above=0, at_most=1)
    """parts of each class whose labels are used, each a fine-tuning (semi-supervised: 0.01 0.1)"""
    lists: list[str] = option([])
    """files that name the labelled images instead, such as SimCLR's 1percent.txt and 10percent.txt"""
    lrs: list[float] | None = option(None, above=0, form=different_rates)
    """learning rates tried, as they are whatever the batch; default: 0.00003 0.0001 0.0003 for ViTs, 0.15 0.5 1.5 for others"""
    backbone_lr_scale: float | None = option(None, at_least=0)
    """learning rate of the backbone as a part of the classifier's; default: 1 for ViTs, 0.01 for others"""
    layer_decay: float = option(1.0, above=0, at_most=1)
    """each layer of the backbone learns at so much of the next one's rate"""
    optimizer: str | None = option(None, form=one_of("optimizer", lambda: OPTIMIZERS))
    """default: adamw for ViTs, sgd for others"""
    weight_decay: float | None = option(None, at_least=0)
    """biases and norms have none; default: 0.05 for ViTs, 0 for others"""
    epochs: int = option(20, at_least=1)
    """passes over the labelled images"""
    batch_size: int = option(256, at_least=1)
    """images per optimiser step"""
    drop_path: float = option(0.1, at_least=0)
    """stochastic depth of a ViT; other backbones have none"""


@EVALUATIONS.register("finetune")
class Finetune(Evaluation):
    """Top-1 (and top-5) of a fine-tuned network on the test images, or mean average precision where images have several labels.

    It trains on random resized crops and flips, its learning rate falling to 0 along half a cosine, and the state after the last
    step is measured on central crops. A held-out tenth of the labelled training images chooses among learning rates; the network
    is then trained anew on all. Each training is the run directory ``finetune/DATA-DIGEST`` in the run.
    """

    title = "Fine-tuning"
    variants = {"labels": None, "labelled_images": None}
    citation = "Caron et al. 2021, arXiv 2104.14294"
    Config = FinetuneConfig
    config: FinetuneConfig

    def files(self) -> list[Path]:
        return [Path(file).expanduser() for file in self.config.lists]

    def check(self, outlook: Outlook) -> None:
        outlook.labelled("test")
        config, data = self.config, outlook.train.data
        images = most_labelled(outlook.train, outlook.labelled("train"), self.files(), config.fractions)
        chooses = config.lrs is None or len(set(config.lrs)) > 1
        _require_batch(config.batch_size, images - round(HELD_OUT * images) * chooses, data)
        views = FinetuneTask.views(FinetuneTaskConfig(), outlook.image_size)
        if config.batch_size == 1 and norm_of_one_value(
            lambda: FinetuneTask(FinetuneTaskConfig(), lambda **hints: outlook.backbone, len(outlook.train.classes)),
            lambda: empty_batch(views, 1, None),
            config.epochs,
        ):
            raise too_small_batch("--finetune_batch_size")

    def run(self, context: EvalContext) -> list[Measurement]:
        context.labelled("train")  # raises if no image has a label
        parts = labelled_parts(context.train, self.files(), self.config.fractions, context.seed)
        return [m for name, (rows, about) in parts.items() for m in self._measure(context, name, rows, about)]

    def _measure(self, context: EvalContext, name: str, rows: np.ndarray, about: dict[str, Any]) -> list[Measurement]:
        config, recipe = self.config, self._recipe(context)
        rates = sorted(recipe.lrs)
        chosen, held = (rates[0], None) if len(rates) == 1 else self._choose(context, rows, rates)
        task = self._trained(context, rows, chosen)
        protocol = {
            **about,
            "network": "backbone and linear classifier, trained together",
            "optimizer": f"{recipe.optimizer}, weight decay {recipe.weight_decay:g}, cosine to 0",
            "lrs": rates,
            "backbone_lr_scale": recipe.backbone_lr_scale,
            "layer_decay": config.layer_decay,
            "drop_path": self._drop_path(context),
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "train_view": "random resized crops (scale 0.08 to 1) and flips",
            "selection": f"learning rate by {HELD_OUT:.0%} of the labelled training images, then trained on all; last step"
            if len(rates) > 1
            else "none; last step",
            "chosen_lr": chosen,
            "chosen_quality": held,
        }
        logits = predict(context, task, context.test, context.labelled("test"))
        return measure_logits(context, "finetune", logits, protocol, name, context.data(rows))

    def _choose(self, context: EvalContext, rows: np.ndarray, rates: list[float]) -> tuple[float, float]:
        """Choose the learning rate by training without the held-out images; returns it and its quality on them."""
        targets, out = targets_of(context, "finetune", rows)
        qualities = []
        for rate in rates:
            task = self._trained(context, rows[~out.numpy()], rate)
            qualities.append(quality(predict(context, task, context.train, rows[out.numpy()]), targets[out]))
        best, held = best_rate("finetune", qualities, rates)
        return rates[best], held

    def _recipe(self, context: EvalContext) -> _Recipe:
        default = VIT if context.backbone.has_tokens else RESNET
        given = {name: getattr(self.config, name) for name in ("optimizer", "lrs", "backbone_lr_scale", "weight_decay")}
        return dataclasses.replace(default, **{name: value for name, value in given.items() if value is not None})

    def _drop_path(self, context: EvalContext) -> float:
        return self.config.drop_path if context.backbone.has_tokens else 0.0

    def _trained(self, context: EvalContext, rows: np.ndarray, rate: float) -> FinetuneTask:
        """Fine-tune on these training images at this learning rate, unless that has been done."""
        config, recipe = self.config, self._recipe(context)
        _require_batch(config.batch_size, len(rows), context.train.name)
        task_config = FinetuneTaskConfig(
            drop_path=self._drop_path(context),
            backbone_lr_scale=recipe.backbone_lr_scale,
            layer_decay=config.layer_decay,
        )
        training = NestedTraining.plan(
            context,
            context.train.name,
            task_config,
            {"train_data": context.train.fingerprint, "train_images": digest_of(rows.tolist())},
            rate,
            method="finetune",
            data=context.train.name,
            image_size=context.image_size,
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=recipe.optimizer,
            warmup_epochs=recipe.warmup_epochs,
            weight_decay=recipe.weight_decay,
            keep_checkpoints=1,
        )
        torch.manual_seed(seed_of(MODEL, context.seed))
        make_backbone = functools.partial(context.copy_of_backbone, context.image_size)
        task = FinetuneTask(task_config, make_backbone, context.train.num_classes)
        if not training.has_ended:
            note(f"finetune: {len(rows)} images of {context.train.name} at learning rate {rate:g}")
            views = FinetuneTask.views(task_config, context.image_size)
            batches = Batches(context.train.subset(rows), views, training.config, context.device)
            training.train(task, batches, images=len(rows))
        training.restore(task)
        return task.to(context.device).eval()


def _require_batch(batch_size: int, images: int, data: str) -> None:
    if images < batch_size:
        raise UsageError(
            f"--finetune_batch_size {batch_size}: {data} has {images} labelled images to train on; give at most {images}"
        )


def predict(context: EvalContext, task: FinetuneTask, store: ImageStore, rows: np.ndarray) -> Tensor:
    """Logits of images' central crops, float32 ``[n, C]`` on the CPU."""
    logits = context.frozen(task.backbone).over(
        f"logits of {store.name} {store.split}",
        np.array_split(rows, max(1, len(rows) * context.image_size**2 // 2**23)),
        store.batch,
        lambda images: eval_images(images.to(context.device), context.image_size),
        lambda pixels: task.classifier(task.backbone(pixels)).float().cpu(),
    )
    return torch.cat(list(logits))


@dataclass(kw_only=True)
class FinetuneTaskConfig(SupervisedConfig):
    """The task's options, documented in ``FinetuneConfig``."""

    backbone_lr_scale: float = 1.0
    layer_decay: float = 1.0


class FinetuneTask(Supervised):
    """A classifier on a pre-trained backbone, trained with it."""

    config: FinetuneTaskConfig

    def parameter_groups(self) -> list[dict[str, Any]]:
        return scaled_groups(self, self.config.backbone_lr_scale, self.config.layer_decay)
