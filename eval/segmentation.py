"""Segmentation: heads trained on the training masks by the common trainer, on a frozen backbone or together with it; mIoU at the
original resolution."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from backbones import build_backbone
from backbones.base import Backbone
from common.distributed import is_main, main_first
from common.errors import UsageError, UserError, unknown_name
from common.options import IMAGE_SIZE, option
from common.progress import track
from common.statistics.confusion import bootstrap_scores, class_scores, confusion_matrix, scores
from data.datasets import open_dataset
from data.store.store import ImageStore
from data.views.dense import SegmentationAugmentation
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.core.nested import has_ended, nested_training
from eval.dense.examples import Examples
from eval.dense.maps import cached_maps, map_shapes
from eval.dense.predict import View, predict
from eval.dense.task import SegmentationBatches, SegmentationTask, TaskConfig, image_samples, map_samples
from eval.features.extract import FrozenBackbone
from heads.segmentation.core.base import SEGMENTATION_HEADS
from heads.segmentation.core.losses import make_loss
from rundir.paths import FEATURES, examples_file, last_checkpoint
from rundir.results import Measurement, save_predictions
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.trainer import train_task

if TYPE_CHECKING:
    from eval.core.context import EvalContext

#: Published: DeepLabV3 (arXiv 1706.05587, section 4.1) fine-tunes with SGD, 0.007. AdamW's 0.001 is ours, for heads on frozen
#: features of any scale.
RECIPES = {True: ("sgd", 7e-3), False: ("adamw", 1e-3)}


@dataclass(kw_only=True)
class SegmentationConfig(EvaluationConfig):
    """Options of segmentation."""

    heads: list[str] = field(default_factory=lambda: ["linear"])
    """linear, linear_pixels, setr_naive, setr_pup, setr_mla, deeplabv3; each is trained and measured by itself"""
    finetune: bool = False
    """train the backbone, too; without it, it stays frozen"""
    crop_size: int | None = option(None, **IMAGE_SIZE)
    """side in pixels of training crops and of the square that whole images are fitted into; default: the image size"""
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    """range of the random scale in training (published: 0.5 2); 1 1: whole images, whose frozen features are computed once"""
    distort: bool = False
    """photometric distortion in training"""
    loss: list[str] = field(default_factory=lambda: ["cross_entropy"])
    """cross_entropy, dice, focal, jaccard; sums by weight as in: cross_entropy dice=0.5"""
    auxiliary: float = 0.0
    """weight of auxiliary heads' losses (SETR: 0.4); 0: none"""
    epochs: int = 30
    """passes over the training images"""
    batch_size: int = 16
    """images per optimiser step"""
    optimizer: str | None = None
    """adamw, sgd or lars; default: adamw on a frozen backbone, sgd where it is trained"""
    lr: float | None = None
    """learning rate as it is, whatever the batch; default: 0.001 with a frozen backbone, 0.007 where it is trained"""
    weight_decay: float = 1e-4
    """biases and norms have none"""
    schedule: Literal["poly", "cosine"] = "poly"
    """of the learning rate; poly: (1 - t) ** 0.9"""
    backbone_lr_scale: float = 0.1
    """learning rate of the backbone as a part of the heads'"""
    layer_decay: float = 1.0
    """each layer of the backbone learns at so much of the next one's rate"""
    output_stride: int | None = None
    """input pixels per cell of a ResNet's last map: 8 or 16 dilate its last stages; default: 8 for resnet50, else its own"""
    train_list: Literal["train", "train_aug"] = "train"
    """images to train on; train_aug: VOC's 10,582 with SBD's masks"""
    test_mode: Literal["whole", "slide"] = "whole"
    """look at test images as a whole, or through sliding windows"""
    test_scales: list[float] = field(default_factory=lambda: [1.0])
    """scales of test images, averaged"""
    test_flip: bool = False
    """average over test images and their mirror images"""

    def __post_init__(self) -> None:
        """Raises UsageError for what is wrong by itself, before anything has been decoded or trained."""
        known = SEGMENTATION_HEADS.names()
        for head in self.heads:
            if head not in known:
                raise unknown_name("head", head, known)
        if not self.heads:
            raise UsageError("segmentation needs at least one of the heads: " + " ".join(known))
        make_loss(self.loss)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(f"the random scale {self.scale} is no range; give its ends, such as: 0.5 2")
        if not self.test_scales or min(self.test_scales) <= 0:
            raise UsageError(f"test scales {self.test_scales}: give factors above 0, such as: 0.75 1 1.25")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"segmentation {name} {getattr(self, name)}: give at least 1")
        if not 0 < self.layer_decay <= 1:
            raise UsageError(f"layer_decay {self.layer_decay}: give more than 0 and at most 1")
        if self.auxiliary < 0 or self.backbone_lr_scale < 0 or self.weight_decay < 0:
            raise UsageError("segmentation: auxiliary, backbone_lr_scale and weight_decay are 0 or more")
        if self.lr is not None and self.lr <= 0:
            raise UsageError(f"segmentation lr {self.lr}: give more than 0")
        if self.optimizer not in (None, "adamw", "sgd", "lars"):
            raise unknown_name("optimizer", self.optimizer, ["adamw", "sgd", "lars"])


@EVALUATIONS.register("segmentation")
class Segmentation(Evaluation):
    """mIoU first, pixel accuracy, mean accuracy, precision, recall and F1 (``common.statistics.confusion``) of each head, as the evaluation
    ``segmentation_HEAD``. Background is a class, void (255) counts nowhere. The weights are those after the last step: nothing
    is chosen by looking at test images.

    Each head's training is a run directory of its own, ``segmentation/HEAD-DATA-DIGEST`` in the run, so that an interrupted one
    continues, and one that has ended is not trained again.
    """

    title = "Segmentation"
    parts = "heads.segmentation"
    metrics = {"miou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_accuracy": "mean acc.", "f1": "F1"}
    headline = ("miou",)
    Config = SegmentationConfig
    config: SegmentationConfig

    def run(self, context: EvalContext) -> list[Measurement]:
        runs = self.train(context)
        backbone = self._backbone(context)
        view = self._view(context, backbone)
        tasks = {head: self._load(context, run) for head, run in runs.items()}
        # On a frozen backbone all heads share its one pass.
        groups = [list(tasks)] if not self.config.finetune else [[head] for head in tasks]
        matrices = {head: [] for head in tasks}
        examples = Examples(context.test)
        for heads in groups:
            network = self._frozen(context, tasks[heads[0]].backbone)
            readers = {head: (tasks[head].head.to(context.device).eval(), tasks[head].head_blocks) for head in heads}
            found = predict(network, readers, context.test, view)
            for image, predicted in track(found, f"segmenting {context.test.name}", len(context.test)):
                for head, classes in predicted.items():
                    mask = context.test.mask(image)
                    matrix = confusion_matrix(classes.numpy(), mask, len(context.test.mask_classes))
                    matrices[head].append(matrix)
                    examples.offer(head, image, classes.numpy(), matrix)
        examples.save(examples_file(context.run_dir, context.test.name))
        stacked = {head: np.stack(of_images).astype(np.int32) for head, of_images in matrices.items()}
        Console(stderr=True).print(summary(stacked, context.test.mask_classes))
        return [m for head in tasks for m in self._measure(context, head, stacked[head], view, backbone)]

    def train(self, context: EvalContext) -> dict[str, Path]:
        """Train each head, unless that has been done. Of several processes all call this together.

        Returns:
            by head, the run directory of its training.
        """
        config = self.config
        self._check(context)
        store = self._images(context)
        plans = {head: self._plan(context, head, store) for head in dict.fromkeys(config.heads)}
        due = [head for head, (_, train, _) in plans.items() if not has_ended(Path(train.out))]
        maps, files = {}, []
        if due and self._precomputes():
            blocks = sorted({block for head in due for block in self._task(context, plans[head][0], True).blocks})
            network = self._frozen(context, self._backbone(context))
            about = {"weights": context.weights_hash, "output_stride": network.backbone.stride}
            with main_first():
                folder = context.run_dir / FEATURES
                maps, files = cached_maps(network, store, blocks, self._size(context), folder, about)
        augmentation = SegmentationAugmentation(
            crop_size=self._size(context), scale=tuple(config.scale), distort_p=0.5 if config.distort else 0.0
        )
        for head in due:
            task_config, train_config, options = plans[head]
            torch.manual_seed(context.seed)
            task = self._task(context, task_config, bool(maps))
            sample = map_samples(store, maps, task.blocks, augmentation) if maps else image_samples(store, augmentation)
            workers = 1 if maps else min(8, os.cpu_count() or 1)
            batches = SegmentationBatches(store, sample, train_config, context.device, workers)
            if is_main():
                Console(stderr=True).print(
                    f"segmentation: training {head} on {len(store)} images of {store.name}", style="dim"
                )
            about = {"images": len(store), "fingerprint": store.fingerprint}
            train_task(train_config, options, task, batches, **about)
        for file in files if is_main() else ():
            file.unlink(missing_ok=True)  # the heads are trained; nothing reads the maps again
        return {head: Path(train.out) for head, (_, train, _) in plans.items()}

    def _check(self, context: EvalContext) -> None:
        for store in (context.train, context.test):
            if not store.has_masks:
                raise UserError(f"{store.name} has no masks to learn segmentation from; voc2012 and demo have")
        cpu = FrozenBackbone(backbone=self._backbone(context), device=torch.device("cpu"), precision="fp32")
        map_shapes(cpu, [-1], self._size(context))

    def _precomputes(self) -> bool:
        config = self.config
        return not config.finetune and not config.distort and tuple(config.scale) == (1.0, 1.0)

    def _size(self, context: EvalContext) -> int:
        return self.config.crop_size or context.image_size

    def _images(self, context: EvalContext) -> ImageStore:
        if self.config.train_list == "train":
            return context.train
        return open_dataset(context.train.name, self.config.train_list, context.train.root, context.train.short_side)

    def _backbone(self, context: EvalContext) -> Backbone:
        """A copy of the context's backbone with its weights, dilated as the options say."""
        stride = self.config.output_stride or (8 if context.backbone_name == "resnet50" else None)
        hints = {} if stride is None else {"output_stride": stride}
        backbone = build_backbone(context.backbone_name, self._size(context), **hints)
        backbone.load_state_dict(context.backbone.state_dict())
        return backbone

    def _frozen(self, context: EvalContext, backbone: Backbone) -> FrozenBackbone:
        return FrozenBackbone(backbone=backbone, device=context.device, precision=context.precision)

    def _view(self, context: EvalContext, backbone: Backbone) -> View:
        config = self.config
        multiple = backbone.stride if backbone.has_tokens else 1
        return View(
            size=self._size(context),
            mode=config.test_mode,
            scales=tuple(config.test_scales),
            flip=config.test_flip,
            multiple=multiple,
        )

    def _plan(
        self, context: EvalContext, head: str, store: ImageStore
    ) -> tuple[TaskConfig, TrainConfig, dict[str, Any]]:
        """The options of one head's training: the task's, the trainer's, and everything that it depends on."""
        config = self.config
        optimizer, lr = RECIPES[config.finetune]
        task = TaskConfig(
            head=head,
            finetune=config.finetune,
            loss=list(config.loss),
            auxiliary=config.auxiliary,
            backbone_lr_scale=config.backbone_lr_scale,
            layer_decay=config.layer_decay,
        )
        depends = {
            "scale": list(config.scale),
            "distort": config.distort,
            "output_stride": config.output_stride,
            "train_list": config.train_list,
            "train_data": context.train.fingerprint,
        }
        return task, *nested_training(
            context,
            "segmentation",
            f"{head}-{store.name}",
            task,
            depends,
            config.lr or lr,
            method="segmentation",
            data=store.name,
            image_size=self._size(context),
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=config.optimizer or optimizer,
            warmup_epochs=0.0,
            schedule=config.schedule,
            weight_decay=config.weight_decay,
        )

    def _task(self, context: EvalContext, task: TaskConfig, precomputed: bool) -> SegmentationTask:
        return SegmentationTask(task, lambda: self._backbone(context), len(context.test.mask_classes), precomputed)

    def _load(self, context: EvalContext, run: Path) -> SegmentationTask:
        """The task that a run has trained."""
        state = load_checkpoint(last_checkpoint(run))
        names = {f.name for f in dataclasses.fields(TaskConfig)}
        task = self._task(context, TaskConfig(**{k: v for k, v in state["config"].items() if k in names}), False)
        task.load_state_dict(state["method"])
        return task

    def _measure(
        self, context: EvalContext, head: str, matrices: np.ndarray, view: View, backbone: Backbone
    ) -> list[Measurement]:
        """Measurements of a head from its per-image confusion matrices ``[n, C, C]``."""
        evaluation = f"segmentation_{head}"
        test = context.test
        file = save_predictions(context.run_dir, f"{evaluation}-{test.name}", test.names, confusion=matrices)
        resampled = bootstrap_scores(matrices)
        masks = matrices.sum((0, 2))
        data = context.data()
        data["test"] |= {"absent_from_masks": [test.mask_classes[c] for c in np.flatnonzero(masks == 0)]}
        config, (optimizer, lr) = self.config, RECIPES[self.config.finetune]
        protocol = {
            "head": head,
            "backbone": "fine-tuned" if config.finetune else "frozen",
            "output_stride": backbone.stride,
            "classes": len(test.mask_classes),
            "void": "counts nowhere",
            "test_view": view.words,
            "test_scales": list(view.scales),
            "test_flip": view.flip,
            "resolution": "original",
            "train_list": config.train_list,
            "train_view": f"crop {view.size}, scale {config.scale[0]:g} to {config.scale[1]:g}, flip"
            + (", distortion" if config.distort else ""),
            "loss": " + ".join(config.loss),
            "auxiliary": config.auxiliary,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
            "optimizer": config.optimizer or optimizer,
            "lr": config.lr or lr,
            "schedule": config.schedule,
            "weight_decay": config.weight_decay,
            "precision": context.precision,
            "selection": "weights after the last step",
        }
        if config.finetune:
            protocol |= {"backbone_lr_scale": config.backbone_lr_scale, "layer_decay": config.layer_decay}
        measurements = []
        for metric, value in scores(matrices.sum(0)).items():
            low, high = np.quantile(resampled[metric], [0.025, 0.975])
            measurements.append(
                Measurement(
                    evaluation=evaluation,
                    metric=metric,
                    value=float(value),
                    low=float(low),
                    high=float(high),
                    n=len(matrices),
                    protocol=protocol,
                    data=data,
                    predictions=file,
                )
            )
        return measurements


def summary(matrices: dict[str, np.ndarray], classes: Sequence[str]) -> Table:
    """Per-class IoU of each head, in percent. A class that is in no mask and was never predicted is absent: a dash."""
    table = Table(title="IoU in percent", title_justify="left")
    table.add_column("")
    for head in matrices:
        table.add_column(head, justify="right")
    totals = {head: of_images.sum(0) for head, of_images in matrices.items()}
    ious = {head: class_scores(total)["iou"] for head, total in totals.items()}
    for place, name in enumerate(classes):
        values = [iou[place] for iou in ious.values()]
        table.add_row(name, *("–" if np.isnan(value) else f"{100 * value:.1f}" for value in values))
    table.add_section()
    table.add_row("mean", *(f"{scores(total)['miou']:.1f}" for total in totals.values()))
    return table
