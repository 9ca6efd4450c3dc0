"""Effective receptive fields: which pixels a layer's centre unit really depends on (Luo et al. 2016, arXiv 1701.04128)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from reports.visual.paper import grid, headed, short, show
from reports.visual.style import style

#: A pixel is in the field where its contribution is more than this part of the greatest (Luo et al., section 3.2: within two
#: standard deviations of a Gaussian).
THRESHOLD = 1 - 0.9545
#: Contributions down to this part of the greatest are told apart in the picture.
FLOOR = 1e-4

#: (top, left, height, width) of a cell in pixels, possibly between pixels.
Unit = tuple[float, float, float, float]


@dataclass(frozen=True)
class Fields:
    """Receptive fields of one network's layers.

    Attributes:
        name: of the network and its weights, in up to two lines.
        layers: names.
        maps: ``[layers, H, W]``, not negative.
        units: (top, left, height, width) in pixels of the input that each centre unit lies over; None where that is not known.
    """

    name: str
    layers: Sequence[str]
    maps: np.ndarray
    units: Sequence[Unit | None]


def normalised(field: np.ndarray) -> np.ndarray:
    """A field divided by its greatest value: contributions in [0, 1]. A field of zeros stays one."""
    most = field.max()
    return field / most if most > 0 else field


def field_size(field: np.ndarray) -> float:
    """Side in pixels of a square as large as the field: root of the number of pixels that contribute more than ``THRESHOLD`` of
    the greatest (Luo et al., section 3.2)."""
    return float(np.sqrt((normalised(field) > THRESHOLD).sum()))


def share_outside(field: np.ndarray, unit: Unit) -> float:
    """The part of all contributions that comes from pixels whose centres are not in the unit's cell."""
    top, left, height, width = unit
    rows, columns = np.arange(field.shape[0]) + 0.5, np.arange(field.shape[1]) + 0.5
    inside = np.outer((rows > top) & (rows < top + height), (columns > left) & (columns < left + width))
    total = field.sum()
    return float(field[~inside].sum() / total) if total > 0 else 0.0


def receptive_fields(rows: Sequence[Fields], title: str) -> Figure:
    """A line of fields for each network; all on one logarithmic scale."""
    columns = max(len(row.layers) for row in rows)
    with style():
        figure, axes = grid(len(rows), columns, 1.28, 1.5)
        image = None
        for line, row in enumerate(rows):
            for column in range(columns):
                axis = axes[line, column]
                if column >= len(row.layers):
                    show(axis, None)
                    continue
                shown = np.maximum(normalised(row.maps[column]), FLOOR)
                image = show(axis, shown, row.layers[column], cmap="viridis", norm=LogNorm(FLOOR, 1))
                size, unit = f"{field_size(row.maps[column]):.0f} px", row.units[column]
                if unit is not None:
                    top, left, height, width = unit
                    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec="white", lw=0.7))
                    size += f", {100 * share_outside(row.maps[column], unit):.0f}% outside"
                axis.set_xlabel(size, fontsize=7, labelpad=2)
            axes[line, 0].set_ylabel("\n".join(short(part, 20) for part in row.name.split("\n")), fontsize=7.5)
        bar = figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.9, aspect=20, pad=0.015)
        bar.set_label("part of the greatest", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        height, width = rows[0].maps.shape[1:]
        return headed(
            figure,
            title,
            f"How much each pixel of a {width} × {height} input changes the unit at the map's centre (white frame: its cell): mean "
            f"over images of the absolute gradient, each field divided by its greatest value; {100 * FLOOR:g}% of that and less is "
            f"darkest. Below: root of the number of pixels above {100 * THRESHOLD:.2f}% of the greatest (Luo et al. 2016), and "
            "the part of the sum that comes from outside the frame.",
        )
