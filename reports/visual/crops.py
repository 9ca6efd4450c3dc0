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
from common.names import short
from common.options import IMAGE_SIZE, option
from reports.visual.core.base import VISUALIZATIONS, Visualization
from reports.visual.core.runs import training_options
from reports.visual.core.style import (
    COLOURS,
    FAINT,
    INK,
    RULE,
    file_stem,
    grid,
    headed,
    save_figure,
    show,
    style,
)

if TYPE_CHECKING:
    from data.store.store import ImageStore
    from training.batches import Batches
    from training.config import TrainConfig
    from training.plan import Plan

#: Colour and line of frames by ``Crop.kind``, and what they mean.
LOOKS = {"anchor": (COLOURS[0], "-"), "other": (COLOURS[1], "-"), "alone": (FAINT, (0, (2.2, 1.1)))}
MEANINGS = {
    "anchor": "blue: the anchor",
    "other": "orange: another image with one of its labels",
    "alone": "grey, dashed: an anchor whose views are all its own, since its label may not be used, or no other image has it",
}


@VISUALIZATIONS.register("crops")
@dataclass(kw_only=True)
class Crops(Visualization):
    """The crops that a method sees in its first step, and which images they are cut from."""

    title = "Crops"
    caption = "The views of the first step, and the images they are cut from."
    place = 6

    run: str | None = None
    """run directory whose options count; the options below override them"""
    method: str | None = None
    """a file's name in methods/; needed without --run"""
    data: str | None = None
    """data set; needed without --run"""
    data_root: str | None = None
    """folder of the data set; demo needs none"""
    image_size: int | None = option(None, **IMAGE_SIZE)
    """side of full-size crops in pixels; default: the run's, else the data set's own"""
    pairing: Literal["same_image", "same_label"] | None = None
    """where an anchor's other views come from; default: the run's, else the method's"""
    label_fraction: float | None = None
    """part of the training images whose label may be used; default: the run's, else 1"""
    class_names: str | None = None
    """file of names for the classes: one a line in their order, or CLASS NAME; default: for ImageNet's synsets the words"""
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
        plan.images[0].name_classes(self.class_names)
        batches = batches_of(plan)
        step = batches.pairing_start if config.pairing == "same_label" else 0
        first = "first step" if step == 0 else f"step {step + 1}, the first with pairs"
        whose = f"run {Path(self.run).resolve().name}" if self.run else "the method's defaults"
        title = (
            f"What {config.method} sees in its {first}\n"
            f"Training images of {data_title(plan.images[0])}; {config.image_size} pixels; "
            f"{pairing_words(config, step, batches.pairing_start)}; {whose}, seed {config.seed}."
        )
        figure = crops(samples_of(batches, batches.images_of(step), step, self.count), title)
        return save_figure(figure, self.folder(self.run), f"crops-{file_stem(config.method)}")

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
        box: (top, left, height, width) in pixels of the source.
        words: whose image the source is, and its classes.
        kind: ``anchor``, ``other`` image, or an anchor ``alone``: views should come from others of its label, and none can.
    """

    name: str
    pixels: np.ndarray
    source: np.ndarray
    box: tuple[int, int, int, int]
    words: str
    kind: Literal["anchor", "other", "alone"]


def batches_of(plan: Plan) -> Batches:
    """The batches of a plan's training, on the CPU; one of all images where they do not fill a batch."""
    import torch

    from training.batches import Batches

    store = plan.images[0]
    config = dataclasses.replace(plan.config, batch_size=min(plan.config.batch_size, len(store)))
    return Batches(store, plan.views, config, torch.device("cpu"))


def pairing_words(config: TrainConfig, step: int, first_pairs: int) -> str:
    """Say where the views of a step come from; ``first_pairs``: the first step with views from several images."""
    if config.pairing == "same_image":
        return "all views from the same image"
    if step < first_pairs:
        return f"all views from the same image, as before step {first_pairs + 1}"
    share = f"labels of {100 * config.label_fraction:g}% of the images may be used"
    return f"views from other images of the anchor's label where it may be used ({share})"


def samples_of(batches: Batches, anchors: np.ndarray, step: int, count: int) -> list[list[Crop]]:
    """Cut the views of some of a step's anchors ``[B]``, as training does: of the first ``count``, or where pairs need
    labels, of as many with a usable label as without, if there are both."""
    import torch

    from common.images import IMAGENET_MEAN, IMAGENET_STD
    from data.views.plan import crop_boxes

    store, views, paired = batches.store, batches.maker.views, batches.config.pairing == "same_label"
    places = both_kinds(batches.usable[anchors], count) if paired else np.arange(len(anchors))[:count]
    sources, params = batches.draw(anchors, step)
    sources, params, anchors = sources[:, places], params[:, places], anchors[places]
    images, rows = np.unique(sources, return_inverse=True)
    rows = torch.from_numpy(rows.reshape(sources.shape))
    batch = store.batch(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    paired &= step >= batches.pairing_start
    samples: list[list[Crop]] = [[] for _ in anchors]
    for number, crops_B3ss in enumerate(batches.maker.make(batch, rows, params)):
        boxes = crop_boxes(batch.sizes[rows[number]], views[number], params[number]).tolist()
        for place, sample in enumerate(samples):
            source, alone = int(sources[number, place]), paired and (sources[:, place] == anchors[place]).all()
            kind = "other" if source != anchors[place] else "alone" if alone else "anchor"
            pixels = ((crops_B3ss[place] * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            words = _words(store, source, kind, bool(batches.usable[source]))
            sample.append(Crop(views[number].name, pixels, store.image(source), tuple(boxes[place]), words, kind))
    return samples


def both_kinds(usable: np.ndarray, count: int) -> np.ndarray:
    """Choose ``count`` places of a bool ``[n]``, rising: the first ones that are True and that are False, the same number of each
    (one more True), or more of one kind where the other has fewer."""
    yes, no = np.flatnonzero(usable), np.flatnonzero(~usable)
    without = min(len(no), max(count // 2, count - len(yes)))
    return np.sort(np.concatenate([yes[: count - without], no[:without]]))


def _words(store: ImageStore, image: int, kind: str, usable: bool) -> str:
    """Whose image it is, its classes (in the middle of long ones dots), and why an anchor stays alone."""
    from reports.visual.core.images import class_names

    label = short(class_names(store, image), 18)
    whose = "other image" if kind == "other" else "anchor"
    if kind != "alone":
        return f"{whose}\n{label}" if label else whose
    reason = "no other image of it" if usable else "label not used" if label else "no label"
    return "\n".join(filter(None, (whose, label, reason)))


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
                side, colour, dashes = len(crop.pixels), *LOOKS[crop.kind]
                show(upper, crop.pixels, f"{crop.name}, {side} px", colour, 1.4, extent=(0, side, side, 0))
                margin = (largest - side) / 2
                upper.set_xlim(-margin, side + margin)
                upper.set_ylim(side + margin, -margin)
                upper.spines[:].set_visible(False)
                upper.add_patch(Rectangle((0, 0), side, side, fill=False, ec=colour, lw=1.4, ls=dashes))
                show(lower, crop.source, "", RULE)
                top, left, height, width = crop.box
                for edge, line_width, line in (("white", 2.6, "-"), (colour, 1.4, dashes)):
                    corner = (left - 0.5, top - 0.5)
                    lower.add_patch(Rectangle(corner, width, height, fill=False, ec=edge, lw=line_width, ls=line))
                lower.set_xlabel(crop.words, fontsize=6.5, labelpad=1.5, color=INK)
        kinds = {crop.kind for sample in samples for crop in sample}
        frames = "; ".join(meaning for kind, meaning in MEANINGS.items() if kind in kinds)
        return headed(
            figure,
            title,
            "Upper lines: the crops as the network gets them, but for the normalisation, in proportion to their size. Lower "
            f"lines: the image that each is cut from, and where ({frames}); crops may be mirrored.",
        )
