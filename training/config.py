"""Everything a training run can be told, in one place. Imports no torch, so that the command line can show it at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class TrainConfig:
    """Options of a training run. A method's ``recipe`` overrides the defaults below with what its paper publishes; the
    user's configuration file overrides both, and the command line overrides all."""

    method: str = "dino"
    """what to train with: a file's name in methods/"""
    backbone: str = "vit_s16"
    """vit_nano, vit_t16, vit_s16, vit_s8, vit_b16, vit_b8, resnet18, resnet18_cifar, resnet50, or timm:NAME"""
    data: str = "demo"
    """demo, imagefolder, cifar10, imagenet, voc2007 or voc2012"""
    data_root: str | None = None
    """folder of the data set; demo needs none"""
    stream: bool = False
    """decode training images anew for each batch instead of keeping them decoded on the disk (so it is, anyway, where they do not
    fit); the batches are the same"""
    out: str | None = None
    """run directory; default runs/METHOD-BACKBONE-DATA-SEED"""

    image_size: int | None = None
    """side of full-size crops and of evaluation images, in pixels; default: the data set's own (224, demo and cifar10: 32)"""
    epochs: float = 100
    """passes over the training images; may have a part of one"""
    budget: str | None = None
    """instead of epochs: images=5e6, minutes=30 or flops=1e18 (or epochs=100), the same for every method it is given to"""
    batch_size: int = 64
    """images per optimiser step, over all devices and accumulation steps together"""
    accumulate: int = 1
    """split each batch into this many forward passes; losses of batch statistics then see the parts"""

    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    """AdamW, SGD or LARS"""
    lr: float = 5e-4
    """learning rate for 256 images: it is multiplied by batch_size / 256"""
    schedule: Literal["cosine", "poly"] = "cosine"
    """of the learning rate after its warm-up; poly: (1 - t) ** 0.9"""
    min_lr: float = 1e-6
    """learning rate at the end of its schedule, not multiplied by batch_size / 256"""
    min_lr_scale: float = 0.0
    """learning rate at the end of its schedule as a part of that after the warm-up, added to min_lr"""
    warmup_epochs: float | None = None
    """linear warm-up of the learning rate; default: 10, or a tenth of the epochs if that is less"""
    weight_decay: float = 0.04
    """at the start; biases and 1-d tensors have none"""
    weight_decay_end: float | None = None
    """at the end of its cosine; default: as at the start"""
    momentum: float = 0.9
    """of SGD and LARS"""
    clip_grad: float = 0.0
    """largest gradient norm; 0: no clipping"""
    clip_mode: Literal["tensor", "global"] = "tensor"
    """clip each tensor's gradient by itself (DINO), or all by their common norm"""

    pairing: Literal["same_image", "same_label"] = "same_image"
    """where an anchor's other views come from: the same image, or other images with one of its labels"""
    paired_views: list[int] | None = None
    """which views (from 0) same_label draws from other images; default: all but the first"""
    pairing_start: float = 0.0
    """epochs of views from the same image before same_label begins"""
    label_fraction: float = 1.0
    """part of the training images whose label may be used (by same_label and by methods that read labels)"""

    init: str | None = None
    """weights to start from: a run directory or checkpoint, the authors', timm's or torchvision's file, or released ones by name
    (dino:vit_s8, dino:vit_s8:full, …); a whole state where it fits, else the backbone alone"""
    init_sha256: str | None = None
    """digest of that file; written down by the run, so that another one is refused"""
    init_labels: str | None = None
    """which labels those weights have seen (none, all, 10%%), for the report; default: as they say themselves"""
    seed: int = 0
    """of weights, order, crops and pairing"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """of several processes (torchrun): each has all weights, or (fsdp) a part of each; fsdp also computes a ViT's activations anew
    in the backward pass, which takes less memory and more time"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device is fast at it, else fp32"""

    compile: bool = False
    """compile the backbone's blocks (torch.compile): a minute or more at the start, and faster steps on accelerators"""

    knn_every: int = 10
    """online k-NN on a held-out part of the training images every so many epochs; 0: never"""
    checkpoint_every: int = 1
    """epochs between checkpoints (one more is written at the end and when stopped)"""
    keep_checkpoints: int = 2
    """how many of them to keep, the last included; the best by the online k-NN is kept beside them"""
    log_every: int = 10
    """optimiser steps between records in log.jsonl"""
    evals: list[str] | None = None
    """evaluations to run after training, such as: knn linear"""
    visualize: list[str] | None = None
    """pictures to draw after training: attention receptive_field pca neighbours embedding crops"""
    tensorboard: bool = False
    """also log to TensorBoard, under the run directory"""
    wandb: bool = False
    """also log to Weights & Biases (WANDB_MODE=offline works without a network)"""
