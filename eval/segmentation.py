"""Segmentation: trains heads on a frozen backbone or together with it, and measures mIoU at the original resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.table import Column, Table

from backbones.base import Backbone
from common.distributed import is_main, main_first
from common.environment import processors
from common.errors import UserError
from common.files import as_file_name
from common.options import IMAGE_SIZE, one_of, option
from common.progress import Console, note, track
from common.statistics.confusion import bootstrap_scores, class_scores, confusion_matrix, scores
from data.datasets import open_dataset
from data.store.store import ImageStore
from data.views.dense import SegmentationAugmentation
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig, Outlook
from eval.core.context import EvalContext
from eval.core.nested import NestedTraining
from eval.core.scoring import measure, outcomes_name, save_outcomes
from eval.dense.batches import SegmentationBatches, image_samples, whole_samples
from eval.dense.classes import missing_classes, require_classes, values_in, warn_of_missing
from eval.dense.examples import Examples
from eval.dense.maps import PRECISION, cached_maps, map_shapes
from eval.dense.masks import MaskFiles
from eval.dense.predict import View, predict
from eval.dense.task import SegmentationTask, TaskConfig
from eval.features.extract import FrozenBackbone
from heads.segmentation.core.base import SEGMENTATION_HEADS
from heads.segmentation.core.losses import make_loss
from methods.core.base import ViewBatch
from rundir.paths import FEATURES, examples_file, masks_folder
from rundir.results import Measurement
from training.costs import norm_of_one_value
from training.failures import too_small_batch
from training.optimizers import OPTIMIZERS

#: Optimiser and learning rate by ``finetune``. DeepLabV3 (arXiv 1706.05587, section 4.1) fine-tunes with SGD, 0.007; AdamW's 0.001,
#: for frozen features of any scale, is ours.
RECIPES = {True: ("sgd", 7e-3), False: ("adamw", 1e-3)}


def _ends(scale: Sequence[float]) -> None:
    if len(scale) != 2 or scale[0] > scale[1]:
        raise ValueError("give the two ends of a range, such as: 0.5 2")


@dataclass(kw_only=True)
class SegmentationConfig(EvaluationConfig):
    heads: list[str] = option(["linear"], form=one_of("head", SEGMENTATION_HEADS.names))
    """segmentation heads; each is trained and measured by itself"""
    finetune: bool = False
    """train the backbone, too; without it, it stays frozen"""
    crop_size: int | None = option(None, **IMAGE_SIZE)
    """side in pixels of training crops and of the square that whole images are fitted into; default: the image size"""
    scale: list[float] = option([1.0, 1.0], above=0, form=_ends)
    """range of the random scale in training (published: 0.5 2); 1 1: whole images, whose frozen features are computed once"""
    distort: bool = False
    """photometric distortion in training"""
    loss: list[str] = option(["cross_entropy"], form=make_loss)
    """cross_entropy, dice, focal, jaccard; sums by weight as in: cross_entropy dice=0.5"""
    auxiliary: float = option(0.0, at_least=0)
    """weight of auxiliary heads' losses (SETR: 0.4); 0: none"""
    epochs: int = option(30, at_least=1)
    """passes over the training images"""
    batch_size: int = option(16, at_least=1)
    """images per optimiser step"""
    optimizer: str | None = option(None, form=one_of("optimizer", lambda: OPTIMIZERS))
    """default: adamw on a frozen backbone, sgd where it is trained"""
    lr: float | None = option(None, above=0)
    """learning rate as it is, whatever the batch; default: 0.001 with a frozen backbone, 0.007 where it is trained"""
    weight_decay: float = option(1e-4, at_least=0)
    """biases and norms have none"""
    schedule: Literal["poly", "cosine"] = "poly"
    """of the learning rate; poly: (1 - t) ** 0.9"""
    backbone_lr_scale: float = option(0.1, at_least=0)
    """learning rate of the backbone as a part of the heads'"""
    layer_decay: float = option(1.0, above=0, at_most=1)
    """each layer of the backbone learns at so much of the next one's rate"""
    output_stride: int | None = None
    """input pixels per cell of a ResNet's last map: 8 or 16 dilate its last stages; default: 8 for resnet50, else its own"""
    train_list: Literal["train", "train_aug"] = "train"
    """images to train on; train_aug: VOC's 10,582 with SBD's masks"""
    test_mode: Literal["whole", "slide"] = "whole"
    """look at test images as a whole, or through sliding windows"""
    test_scales: list[float] = option([1.0], above=0)
    """scales of test images, averaged"""
    test_flip: bool = False
    """average over test images and their mirror images"""
    save_masks: bool = option(False, changes_results=False)
    """write the predicted masks, too: palette PNGs of the images' sizes and names, in masks/DATA/HEAD of the run"""


@EVALUATIONS.register("segmentation")
class Segmentation(Evaluation):
    """mIoU, pixel accuracy, mean accuracy, precision, recall and F1 (``common.statistics.confusion``) of each head after its last
    step, as the evaluation ``segmentation_HEAD``. Background is a class; void (255) counts nowhere. Each head's training is the
    run directory ``segmentation/HEAD-DATA-DIGEST`` in the run."""

    title = "Segmentation"
    citation = "Everingham et al. 2010"
    parts = "heads.segmentation"
    metrics = {"miou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_accuracy": "mean acc.", "f1": "F1"}
    headline = ("miou",)
    apart = {"backbone": "frozen"}
    Config = SegmentationConfig
    config: SegmentationConfig

    @property
    def _mode(self) -> str:
        return "fine-tuned" if self.config.finetune else "frozen"

    @property
    def _whole(self) -> bool:
        """Whether a frozen backbone sees the training images whole, so that its maps of them are the same in every epoch."""
        config = self.config
        return not config.finetune and not config.distort and tuple(config.scale) == (1.0, 1.0)

    @property
    def _kind(self) -> str:
        """Part of the names of files that stand beside those of a frozen backbone."""
        return "finetuned" if self.config.finetune else ""

    def further_images(self, context: EvalContext) -> list[str]:
        return [] if self.config.train_list == "train" else [self._training_store(context).fingerprint]

    def keeps(self, measurement: Measurement, context: EvalContext) -> bool:
        """Heads that are not measured now stay; so do frozen beside fine-tuned backbones, unless an older version named both
        predictions alike."""
        if measurement.protocol.get("backbone") == self._mode:
            return measurement.protocol.get("head") not in self.config.heads
        own = outcomes_name(context, measurement.evaluation, self._kind)
        return Path(measurement.predictions or "").stem != own

    def has_written(self, context: EvalContext) -> bool:
        return not self.config.save_masks or all(self._masks(context, head).are_whole for head in self.config.heads)

    def _masks(self, context: EvalContext, head: str) -> MaskFiles:
        data = as_file_name(context.test.name)
        return MaskFiles(masks_folder(context.run_dir, data, head, self._kind), context.test.names)

    def check(self, outlook: Outlook) -> None:
        for listing in (outlook.train, outlook.test):
            _require_masks(listing.data, listing.masks is not None)
            require_classes(listing, background=True)
        if self.config.batch_size == 1:
            self._require_norms(outlook)

    def _require_norms(self, outlook: Outlook) -> None:
        """Raise UserError if a head's BatchNorm would have one value a channel in batches of one image."""
        config, size = self.config, self.config.crop_size or outlook.image_size
        for head in config.heads:
            task = TaskConfig(head=head, finetune=config.finetune, auxiliary=config.auxiliary)
            if norm_of_one_value(
                lambda task=task: SegmentationTask(task, lambda: outlook.backbone, len(outlook.test.classes) + 1),
                lambda: ViewBatch([torch.empty(1, 3, size, size)], torch.zeros(1, size, size, dtype=torch.uint8)),
                config.epochs,
            ):
                raise too_small_batch("--segmentation_batch_size", head, " (of segment: --batch_size)")

    def run(self, context: EvalContext) -> list[Measurement]:
        tasks: dict[str, SegmentationTask] = {}
        for head, training in self.train(context).items():
            tasks[head] = self._task(context, training.task)
            training.restore(tasks[head])
        backbone = next(iter(tasks.values())).backbone
        view = View(
            size=self._size(context),
            mode=self.config.test_mode,
            scales=tuple(self.config.test_scales),
            flip=self.config.test_flip,
            multiple=backbone.stride if backbone.has_tokens else 1,
        )
        matrices = self._predict(context, tasks, view)
        classes = context.test.mask_classes
        Console(stderr=True).print(summary(matrices, classes))
        store = self._training_store(context)
        trained, tested = values_in(store), next(iter(matrices.values())).any(axis=2)
        missing = missing_classes(trained, tested, classes)
        warn_of_missing("segmentation", missing, trained)
        protocol = self._protocol(context, view, backbone)
        data = context.data(train=store)
        data |= {split: data[split] | missing[split] for split in missing}
        return [m for head in tasks for m in self._measure(context, head, matrices[head], protocol, data)]

    def train(self, context: EvalContext) -> dict[str, NestedTraining]:
        """Train each head, unless that has been done; returns the trainings. Several processes call this together."""
        self._check(context)
        config, size, store = self.config, self._size(context), self._training_store(context)
        trainings = {head: self._plan(context, head, store) for head in dict.fromkeys(config.heads)}
        due = {head: training for head, training in trainings.items() if not training.has_ended}
        stored = None
        if due and self._whole:
            tasks = [self._task(context, training.task) for training in due.values()]
            blocks = sorted({block for task in tasks for block in task.blocks})
            network = context.frozen(self._backbone(context))
            about = {"weights": context.weights_hash, "output_stride": network.backbone.stride}
            with main_first():
                stored = cached_maps(network, store, blocks, size, context.run_dir / FEATURES, about)
        maps, files = stored or ({}, [])
        augmentation = SegmentationAugmentation(
            crop_size=size, scale=tuple(config.scale), distort_p=0.5 if config.distort else 0.0
        )
        for head, training in due.items():
            torch.manual_seed(context.seed)
            task = self._task(context, training.task, precomputed=bool(maps))
            if self._whole:
                sample = whole_samples(store, augmentation, maps, task.blocks)
            else:
                sample = image_samples(store, augmentation)
            workers = 1 if maps else min(8, processors())
            batches = SegmentationBatches(store, sample, training.config, context.device, workers)
            if is_main():
                note(f"segmentation: training {head} on {len(store)} images of {store.name}")
            training.train(task, batches, images=len(store), fingerprint=store.fingerprint)
        for file in files if is_main() else ():
            file.unlink(missing_ok=True)  # nothing reads the maps again
        return trainings

    def _check(self, context: EvalContext) -> None:
        for store in (context.train, context.test):
            _require_masks(store.name, store.has_masks)
            require_classes(store, background=True)
        cpu = FrozenBackbone(backbone=self._backbone(context), device=torch.device("cpu"), precision="fp32")
        map_shapes(cpu, [-1], self._size(context))

    def _training_store(self, context: EvalContext) -> ImageStore:
        if self.config.train_list == "train":
            return context.train
        return open_dataset(context.train.name, self.config.train_list, context.train.root, context.train.short_side)

    def _size(self, context: EvalContext) -> int:
        return self.config.crop_size or context.image_size

    def _backbone(self, context: EvalContext) -> Backbone:
        """Copy the context's backbone with the output stride of the options."""
        stride = self.config.output_stride or (8 if context.backbone_name == "resnet50" else None)
        return context.copy_of_backbone(self._size(context), **({} if stride is None else {"output_stride": stride}))

    def _task(self, context: EvalContext, task: TaskConfig, precomputed: bool = False) -> SegmentationTask:
        classes = len(context.test.mask_classes)
        return SegmentationTask(task, lambda: self._backbone(context), classes, self._whole, precomputed)

    def _plan(self, context: EvalContext, head: str, store: ImageStore) -> NestedTraining:
        config = self.config
        optimizer, lr = RECIPES[config.finetune]
        of_task = ("finetune", "loss", "auxiliary", "backbone_lr_scale", "layer_decay")
        task = TaskConfig(head=head, **{name: getattr(config, name) for name in of_task})
        of_data = ("scale", "distort", "output_stride", "train_list")
        depends = {name: getattr(config, name) for name in of_data} | {"train_data": store.fingerprint}
        depends |= {"maps": PRECISION} if self._whole else {}
        return NestedTraining.plan(
            context,
            f"{head}-{as_file_name(store.name)}",
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

    def _predict(self, context: EvalContext, tasks: dict[str, SegmentationTask], view: View) -> dict[str, np.ndarray]:
        """Each head's confusion matrices of the test images, int32 ``[n, C, C]``; saves examples for the report."""
        test = context.test
        matrices: dict[str, list[np.ndarray]] = {head: [] for head in tasks}
        stored = examples_file(context.run_dir, test.name, self._kind)
        examples = Examples(test, context.weights_hash)
        examples.take_over(stored, without=tasks)
        masks = {head: self._masks(context, head) for head in tasks}
        for files in masks.values():
            files.clear()
        # All heads share one pass of a frozen backbone.
        for heads in [[head] for head in tasks] if self.config.finetune else [list(tasks)]:
            network = context.frozen(tasks[heads[0]].backbone)
            readers = {head: (tasks[head].head.to(context.device).eval(), tasks[head].head_blocks) for head in heads}
            predictions = predict(network, readers, test, view)
            for image, by_head in track(predictions, f"segmenting {test.name}", len(test)):
                for head, classes in by_head.items():
                    matrix = confusion_matrix(classes.numpy(), test.mask(image), len(test.mask_classes))
                    matrices[head].append(matrix)
                    examples.offer(head, image, classes.numpy(), matrix)
                    if self.config.save_masks:
                        masks[head].write(image, classes.numpy())
        examples.save(stored)
        if self.config.save_masks:
            note(
                f"segmentation: masks of {len(test)} images in {', '.join(str(files.folder) for files in masks.values())}"
            )
        return {head: np.stack(of_images).astype(np.int32) for head, of_images in matrices.items()}

    def _protocol(self, context: EvalContext, view: View, backbone: Backbone) -> dict[str, object]:
        """The protocol that all heads share."""
        config, (optimizer, lr) = self.config, RECIPES[self.config.finetune]
        distorted = ", distortion" if config.distort else ""
        protocol = {
            "backbone": self._mode,
            "output_stride": backbone.stride,
            "classes": len(context.test.mask_classes),
            "void": "counts nowhere",
            "test_view": view.words,
            "test_scales": list(view.scales),
            "test_flip": view.flip,
            "resolution": "original",
            "train_list": config.train_list,
            "train_view": f"crop {view.size}, scale {config.scale[0]:g} to {config.scale[1]:g}, flip{distorted}",
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
        if self._whole:
            protocol["train_maps"] = PRECISION
        if config.finetune:
            protocol |= {"backbone_lr_scale": config.backbone_lr_scale, "layer_decay": config.layer_decay}
        return protocol

    def _measure(
        self, context: EvalContext, head: str, matrices: np.ndarray, protocol: dict[str, object], data: dict[str, Any]
    ) -> list[Measurement]:
        evaluation, test = f"segmentation_{head}", context.test
        resampled = bootstrap_scores(matrices)
        estimates = {
            metric: (float(value), *map(float, np.quantile(resampled[metric], [0.025, 0.975])))
            for metric, value in scores(matrices.sum(0)).items()
        }
        file = save_outcomes(context, evaluation, test.names, self._kind, confusion=matrices, classes=test.mask_classes)
        protocol = {"head": head, **protocol}
        return measure(context, evaluation, estimates, len(matrices), protocol, file, data=data)


def _require_masks(data: str, has_masks: bool) -> None:
    if not has_masks:
        raise UserError(f"{data} has no masks to learn segmentation from; voc2012 and demo have")


def summary(matrices: dict[str, np.ndarray], classes: Sequence[str]) -> Table:
    """Tabulate each head's IoU of each class, in percent; a dash for a class in no mask and no prediction."""
    heads = [Column(head, justify="right") for head in matrices]
    table = Table(Column("", overflow="fold"), *heads, title="IoU in percent", title_justify="left")
    totals = [of_images.sum(0) for of_images in matrices.values()]
    ious = [class_scores(total)["iou"] for total in totals]
    for name, *values in zip(classes, *ious, strict=True):
        table.add_row(name, *("–" if np.isnan(value) else f"{100 * value:.1f}" for value in values))
    table.add_section()
    table.add_row("mean", *(f"{scores(total)['miou']:.1f}" for total in totals))
    return table
