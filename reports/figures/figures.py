"""The report's figures. Each function returns a picture, or None where the runs hold nothing to draw."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from common.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.rows import Row
from reports.visual.collapse import DIAGNOSTICS, Curve, meaning_of, records_with, signs_of_collapse
from reports.visual.core.style import COLOURS, DASHES, FAINT, MARKERS, RULE, Picture, figure_of, picture, style
from reports.visual.cross_correlation import Evolution, film_strip, read_evolution
from rundir.paths import correlation_file
from rundir.read import Problem, Run

#: Rows drawn in one figure of curves or matrices; panels of one figure.
MOST_ROWS, MOST_MATRICES, MOST_PANELS = 24, 8, 9
#: Names in the legend of a panel.
MOST_NAMES = 6
WIDTH = 8.4


def short(name: str, most: int = 40) -> str:
    """A name that fits beside a drawing."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


class Look:
    """One colour a method, one marker a backbone, one dash a variant: the same in all figures of a report."""

    def __init__(self, rows: Sequence[Row]):
        self._methods = list(dict.fromkeys(row.method for row in rows if row.trained))
        self._backbones = list(dict.fromkeys(row.backbone for row in rows))
        variants: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            variants.setdefault((row.method, row.backbone), []).append(row.variant)
        self._variants = variants

    def colour(self, row: Row) -> str:
        if not row.trained:
            return FAINT
        return COLOURS[self._methods.index(row.method) % len(COLOURS)]

    def marker(self, row: Row) -> str:
        return MARKERS[self._backbones.index(row.backbone) % len(MARKERS)]

    def dash(self, row: Row) -> Any:
        return DASHES[self._variants[row.method, row.backbone].index(row.variant) % len(DASHES)]


def intervals(comparison: Comparison, look: Look, name: str) -> Picture | None:
    """A dot and its interval for every row and headline column."""
    shown, rest = comparison.rows[:MOST_ROWS], max(0, len(comparison.rows) - MOST_ROWS)
    columns = [c for c in comparison.headline if any((row, c) in comparison.cells for row in range(len(shown)))]
    if not columns:
        return None
    with style():
        height = 0.9 + 0.27 * len(shown)
        figure, axes = figure_of(len(columns), 3, WIDTH, height, sharey=True)
        for axis, column in zip(axes, columns, strict=True):
            for position, row in enumerate(shown):
                cell = comparison.cells.get((position, column))
                if cell is None:
                    continue
                colour = look.colour(row)
                if cell.images:
                    axis.plot(cell.images, [position] * 2, color=colour, lw=5, alpha=0.32, solid_capstyle="butt")
                if cell.over_seeds.low is not None:
                    spread = [cell.over_seeds.low, cell.over_seeds.high]
                    axis.plot(spread, [position] * 2, color=colour, lw=1.1, marker="|", ms=5, mew=1.1)
                axis.plot(cell.over_seeds.mean, position, look.marker(row), color=colour, ms=5.5, mec="none")
            axis.set_title(textwrap.fill(short(comparison.columns[column].name, 52), 26))
            axis.grid(axis="y", visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            _fit(axis, comparison, column, len(shown))
            for block in comparison.blocks[1:]:
                if block[0] < len(shown):
                    axis.axhline(block[0] - 0.5, color=RULE, lw=0.8)
        axes[0].set_yticks(range(len(shown)), [short(row.label) for row in shown])
        axes[0].set_ylim(len(shown) - 0.4, -0.6)
        for axis in axes:
            axis.tick_params(axis="y", length=0)
            axis.spines["left"].set_visible(False)
        return picture(
            figure,
            name,
            "Every row with its uncertainty",
            "Dots: means over seeds. Broad bars: 95% bootstrap intervals over test images, the trainings taken as given. Thin "
            "lines: 95% t intervals over seeds (none for a single seed; cut off at the frame where they are wider). "
            "Overlapping intervals do not mean that there is no difference: the tests are paired."
            + (f" The first {MOST_ROWS} rows; {rest} more are in the table." if rest else ""),
            f"Interval plot of {', '.join(comparison.columns[c].name for c in columns)} for {len(shown)} rows.",
        )


def _fit(axis: Any, comparison: Comparison, column: int, rows: int) -> None:
    """Limits that show means and intervals over images, and of the (with few seeds very wide) intervals over seeds as
    much as leaves the rest readable."""
    cells = [comparison.cells[row, column] for row in range(rows) if (row, column) in comparison.cells]
    inner = [value for cell in cells for value in (cell.over_seeds.mean, *(cell.images or ()))]
    outer = [value for cell in cells for value in (cell.over_seeds.low, cell.over_seeds.high) if value is not None]
    low, high = min(inner), max(inner)
    room = max(0.5 * (high - low), 1e-3)
    low, high = max(low - room, min([low, *outer])), min(high + room, max([high, *outer]))
    margin = 0.04 * (high - low) or 0.5
    axis.set_xlim(low - margin, high + margin)


def _over_epochs(run: Run, records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs trained (fractions where records say their step) and values, where there is a number."""
    kept = [record for record in records if isinstance(record.get(key), (int, float))]
    y = np.array([float(record[key]) for record in kept])
    steps = [record.get("step") for record in kept]
    last = run.steps[-1] if run.steps else {}
    epochs = run.config.get("epochs") if run.end else last.get("epoch", 0) + 1
    if all(isinstance(step, int) for step in [*steps, last.get("step")]) and last["step"] and epochs:
        return np.array(steps) / last["step"] * epochs, y
    return np.array([float(record.get("epoch") or 0) for record in kept]), y


def _panels(
    rows: Sequence[Row],
    look: Look,
    panel_of: Callable[[Row], str],
    curve_of: Callable[[Run], tuple[np.ndarray, np.ndarray]],
    name_of: Callable[[Row], str],
    ylabel: str,
    columns: int = 3,
    log: Callable[[list[np.ndarray]], bool] = lambda curves: False,
) -> tuple[Any, list[str], int] | None:
    """Curves over epochs, a panel for each value of ``panel_of``, a line for each run. Returns the figure, the panels'
    titles, and how many rows were left out."""
    curves: dict[str, list[tuple[Row, list[tuple[np.ndarray, np.ndarray]]]]] = {}
    drawn = dropped = 0
    for row in rows:
        found = [curve for run in row.runs if len((curve := curve_of(run))[0]) > 1]
        if not found:
            continue
        panel = panel_of(row)
        if drawn >= MOST_ROWS or (panel not in curves and len(curves) >= MOST_PANELS):
            dropped += 1
            continue
        drawn += 1
        curves.setdefault(panel, []).append((row, found[:5]))
    if not curves:
        return None
    figure, axes = figure_of(len(curves), columns, WIDTH if len(curves) > 1 else 5.4, 2.35)
    for axis, (title, entries) in zip(axes, curves.items(), strict=True):
        for row, found in entries:
            for number, (x, y) in enumerate(found):
                axis.plot(
                    x,
                    y,
                    color=look.colour(row),
                    ls=look.dash(row),
                    alpha=1 if len(found) == 1 else 0.75,
                    lw=1.5 if len(found) == 1 else 1.1,
                    label=short(name_of(row)) if number == 0 else None,
                )
        if log([y for _, found in entries for _, y in found]):
            axis.set_yscale("log")
        axis.set_title(short(title, 34))
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if 1 < len({name_of(row) for row, _ in entries}) <= MOST_NAMES:
            axis.legend(handlelength=1.6, labelspacing=0.3, borderaxespad=0.2)
    axes[0].set_ylabel(ylabel)
    return figure, list(curves), dropped


def _left_out(dropped: int) -> str:
    return f" {dropped} more rows are not drawn." if dropped else ""


def training_curves(rows: Sequence[Row], look: Look) -> Picture | None:
    """The loss of every run, a panel for each method: losses of different methods cannot be compared."""
    with style():
        made = _panels(
            rows,
            look,
            lambda row: row.method_name,
            lambda run: _over_epochs(run, run.steps, "loss"),
            lambda row: ", ".join(filter(None, (row.backbone, row.variant))),
            "training loss",
            log=lambda curves: min(y.min() for y in curves) > 0 and max(y.max() / y.min() for y in curves) > 20,
        )
        if made is None:
            return None
        figure, panels, dropped = made
        _tell_backbones_apart(figure, rows)
        return picture(
            figure,
            "training-loss",
            "Training loss",
            "One line a run. Losses of different methods measure different things, so each method has its own scale; a lower "
            "loss of one method than of another says nothing." + _left_out(dropped),
            f"Training loss over epochs for {', '.join(panels)}.",
        )


def _tell_backbones_apart(figure: Any, rows: Sequence[Row]) -> None:
    """Within a panel of one method the colour is the same: dash by backbone instead."""
    order = list(dict.fromkeys(short(", ".join(filter(None, (row.backbone, row.variant)))) for row in rows))
    for axis in figure.axes:
        label = None
        for line in axis.lines:
            if not line.get_label().startswith("_"):
                label = line.get_label()
            line.set_linestyle(DASHES[order.index(label) % len(DASHES)] if label in order else "-")
        if axis.get_legend() is not None:
            axis.legend(handlelength=2.2, labelspacing=0.3, borderaxespad=0.2)


def knn_curves(rows: Sequence[Row], look: Look) -> Picture | None:
    """Online k-NN over epochs, a panel for each backbone and data set."""
    several = len({row.data for row in rows}) > 1
    with style():
        made = _panels(
            rows,
            look,
            lambda row: f"{row.backbone}, {row.settings['data']}" if several else row.backbone,
            lambda run: _over_epochs(run, run.knn, "top1"),
            lambda row: ", ".join(filter(None, (row.method_name, row.variant))),
            "k-NN top-1 (%)",
            columns=2,
        )
        if made is None:
            return None
        figure, panels, dropped = made
        crowded = any(axis.get_legend() is None and len(axis.lines) > 1 for axis in figure.axes)
        if crowded or not any(row.variant for row in rows):  # one legend for all panels
            for axis in figure.axes:
                if axis.get_legend() is not None:
                    axis.get_legend().remove()
            _legend(figure, [row for row in rows if any(run.knn for run in row.runs)], look, lines=None)
        return picture(
            figure,
            "knn-over-epochs",
            "k-NN accuracy during training",
            "One line a run. Weighted k-NN from training images to training images held out for this purpose, which is not the "
            "test split of the tables." + _left_out(dropped),
            f"Online k-NN accuracy over epochs on {', '.join(panels)}.",
        )


def collapse_signs(rows: Sequence[Row], look: Look) -> Picture | None:
    """The diagnostics that runs have logged, a panel each; one line a row (its first seed)."""
    trained = [row for row in rows if any(run.diagnostics or run.steps for run in row.runs)]
    backbones = list(dict.fromkeys(row.backbone for row in trained))
    curves: dict[str, list[Curve]] = {}
    for key in DIAGNOSTICS:
        for row in trained[:MOST_ROWS]:
            x, y = _over_epochs(row.runs[0], records_with(row.runs[0], key), key)
            if len(x) > 1:
                line = {"color": look.colour(row), "ls": DASHES[backbones.index(row.backbone) % len(DASHES)], "lw": 1.3}
                curves.setdefault(key, []).append(Curve(row.label, x, y, line))
    if not curves:
        return None
    with style():
        figure = signs_of_collapse(curves, 3 if len(curves) > 2 else 2, WIDTH, 2.35, "epoch")
        _legend(figure, trained[:MOST_ROWS], look, lines=True)
        return picture(
            figure,
            "collapse",
            "Signs of collapse during training",
            f"{meaning_of(curves)} The first seed of each row." + _left_out(max(0, len(trained) - MOST_ROWS)),
            f"Curves of {', '.join(DIAGNOSTICS[key][0] for key in curves)} over epochs.",
        )


def _legend(figure: Any, rows: Sequence[Row], look: Look, lines: bool | None) -> None:
    """Colours of methods below the axes, and of several backbones the dashes (``lines``), markers (False) or nothing (None)."""
    handles: list[Line2D] = []
    methods = {row.method: row for row in reversed(rows)}
    for row in reversed(methods.values()):
        handles.append(Line2D([], [], color=look.colour(row), lw=2.4, label=short(row.method_name)))
    backbones = list(dict.fromkeys(row.backbone for row in rows))
    if len(backbones) > 1 and lines is not None:
        for position, backbone in enumerate(backbones):
            row = next(row for row in rows if row.backbone == backbone)
            dash = DASHES[position % len(DASHES)]
            more = {"ls": dash} if lines else {"ls": "", "marker": look.marker(row), "ms": 5}
            handles.append(Line2D([], [], color=FAINT, lw=1.3, label=short(backbone), **more))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(len(handles), 5), handlelength=2, columnspacing=1.4
    )


def cost_and_accuracy(comparison: Comparison, look: Look, name: str) -> Picture | None:
    """Headline columns against device-minutes, and the front of what is not worse in both."""
    timed = [position for position, row in enumerate(comparison.rows) if row.cost["minutes"]]
    columns = [c for c in comparison.headline if sum((row, c) in comparison.cells for row in timed) > 1]
    if not columns:
        return None
    bars = len(timed) <= 4 * MOST_ROWS
    with style():
        figure, axes = figure_of(len(columns), 3 if len(columns) > 2 else 2, WIDTH if len(columns) > 1 else 4.6, 2.9)
        for axis, column in zip(axes, columns, strict=True):
            points = [
                (row.cost["minutes"], comparison.cells[position, column].over_seeds, row)
                for position, row in enumerate(comparison.rows)
                if position in timed and (position, column) in comparison.cells
            ]
            sign = comparison.columns[column].sign
            front: list[tuple[float, float]] = []
            for minutes, summary, _ in sorted(points, key=lambda point: (point[0], -sign * point[1].mean)):
                if not front or sign * summary.mean > sign * front[-1][1]:
                    front.append((minutes, summary.mean))
            axis.step(*zip(*front, strict=True), where="post", color=FAINT, lw=0.9, zorder=1)
            for minutes, summary, row in points:
                if summary.std and bars:
                    spread = (summary.mean - summary.std, summary.mean + summary.std)
                    axis.plot((minutes, minutes), spread, color=look.colour(row), lw=1)
                axis.plot(minutes, summary.mean, look.marker(row), color=look.colour(row), ms=6, mec="none")
            if max(p[0] for p in points) > 8 * min(p[0] for p in points):
                axis.set_xscale("log")
            axis.set_title(textwrap.fill(short(comparison.columns[column].name, 52), 26))
            axis.set_xlabel("device-minutes")
        _legend(figure, [comparison.rows[position] for position in timed], look, lines=False)
        devices = {comparison.rows[position].device for position in timed}
        different = (
            " The rows ran on different devices, so their minutes are not comparable." if len(devices) > 1 else ""
        )
        return picture(
            figure,
            name,
            "Accuracy against cost",
            f"Means over seeds{' (± std)' if bars else ''} against the device-minutes of a training. The grey steps join the "
            f"rows that no other row beats in both.{different}",
            "Scatter plot of accuracy against device-minutes with the Pareto front.",
        )


def cross_correlation(rows: Sequence[Row], problems: list[Problem], palette: str) -> Picture | None:
    """The cross-correlation of two views' projections over training: a line of matrices a row, of its first seed with any."""
    evolutions: list[Evolution] = []
    for row in rows:
        name = "\n".join(short(part, 24) for part in (row.method_name, row.backbone, row.variant) if part)
        for run in row.runs:
            file = correlation_file(run.path)
            if not file.exists():
                continue
            try:
                evolutions.append(read_evolution(run.path, name, row.label))
                break
            except UserError as error:
                problems.append(Problem(str(file), f"not drawn: {str(error).removeprefix(f'{file}: ')}"))
    if not evolutions:
        return None
    shown = evolutions[:MOST_MATRICES]
    with style():
        return picture(
            film_strip(shown, palette, frames=5, most=192),
            "cross-correlation",
            "Cross-correlation of two views’ projections",
            "Entry i, j: correlation of feature i of one view with feature j of the other, over images. Barlow Twins drives it to "
            "the identity; the other methods are shown for comparison. Evenly spaced features where there are many."
            + _left_out(len(evolutions) - len(shown)),
            f"Heatmaps of cross-correlation matrices over training for {', '.join(e.about for e in shown)}.",
        )
