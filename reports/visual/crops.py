"""The crops that a method sees: which images they are cut from, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.visual.paper import grid, headed, short, show
from reports.visual.style import COLOURS, INK, RULE, style


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
