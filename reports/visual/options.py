"""Options of the command ``run.py visualize``. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from simple_parsing import field

from common.cli import PluginOption


@dataclass(kw_only=True)
class VisualOptions(PluginOption):
    """Options of every picture."""

    out: str | None = None
    """folder for the pictures; default: the run's figures/ where one run is looked at, else pictures/"""


@dataclass(kw_only=True)
class NetworkOptions(VisualOptions):
    """Options of pictures of one network."""

    weights: str | None = None
    """run directory, checkpoint, weights file (the authors', timm's, torchvision's) or released weights by name: dino:vit_s8,
    barlow_twins:resnet50, timm:NAME.TAG, torchvision:NAME; default: untrained"""
    key: str | None = None
    """which network of a checkpoint, such as teacher or student; default: the one that the run evaluates, else the teacher"""
    backbone: str | None = None
    """vit_nano, vit_t16, vit_s16, vit_s8, vit_b16, vit_b8, resnet18, resnet18_cifar, resnet50 or timm:NAME; default: the run's"""
    data: str | None = None
    """demo, imagefolder, cifar10, imagenet or voc2012; default: the run's"""
    data_root: str | None = None
    """folder of the data set; default: the run's; demo needs none"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    seed: int = 0
    """of untrained weights, and of which images are chosen"""


@dataclass(kw_only=True)
class ImagesOptions(NetworkOptions):
    """Options of pictures of single images."""

    images: list[str] | None = None
    """image files or folders of them; default: some test images of the data set"""
    count: int = 4
    """how many images of the data set to take, of different classes where it has them"""
    image_size: int | None = None
    """short side in pixels to which images are resized before both sides are cut to multiples of the patch; 0: not resized;
    default: the run's, else 224"""


@dataclass(kw_only=True)
class AttentionOptions(ImagesOptions):
    """Maps of every head's attention in the last block, and the patches that hold most of it."""

    video: str | None = None
    """video file (MP4, …; needs the extra "video"), animated GIF or folder of frames, instead of images"""
    fps: float | None = None
    """frames a second of the video that is written; default: the video's own, 10 for a folder of frames"""
    mass: float = 0.6
    """part of a head's attention that its mask holds"""


@dataclass(kw_only=True)
class PCAOptions(ImagesOptions):
    """Principal components of patch tokens (of a ResNet: of the last map's cells) as colours."""


@dataclass(kw_only=True)
class ReceptiveFieldOptions(VisualOptions):
    """Effective receptive fields of layers, of trained and untrained networks side by side."""

    weights: list[str] | None = None
    """run directories, checkpoints or weights files, one line each; default: untrained networks alone"""
    backbone: list[str] | None = None
    """one for each of the weights; default: the runs'. Without weights: any number"""
    untrained: bool = True
    """draw each backbone with untrained weights, too"""
    layers: list[str] | None = None
    """names such as blocks.5 or layer3.1; default: seven, evenly spaced"""
    images: list[str] | None = None
    """image files or folders of them; default: test images of the data set"""
    data: str | None = None
    """data set to take the images from; default: the first run's"""
    data_root: str | None = None
    """folder of the data set; default: the first run's; demo needs none"""
    count: int = 16
    """images to average over"""
    image_size: int | None = None
    """side of the square inputs in pixels; default: the first run's, else 224"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    seed: int = 0
    """of untrained weights, and of which images are chosen"""


@dataclass(kw_only=True)
class CrossCorrelationOptions(VisualOptions):
    """Cross-correlation of two views' projections: matrices, their evolution, and curves, of one run or several side by side."""

    runs: list[str] = field(positional=True)
    """run directories"""
    palette: Literal["diverging", "study"] = "diverging"
    """diverging: white at 0; study: cyan at 0, red at 1"""
    recompute: bool = False
    """compute the whole newest matrix anew from each run's checkpoint, instead of drawing the features that the run has kept"""
    count: int = 1024
    """training images that --recompute computes it over"""
    fps: float = 4.0
    """epochs a second of the animation"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""


@dataclass(kw_only=True)
class NeighboursOptions(NetworkOptions):
    """The training images whose features are most similar to those of queries."""

    images: list[str] | None = None
    """image files or folders of them as queries; default: test images of different classes"""
    count: int = 6
    """how many queries to take from the data set"""
    k: int = 8
    """neighbours of each query"""
    image_size: int | None = None
    """side of the images that features are of, in pixels; default: the run's, else the data set's own"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """of feature extraction"""


@dataclass(kw_only=True)
class EmbeddingOptions(NetworkOptions):
    """t-SNE of the test images' features, coloured by class."""

    count: int = 2000
    """test images, at most"""
    classes: list[str] | None = None
    """names of the classes to draw; default: the largest, at most 16"""
    perplexity: float = 30.0
    """of t-SNE: about how many neighbours each image keeps"""
    image_size: int | None = None
    """side of the images that features are of, in pixels; default: the run's, else the data set's own"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """of feature extraction"""


@dataclass(kw_only=True)
class CropsOptions(VisualOptions):
    """The crops that a method sees in its first step, and which images they are cut from."""

    run: str | None = None
    """run directory whose options count; the options below override them"""
    method: str | None = None
    """a file's name in methods/; needed without --run"""
    data: str | None = None
    """data set; needed without --run"""
    data_root: str | None = None
    """folder of the data set; demo needs none"""
    image_size: int | None = None
    """side of full-size crops in pixels; default: the run's, else the data set's own"""
    pairing: Literal["same_image", "same_label"] | None = None
    """where an anchor's other views come from; default: the run's, else the method's"""
    label_fraction: float | None = None
    """part of the training images whose label may be used; default: the run's, else 1"""
    count: int = 3
    """anchors to draw"""
    seed: int | None = None
    """of order, crops and pairing; default: the run's, else 0"""


@dataclass(kw_only=True)
class CollapseOptions(VisualOptions):
    """Signs of collapse over training: teacher entropy, KL, effective rank, feature std, alignment, uniformity."""

    runs: list[str] = field(positional=True)
    """run directories"""


#: What can be visualised: its options, whose first line says what it is.
VISUALIZATIONS: dict[str, type[VisualOptions]] = {
    "attention": AttentionOptions,
    "collapse": CollapseOptions,
    "crops": CropsOptions,
    "cross_correlation": CrossCorrelationOptions,
    "embedding": EmbeddingOptions,
    "neighbours": NeighboursOptions,
    "pca": PCAOptions,
    "receptive_field": ReceptiveFieldOptions,
}

#: Those that one run can be looked at by, for the report (``reports.page.inside``).
RUN_PICTURES = ("attention", "receptive_field", "pca", "neighbours", "embedding", "crops")


def options_for_run(what: str, run: str) -> VisualOptions:
    """The options by which one run is looked at, everything else by default."""
    kind = VISUALIZATIONS[what]
    known = {field.name for field in dataclasses.fields(kind)}
    if "runs" in known:
        return kind(runs=[run])
    if "run" in known:
        return kind(run=run)
    return kind(weights=[run] if kind is ReceptiveFieldOptions else run)
