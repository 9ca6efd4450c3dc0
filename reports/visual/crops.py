"""Draw the crops of a method, and their places in the source images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.errors import UsageError
from common.options import option
from reports.visual.core.base import VISUALIZATIONS, Visualization
from reports.visual.core.runs import training_options
from reports.visual.core.style import COLOURS, INK, RULE, file_stem, grid, headed, save_figure, short, show, style

if TYPE_CHECKING:
    from training.plan import Plan


@VISUALIZATIONS.register("crops")
@dataclass(kw_only=True)
class Crops(Visualization):
    """The crops that a method sees in its first step, and which images they are cut from."""

    title, caption, place = "Crops", "The views of the first step, and the images they are cut from.", 6

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
    count: int = option(3, at_least=1)
    """anchors to draw"""
    seed: int | None = None
    """of order, crops and pairing; default: the run's, else 0"""

    @classmethod
    def of_run(cls, run: str) -> Crops:
        return cls(run=run)

    def draw(self) -> list[Path]:
        """Write one picture."""
        from reports.visual.core.images import data_title
        from reports.visual.core.network import plan_of
        from training.resolve import resolve

        if self.run is None and (self.method is None or self.data is None):
            raise UsageError("--run, or --method and --data are needed: whose crops to draw")
        plan = plan_of(self._options())
        if self.pairing == "same_image":
            plan.config = dataclasses.replace(plan.config, paired_views=None)  # set in runs that pair by label
        config = plan.config = resolve(plan.config)
        if not plan.method.trains:
            raise UsageError(f"--method {config.method} does not train, so it sees no crops; give another method")
        samples = first_samples(plan, self.count)
        paired = "all views from the same image"
        if config.pairing == "same_label":
            labelled = f"labels of {100 * config.label_fraction:g}% of the images"
            paired = f"views from other images of the same label ({labelled})"
        whose = f"run {Path(self.run).resolve().name}" if self.run else "the method's defaults"
        title = (
            f"What {config.method} sees in its first step\n"
            f"Training images of {data_title(plan.images[0])}; {config.image_size} pixels; {paired}; {whose}, seed {config.seed}."
        )
        return save_figure(crops(samples, title), self.folder(self.run), f"crops-{file_stem(config.method)}")

    def _options(self) -> dict[str, Any]:
        """The run's options, overridden by the command line's; another method or data set drops the options of the run's own."""
        run = training_options(self.run) if self.run is not None else {}
        names = ("method", "data", "data_root", "image_size", "pairing", "label_fraction", "seed")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if given.get("method", run.get("method")) != run.get("method"):
            run = {name: run[name] for name in ("data", "data_root", "image_size", "seed") if name in run}
        if given.get("data", run.get("data")) != run.get("data"):
            run = {name: value for name, value in run.items() if name not in ("data_root", "image_size")}
        return {**run, **given}


@dataclass(frozen=True)
class Crop:
    """One view.

    Attributes:
        pixels: uint8 ``[size, size, 3]``, the network's input before normalisation.
        source: uint8 ``[H, W, 3]``, the image that it is cut from.
        label: class names of the source.
        other: the source is not the anchor.
        box: (top, left, height, width) in pixels of the source.
    """

    name: str
    pixels: np.ndarray
    source: np.ndarray
    box: tuple[int, int, int, int]
    label: str
    other: bool


def first_samples(plan: Plan, count: int) -> list[list[Crop]]:
    """Draw the views of the first ``count`` anchors of a training's first step, as ``training.batches.Batches`` does."""
    import torch

    from common.images import IMAGENET_MEAN, IMAGENET_STD
    from data.pairing import make_pairing
    from data.views.maker import ViewMaker
    from data.views.plan import crop_boxes
    from reports.visual.core.images import class_names
    from training.batches import CROPS, ORDER, PAIRING, seed_of

    config, views, (store, _) = plan.config, plan.views, plan.images
    maker = ViewMaker(views)
    size = min(config.batch_size, len(store))
    anchors = np.random.default_rng([ORDER, config.seed, 0]).permutation(len(store))[:size]
    labels, share = (store.labels, store.label_sets), config.label_fraction
    pairing = make_pairing(config.pairing, *labels, len(views), config.paired_views, share, config.seed)
    sources = pairing.sources(anchors, np.random.default_rng([PAIRING, config.seed, 0]))[:, :count]
    params = maker.sample(size, torch.Generator().manual_seed(seed_of(CROPS, config.seed, 0)))[:, :count]
    images, rows = np.unique(sources, return_inverse=True)
    rows = torch.from_numpy(rows.reshape(sources.shape))
    batch = store.batch(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    samples: list[list[Crop]] = [[] for _ in range(sources.shape[1])]
    for number, crops_B3ss in enumerate(maker.make(batch, rows, params)):
        boxes = crop_boxes(batch.sizes[rows[number]], views[number], params[number]).tolist()
        for place, sample in enumerate(samples):
            source = int(sources[number, place])
            pixels = ((crops_B3ss[place] * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            image, label = store.image(source), class_names(store, source)
            sample.append(Crop(views[number].name, pixels, image, tuple(boxes[place]), label, source != anchors[place]))
    return samples


def crops(samples: Sequence[Sequence[Crop]], title: str) -> Figure:
    """Draw two lines for each sample: its crops in proportion to their sizes, and the source images."""
    columns = max(len(sample) for sample in samples)
    largest = max(len(crop.pixels) for sample in samples for crop in sample)
    with style():
        figure, axes = grid(2 * len(samples), columns, 1.12, 1.28)
        for axis in axes.ravel():
            show(axis, None)
        for number, sample in enumerate(samples):
            for crop, upper, lower in zip(sample, axes[2 * number], axes[2 * number + 1], strict=False):
                side = len(crop.pixels)
                colour = COLOURS[1] if crop.other else COLOURS[0]
                show(upper, crop.pixels, f"{crop.name}, {side} px", colour, 1.4, extent=(0, side, side, 0))
                margin = (largest - side) / 2
                upper.set_xlim(-margin, side + margin)
                upper.set_ylim(side + margin, -margin)
                upper.spines[:].set_visible(False)
                upper.add_patch(Rectangle((0, 0), side, side, fill=False, ec=colour, lw=1.4))
                show(lower, crop.source, "", RULE)
                top, left, height, width = crop.box
                for edge, line_width in (("white", 2.6), (colour, 1.4)):
                    corner = (left - 0.5, top - 0.5)
                    lower.add_patch(Rectangle(corner, width, height, fill=False, ec=edge, lw=line_width))
                whose = "other image" if crop.other else "anchor"
                words = f"{whose}\n{short(crop.label, 18)}" if crop.label else whose
                lower.set_xlabel(words, fontsize=6.5, labelpad=1.5, color=INK)
        return headed(
            figure,
            title,
            "Upper lines: the crops as the network gets them, but for the normalisation, in proportion to their size. Lower "
            "lines: the image that each is cut from, and where (blue: the anchor, orange: another image); crops may be mirrored.",
        )
