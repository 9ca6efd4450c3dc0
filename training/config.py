"""All options of a training run. Imports no torch, so that the command line can show them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import backbones
from common.options import IMAGE_SIZE, option
from common.registry import names_of
from data.sets.core.base import image_sizes, names_with_images


@dataclass(kw_only=True)
class TrainConfig:
    """Options of a training run. A method's ``recipe`` overrides the defaults below with what its paper publishes; the
    user's configuration file overrides both, and the command line overrides all."""

    method: str = option("dino", names=names_of("methods"))
    """what to train with: a file's name in methods/"""
    recipe: Literal["published", "small"] = option("published", only_training=True)
    """where defaults come from: the method's paper, or a search for a few thousand small images on a laptop (docs/methods.md);
    given options win"""
    backbone: str = option("vit_s16", names=backbones.names)
    """backbone, by its name, or timm:NAME"""
    data: str = option("demo", names=names_with_images)
    """data set, by its name; hf:NAME or hf:FOLDER with the datasets library"""
    data_root: str | None = option(None, changes_results=False)
    """folder of the data set; demo needs none"""
    stream: bool = option(False, changes_results=False)
    """decode training images anew for each batch instead of keeping them decoded on the disk (as is done without it where they do
    not fit); the batches are the same"""
    out: str | None = option(None, changes_results=False)
    """run directory; default runs/METHOD-BACKBONE-DATA-SEED"""

    image_size: int | None = option(None, names=image_sizes, **IMAGE_SIZE)
    """side of full-size crops and of evaluation images, which are squares, in pixels; default: the data set's own"""
    epochs: float = option(100, above=0, only_training=True)
    """passes over the training images; may be a fraction"""
    extended_from: list[float] | None = option(None, above=0, only_training=True)
    """the epochs that the run was planned for before --extend; the run keeps them"""
    budget: str | None = option(None, only_training=True)
    """instead of epochs: images=5e6, minutes=30 or flops=1e18 (or epochs=100), the same for each method"""
    batch_size: int = option(64, at_least=1, only_training=True)
    """images per optimiser step, over all devices and accumulation steps together"""
    accumulate: int = option(1, at_least=1, only_training=True)
    """split each batch into this many forward passes, for less memory. The step is that of the whole batch, unless something is
    computed from all images of a forward pass, such as BatchNorm or negatives, which then see a part (docs/methods.md)"""

    optimizer: Literal["adamw", "sgd", "lars", "larc"] = option("adamw", only_training=True)
    """AdamW, SGD, LARS, or LARC: LARS that adapts and decays every tensor, biases and norms, too (SwAV)"""
    lr: float = option(5e-4, at_least=0, only_training=True)
    """learning rate for 256 images: it is multiplied by batch_size / 256"""
    schedule: Literal["cosine", "poly"] = option("cosine", only_training=True)
    """of the learning rate after its warm-up; poly: (1 - t) ** 0.9"""
    min_lr: float = option(1e-6, at_least=0, only_training=True)
    """learning rate at the end of its schedule, not multiplied by batch_size / 256"""
    min_lr_scale: float = option(0.0, at_least=0, only_training=True)
    """added to min_lr: a part of the learning rate after the warm-up"""
    warmup_epochs: float | None = option(None, at_least=0, only_training=True)
    """linear warm-up of the learning rate; default: 10, or a tenth of the epochs if that is less (mocov3: 40, or 40 of 300)"""
    weight_decay: float = option(0.04, at_least=0, only_training=True)
    """at the start of training; biases and 1-d tensors have none (but with mocov2, mocov3 and swav)"""
    weight_decay_end: float | None = option(None, at_least=0, only_training=True)
    """weight decay at the end of its cosine; default: as at the start"""
    momentum: float = option(0.9, at_least=0, below=1, only_training=True)
    """of SGD and LARS"""
    clip_grad: float = option(0.0, at_least=0, only_training=True)
    """largest gradient norm; 0: no clipping"""
    clip_mode: Literal["tensor", "global"] = option("tensor", only_training=True)
    """clip each tensor's gradient by itself (DINO), or all by their common norm"""

    pairing: Literal["same_image", "same_label"] = option("same_image", only_training=True)
    """where an anchor's other views come from: the same image, or other images with one of its labels"""
    paired_views: list[int] | None = option(None, only_training=True)
    """which views (from 0) same_label draws from other images; default: all but the first"""
    pairing_start: float = option(0.0, at_least=0, only_training=True)
    """epochs of views from the same image before same_label begins"""
    label_fraction: float = option(1.0, above=0, at_most=1, only_training=True)
    """part of the training images whose label may be used (by same_label and by methods that read labels)"""

    init: str | None = None
    """weights to start from: a run directory or checkpoint, the authors', timm's or torchvision's file, or released ones by name
    (dino:vit_s8, dino:vit_s8:full, …); a whole state where it fits, else the backbone alone"""
    init_sha256: str | None = None
    """digest of that file; the run keeps it, and refuses another file"""
    init_labels: str | None = None
    """which labels those weights have seen (none, all, 10%%), for the report; default: what their file says"""
    seed: int = option(0, at_least=0, below=2**63)
    """of weights, order, crops and pairing"""
    device: str = option("auto", changes_results=False)
    """auto, cpu, cuda, cuda:N or mps"""
    strategy: Literal["ddp", "fsdp"] = option("ddp", changes_results=False, only_training=True)
    """for several processes (torchrun): each holds all weights (ddp) or a part of each (fsdp); fsdp also recomputes a ViT's
    activations in the backward pass, which takes less memory and more time"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device is fast at it, else fp32"""

    compile: bool = option(False, changes_results=False, only_training=True)
    """compile the backbone's blocks (torch.compile): a minute or more at the start, and faster steps on accelerators"""

    # Not only_training: it decides which images are held out, and so the fingerprint by which reports compare a run's images.
    knn_every: int = option(10, at_least=0)
    """online k-NN on a held-out part of the training images every so many epochs; 0: never"""
    checkpoint_every: int = option(1, at_least=1, changes_results=False, only_training=True)
    """epochs between checkpoints (one more is written at the end and when stopped)"""
    keep_checkpoints: int = option(2, at_least=1, changes_results=False, only_training=True)
    """how many of them to keep, the last included; the best by the online k-NN is kept beside them. When training has ended, 1 or 2
    leave the last one, and of the best its backbone"""
    log_every: int = option(10, at_least=1, changes_results=False, only_training=True)
    """optimiser steps between records in log.jsonl"""
    evals: list[str] | None = option(None, changes_results=False, names=names_of("eval"))
    """evaluations to run after training, such as: knn linear"""
    visualize: list[str] | None = option(None, changes_results=False, names=names_of("reports.visual"))
    """pictures to draw after training, for reports, such as: attention pca"""
    pictures_every: int = option(0, at_least=0, changes_results=False, only_training=True)
    """draw attention, receptive fields, crops and cross-correlation of a few fixed images every so many epochs, into
    figures/training/ and the loggers below; their time is not counted as training; 0: never"""
    tensorboard: bool = option(False, changes_results=False)
    """also log to TensorBoard, under the run directory"""
    wandb: bool = option(False, changes_results=False)
    """also log to Weights & Biases (WANDB_MODE=offline works without a network)"""

    @property
    def peak_and_end_lr(self) -> tuple[float, float]:
        """The learning rate after the warm-up, and that at the end of the schedule."""
        peak = self.lr * self.batch_size / 256
        return peak, self.min_lr + self.min_lr_scale * peak
