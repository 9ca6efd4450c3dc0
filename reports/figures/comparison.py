"""Draw a comparison: every row with its uncertainty, and accuracy against cost. An empty figure is None."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Transform

from common.names import short, short_names
from reports.analysis.columns import Cell
from reports.analysis.comparison import Comparison
from reports.figures.look import MOST_LETTERS, MOST_ROWS, WIDTH, Look
from reports.visual.core.style import FAINT, RULE, Picture, figure_of, picture, style

#: With more rows, no bars of standard deviations.
MOST_BARS = 96
#: For captions: what ``draw_intervals`` draws.
UNCERTAINTY = (
    "Dots: means over seeds. Broad bars: 95% bootstrap intervals over test images, the trainings taken as given. Thin lines: 95% t "
    "intervals over seeds (none for a single seed; cut off at the frame where they are wider)."
)


def title_panel(axis: Axes, comparison: Comparison, column: int) -> None:
    """Put a column's name above a panel."""
    axis.set_title(textwrap.fill(short(comparison.columns[column].name, 52), 26))


def draw_intervals(
    axis: Axes, cell: Cell, place: float, colour: str, upright: bool = False, transform: Transform | None = None
) -> None:
    """Draw a cell's interval over images as a broad bar, and that over seeds as a thin line, across at a ``place`` of the vertical
    axis, or ``upright``. ``transform``: of the data; default: the axes'."""

    def draw(interval: Sequence[float], **line: Any) -> None:
        ends = ([place, place], interval) if upright else (interval, [place, place])
        axis.plot(*ends, color=colour, transform=transform or axis.transData, **line)

    if cell.images:
        draw(cell.images, lw=5, alpha=0.32, solid_capstyle="butt")
    if cell.over_seeds.low is not None:
        draw((cell.over_seeds.low, cell.over_seeds.high), lw=1.1, marker="_" if upright else "|", ms=5, mew=1.1)


def intervals(comparison: Comparison, look: Look, name: str) -> Picture | None:
    """Draw a dot and its intervals for every row and headline column."""
    rows = comparison.rows[:MOST_ROWS]
    rest = len(comparison.rows) - len(rows)
    cells = {
        column: {place: cell for place, cell in comparison.column(column).items() if place < len(rows)}
        for column in comparison.headline
    }
    columns = [column for column in comparison.headline if cells[column]]
    if not columns:
        return None
    with style():
        figure, axes = figure_of(len(columns), 3, WIDTH, 0.9 + 0.27 * len(rows), sharey=True)
        for axis, column in zip(axes, columns, strict=True):
            for position, cell in cells[column].items():
                colour = look.colour(rows[position])
                draw_intervals(axis, cell, position, colour)
                axis.plot(cell.over_seeds.mean, position, look.marker(rows[position]), color=colour, ms=5.5, mec="none")
            title_panel(axis, comparison, column)
            axis.grid(axis="y", visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.set_xlim(*limits_of(cells[column].values()))
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
            for block in comparison.blocks[1:]:
                if block[0] < len(rows):
                    axis.axhline(block[0] - 0.5, color=RULE, lw=0.8)
        axes[0].set_yticks(range(len(rows)), short_names([row.label for row in rows], MOST_LETTERS))
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        return picture(
            figure,
            name,
            "Every row with its uncertainty",
            f"{UNCERTAINTY} Overlapping intervals do not mean that there is no difference: the tests are paired."
            + (f" The first {MOST_ROWS} rows; {rest} more are in the table." if rest else ""),
            f"Interval plot of {', '.join(comparison.columns[c].name for c in columns)} for {len(rows)} rows.",
        )


def limits_of(cells: Collection[Cell]) -> tuple[float, float]:
    """Limits that show means and intervals over images, but cut off the very wide intervals over few seeds."""
    inner = [value for cell in cells for value in (cell.over_seeds.mean, *(cell.images or ()))]
    outer = [value for cell in cells for value in (cell.over_seeds.low, cell.over_seeds.high) if value is not None]
    low, high = min(inner), max(inner)
    room = max(0.5 * (high - low), 1e-3)
    low, high = max(low - room, min([low, *outer])), min(high + room, max([high, *outer]))
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def cost_and_accuracy(comparison: Comparison, look: Look, name: str) -> Picture | None:
    """Draw headline columns against device-minutes, with the Pareto front."""
    timed = {position: row for position, row in enumerate(comparison.rows) if row.cost["minutes"]}
    points = {
        column: [
            (timed[position].cost["minutes"], cell.over_seeds, timed[position])
            for position, cell in comparison.column(column).items()
            if position in timed
        ]
        for column in comparison.headline
    }
    columns = [column for column in comparison.headline if len(points[column]) > 1]
    if not columns:
        return None
    bars = len(timed) <= MOST_BARS
    with style():
        figure, axes = figure_of(len(columns), 3 if len(columns) > 2 else 2, WIDTH if len(columns) > 1 else 4.6, 2.9)
        for axis, column in zip(axes, columns, strict=True):
            sign = comparison.columns[column].sign
            front: list[tuple[float, float]] = []
            for minutes, summary, _ in sorted(points[column], key=lambda point: (point[0], -sign * point[1].mean)):
                if not front or sign * summary.mean > sign * front[-1][1]:
                    front.append((minutes, summary.mean))
            axis.step(*zip(*front, strict=True), where="post", color=FAINT, lw=0.9, zorder=1)
            for minutes, summary, row in points[column]:
                if summary.std and bars:
                    spread = (summary.mean - summary.std, summary.mean + summary.std)
                    axis.plot((minutes, minutes), spread, color=look.colour(row), lw=1)
                axis.plot(minutes, summary.mean, look.marker(row), color=look.colour(row), ms=6, mec="none")
            shortest, longest = (pick(minutes for minutes, _, _ in points[column]) for pick in (min, max))
            if longest > 8 * shortest:
                axis.set_xscale("log")
            title_panel(axis, comparison, column)
            axis.set_xlabel("device-minutes")
        look.legend(figure, list(timed.values()), lines=False)
        several_devices = len({row.device for row in timed.values()}) > 1
        return picture(
            figure,
            name,
            "Accuracy against cost",
            f"Means over seeds{' (± std)' if bars else ''} against the device-minutes of a training. The grey steps join the "
            "rows that no other row beats in both."
            + (" The rows ran on different devices, so their minutes are not comparable." if several_devices else ""),
            "Scatter plot of accuracy against device-minutes with the Pareto front.",
        )
