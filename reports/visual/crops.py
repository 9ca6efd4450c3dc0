"""The crops that a method sees: which images they are cut from, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.errors import UsageError
from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.pairing import make_pairing
from data.store.store import ImageStore
from data.views.maker import ViewMaker
from data.views.plan import crop_boxes
from methods.core.base import METHODS, MethodConfig
from reports.visual.images import data_title
from reports.visual.neighbours import class_names
from reports.visual.network import configs_of, folder_of, read_options, train_images
from reports.visual.options import CropsOptions
from reports.visual.style import COLOURS, INK, RULE, file_stem, grid, headed, save_figure, short, show, style
from training.batches import CROPS, ORDER, PAIRING, hold_out, seed_of
from training.config import TrainConfig
from training.resolve import resolve


@dataclass(frozen=True)
class Crop:
    """One view.

    Attributes:
        name: of the view.
        pixels: uint8 ``[size, size, 3]``, as the network sees it, less the normalisation.
        source: uint8 ``[H, W, 3]``, the image it is cut from.
        box: (top, left, height, width) in pixels of the source.
        label: the source's class names, "" if none.
        other: True if the source is not the anchor.
    """

    name: str
    pixels: np.ndarray
    source: np.ndarray
    box: tuple[int, int, int, int]
    label: str
    other: bool


def crops(samples: Sequence[Sequence[Crop]], title: str, caption: str) -> Figure:
    """Two lines for each sample: its crops, each drawn at a size in proportion to its pixels, and the images they are cut
    from."""
    columns = max(len(sample) for sample in samples)
    largest = max(len(crop.pixels) for sample in samples for crop in sample)
    with style():
        figure, axes = grid(2 * len(samples), columns, 1.12, 1.28)
        for number, sample in enumerate(samples):
            for column in range(columns):
                upper, lower = axes[2 * number : 2 * number + 2, column]
                if column >= len(sample):
                    show(upper, None)
                    show(lower, None)
                    continue
                crop = sample[column]
                side = len(crop.pixels)
                colour = COLOURS[1] if crop.other else COLOURS[0]
                show(upper, crop.pixels, f"{crop.name}, {side} px", colour, 1.4, extent=(0, side, side, 0))
                margin = (largest - side) / 2
                upper.set_xlim(-margin, side + margin)
                upper.set_ylim(side + margin, -margin)
                for spine in upper.spines.values():
                    spine.set_visible(False)
                upper.add_patch(Rectangle((0, 0), side, side, fill=False, ec=colour, lw=1.4))
                show(lower, crop.source, "", RULE)
                top, left, height, width = crop.box
                box = {"xy": (left - 0.5, top - 0.5), "width": width, "height": height, "fill": False}
                lower.add_patch(Rectangle(**box, ec="white", lw=2.6))
                lower.add_patch(Rectangle(**box, ec=colour, lw=1.4))
                whose = "other image" if crop.other else "anchor"
                lower.set_xlabel(
                    f"{whose}\n{short(crop.label, 18)}" if crop.label else whose, fontsize=6.5, labelpad=1.5, color=INK
                )
        return headed(figure, title, caption)


def first_samples(store: ImageStore, config: TrainConfig, method_config: MethodConfig, count: int) -> list[list[Crop]]:
    """The views of the first ``count`` anchors of a training's first step, as its ``training.batches.Batches`` draw them.

    Args:
        store: the images trained on.
        config: resolved options.
        method_config: the method's own.
    """
    views = list(METHODS.get(config.method).views(method_config, config.image_size))
    maker = ViewMaker(views)
    size = min(config.batch_size, len(store))
    anchors = np.random.default_rng([ORDER, config.seed, 0]).permutation(len(store))[:size]
    pairing = make_pairing(
        config.pairing,
        store.labels,
        store.label_sets,
        len(views),
        config.paired_views,
        config.label_fraction,
        config.seed,
    )
    sources = pairing.sources(anchors, np.random.default_rng([PAIRING, config.seed, 0]))[:, :count]
    params = maker.sample(size, torch.Generator().manual_seed(seed_of(CROPS, config.seed, 0)))[:, :count]
    images, rows = np.unique(sources, return_inverse=True)
    batch = store.batch(images)
    made = maker.make(batch, torch.from_numpy(rows.reshape(sources.shape)), params)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    samples: list[list[Crop]] = [[] for _ in range(sources.shape[1])]
    for number, view in enumerate(views):
        boxes = crop_boxes(batch.sizes[rows.reshape(sources.shape)[number]], view, params[number]).tolist()
        for place, sample in enumerate(samples):
            source = int(sources[number, place])
            pixels = ((made[number][place] * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            other = source != anchors[place]
            sample.append(
                Crop(view.name, pixels, store.image(source), tuple(boxes[place]), class_names(store, source), other)
            )
    return samples


def draw(options: CropsOptions) -> list[Path]:
    """One picture, two lines for each anchor."""
    if options.run is None and (options.method is None or options.data is None):
        raise UsageError("--run, or --method and --data are needed: whose crops to draw")
    if options.count < 1:
        raise UsageError(f"--count {options.count}: give at least 1")
    there = read_options(options.run) if options.run is not None else {}
    overrides = {
        name: value
        for name in ("method", "data", "data_root", "image_size", "pairing", "label_fraction", "seed")
        if (value := getattr(options, name)) is not None
    }
    if "method" in overrides and overrides["method"] != there.get("method"):
        there = {name: there[name] for name in ("data", "data_root", "image_size", "seed") if name in there}
    if "data" in overrides and overrides["data"] != there.get("data"):
        there = {name: value for name, value in there.items() if name not in ("data_root", "image_size")}
    config, method_config = configs_of({**there, **overrides})
    kind = METHODS.get(config.method)
    if config.pairing == "same_image" and options.pairing is not None:
        config = dataclasses.replace(config, paired_views=None)  # of a run that paired by label
    config = resolve(config)
    if not kind.trains:
        raise UsageError(f"--method {config.method} does not train, so it sees no crops; give another method")
    store = train_images(config)
    store = store.subset(hold_out(len(store), config.knn_every)[0])
    samples = first_samples(store, config, method_config, options.count)
    paired = (
        f"views from other images of the same label (labels of {100 * config.label_fraction:g}% of the images)"
        if config.pairing == "same_label"
        else "all views from the same image"
    )
    whose = f"run {Path(options.run).resolve().name}" if options.run else "the method's defaults"
    title = (
        f"What {config.method} sees in its first step\n"
        f"Training images of {data_title(store)}; {config.image_size} pixels; {paired}; {whose}, seed {config.seed}."
    )
    caption = (
        "Upper lines: the crops as the network gets them, but for the normalisation, in proportion to their size. Lower lines: "
        "the image that each is cut from, and where (blue: the anchor, orange: another image); crops may be mirrored."
    )
    return save_figure(
        crops(samples, title, caption), folder_of(options.out, options.run), f"crops-{file_stem(config.method)}"
    )
