"""Draw methods over their settings. An empty figure is None."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.names import short, short_names
from reports.analysis.comparison import Comparison
from reports.analysis.robustness import Distribution
from reports.figures.comparison import title_panel
from reports.figures.look import MOST_LETTERS, MOST_ROWS, WIDTH, Look, left_out
from reports.visual.core.style import FAINT, INK, Picture, figure_of, picture, style

#: Half the height of a box, and how far its points lie from its middle, in lines.
HALF, SPREAD = 0.3, 0.22


def over_settings(comparison: Comparison, made: Sequence[Distribution], look: Look, name: str) -> Picture | None:
    """Draw, for each headline column, a line for each family: a box, a dot for each setting and a small one for each run."""
    if not made:
        return None
    families = list({id(one.family): one.family for one in made}.values())
    dropped, families = len(families[MOST_ROWS:]), families[:MOST_ROWS]
    lines = {id(family): line for line, family in enumerate(families)}
    made = [one for one in made if id(one.family) in lines]
    columns = list(dict.fromkeys(one.column for one in made))
    with style():
        width = WIDTH if len(columns) > 1 else 5.6
        figure, axes = figure_of(len(columns), 3, width, 1.0 + 0.55 * len(families), sharey=True)
        for axis, column in zip(axes, columns, strict=True):
            own = [one for one in made if one.column == column]
            for one in own:
                _draw(axis, one, lines[id(one.family)], look.colour(one.rows[0]))
            for untrained in dict.fromkeys(value for one in own for value in one.untrained):
                axis.axvline(untrained, color=FAINT, lw=1.1, ls="--", zorder=1)
            title_panel(axis, comparison, column)
            axis.grid(axis="y", visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        axes[0].set_yticks(range(len(families)), short_names([family.name for family in families], MOST_LETTERS))
        axes[0].set_ylim(len(families) - 0.4, -0.6)
        marks = [
            Line2D([], [], ls="", marker="o", ms=5, color=INK, label="setting"),
            Line2D([], [], ls="", marker="o", ms=2.2, color=INK, alpha=0.6, label="run"),
        ]
        anywhere = any(one.collapsed.any() for one in made)
        if anywhere:
            marks.append(Line2D([], [], ls="", marker="x", ms=4.5, color=INK, label="collapsed run"))
        if any(one.untrained for one in made):
            marks.append(Line2D([], [], color=FAINT, lw=1.1, ls="--", label="untrained"))
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), handlelength=1.8)
        failed = sum(family.failed for family in families)
        crosses = " Crosses: runs with signs of collapse when training ended." if anywhere else ""
        names = ", ".join(family.name for family in families)
        return picture(
            figure,
            name,
            "Robustness: methods over their settings",
            "Each dot: a setting’s mean over seeds; each small dot: a run. Boxes: quartiles of the settings; thick lines: their "
            f"medians.{crosses}"
            + (f" {failed} failed runs have no measurement." if failed else "")
            + left_out(dropped),
            f"Settings of {short(names, 200)} by {', '.join(comparison.columns[column].name for column in columns)}.",
        )


def _draw(axis: Axes, one: Distribution, line: int, colour: str) -> None:
    """Draw a family's distribution on a line."""
    low, median, high = np.quantile(one.means, [0.25, 0.5, 0.75])
    axis.fill_between([low, high], line - HALF, line + HALF, color=colour, alpha=0.2, lw=0)
    axis.plot([median, median], [line - HALF, line + HALF], color=colour, lw=2.6, solid_capstyle="butt", zorder=2)
    # Dots lie apart from each other in the order of their values, the same in every report.
    axis.plot(one.means, _apart(one.means, line), "o", color=colour, ms=5, mec="white", mew=0.5, zorder=4)
    beside = _apart(one.values, line)
    fine = ~one.collapsed
    axis.plot(one.values[fine], beside[fine], "o", color=colour, ms=2.2, mec="none", alpha=0.6, zorder=3)
    axis.plot(one.values[one.collapsed], beside[one.collapsed], "x", color=INK, ms=4.5, mew=1, zorder=5)


def _apart(values: np.ndarray, line: int) -> np.ndarray:
    """Heights around a line that keep neighbours apart."""
    turns = np.empty(len(values))
    turns[np.argsort(values, kind="stable")] = np.array([0, 1, -1, 0.5, -0.5])[np.arange(len(values)) % 5]
    return line + SPREAD * turns
