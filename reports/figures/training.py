"""Draw the logs of trainings. An empty figure is None."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.errors import unreadable
from common.names import short_names
from reports.analysis.rows import Row
from reports.figures.look import MOST_LETTERS, MOST_ROWS, WIDTH, Look, left_out
from reports.visual.collapse import DIAGNOSTICS, Curve, meaning_of, records_with, signs_of_collapse
from reports.visual.core.style import DASHES, Picture, figure_of, picture, style
from reports.visual.cross_correlation import Evolution, film_strip
from rundir.correlation import read_correlations
from rundir.options import as_number
from rundir.paths import correlation_file
from rundir.read import Problem, Run

#: Limits of seeds of a row, panels of a figure, names in a panel's legend, and rows of matrices.
MOST_SEEDS, MOST_PANELS, MOST_NAMES, MOST_MATRICES = 5, 9, 6, 8

Points = tuple[np.ndarray, np.ndarray]


def _over_epochs(run: Run, records: Sequence[Mapping[str, Any]], key: str) -> Points:
    """Epochs (fractions where records have steps) and values of the records with a number."""
    kept = [record for record in records if as_number(record.get(key)) is not None]
    y = np.array([float(record[key]) for record in kept])
    steps = [as_number(record.get("step")) for record in kept]
    last = run.steps[-1] if run.steps else {}
    last_step, last_epoch = as_number(last.get("step")), as_number(last.get("epoch")) or 0
    epochs = as_number(run.config.get("epochs")) if run.end else last_epoch + 1
    if None not in steps and last_step and epochs:
        return np.array(steps) / last_step * epochs, y
    return np.array([as_number(record.get("epoch")) or 0 for record in kept]), y


def _panels(
    rows: Sequence[Row],
    look: Look,
    panel_of: Callable[[Row], str],
    name_of: Callable[[Row], str],
    points_of: Callable[[Run], Points],
    columns: int,
) -> tuple[Figure, dict[str, list[Row]], int] | None:
    """Draw a panel for each ``panel_of`` with a line for each run; return the figure, the panels' rows by title, and the number
    of rows left out; None without curves."""
    panels: dict[str, list[tuple[Row, list[Points]]]] = {}
    drawn = dropped = 0
    for row in rows:
        curves = [points for run in row.runs if len((points := points_of(run))[0]) > 1]
        if not curves:
            continue
        panel = panel_of(row)
        if drawn >= MOST_ROWS or (panel not in panels and len(panels) >= MOST_PANELS):
            dropped += 1
            continue
        drawn += 1
        panels.setdefault(panel, []).append((row, curves[:MOST_SEEDS]))
    if not panels:
        return None
    figure, axes = figure_of(len(panels), columns, WIDTH if len(panels) > 1 else 5.4, 2.35)
    for axis, title, entries in zip(axes, short_names(list(panels), 34), panels.values(), strict=True):
        labels = iter(short_names([name_of(row) for row, _ in entries], MOST_LETTERS))
        for row, curves in entries:
            width, alpha = (1.5, 1) if len(curves) == 1 else (1.1, 0.75)
            label = next(labels)
            for x, y in curves:
                axis.plot(x, y, color=look.colour(row), ls=look.dash(row), alpha=alpha, lw=width, label=label)
                label = None  # the legend has each row once
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if 1 < len({name_of(row) for row, _ in entries}) <= MOST_NAMES:
            axis.legend(handlelength=1.6, labelspacing=0.3, borderaxespad=0.2)
    return figure, {title: [row for row, _ in entries] for title, entries in panels.items()}, dropped


def _words(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def training_curves(rows: Sequence[Row], look: Look) -> Picture | None:
    """Draw the loss of every run, in a panel for each method since losses of different methods are not comparable."""

    def name_of(row: Row) -> str:
        return _words(row.backbone, row.variant)

    with style():
        made = _panels(
            rows, look, lambda row: row.method_name, name_of, lambda run: _over_epochs(run, run.steps, "loss"), 3
        )
        if made is None:
            return None
        figure, panels, dropped = made
        figure.axes[0].set_ylabel("training loss")
        # All lines of a panel have the method's colour, so dashes distinguish rows.
        dashes = {name: DASHES[number % len(DASHES)] for number, name in enumerate(dict.fromkeys(map(name_of, rows)))}
        for axis, drawn in zip(figure.axes, panels.values(), strict=False):
            names, dash = iter(drawn), "-"
            for line in axis.lines:
                if not line.get_label().startswith("_"):  # further lines of a row have no label
                    dash = dashes[name_of(next(names))]
                line.set_linestyle(dash)
            losses = [line.get_ydata() for line in axis.lines]
            if min(y.min() for y in losses) > 0 and max(y.max() / y.min() for y in losses) > 20:
                axis.set_yscale("log")
            if axis.get_legend() is not None:
                axis.legend(handlelength=2.2, labelspacing=0.3, borderaxespad=0.2)
        return picture(
            figure,
            "training-loss",
            "Training loss",
            "One line a run. Losses of different methods measure different things, so each method has its own scale; a lower "
            "loss of one method than of another says nothing." + left_out(dropped),
            f"Training loss over epochs for {', '.join(panels)}.",
        )


def knn_curves(rows: Sequence[Row], look: Look) -> Picture | None:
    """Draw online k-NN over epochs, a panel for each backbone and data set."""
    several = len({row.data for row in rows}) > 1

    def panel_of(row: Row) -> str:
        return _words(row.backbone, row.settings["data"] if several else "")

    def name_of(row: Row) -> str:
        return _words(row.method_name, row.variant)

    with style():
        made = _panels(rows, look, panel_of, name_of, lambda run: _over_epochs(run, run.knn, "top1"), 2)
        if made is None:
            return None
        figure, panels, dropped = made
        figure.axes[0].set_ylabel("k-NN top-1 (%)")
        crowded = any(axis.get_legend() is None and len(axis.lines) > 1 for axis in figure.axes)
        if crowded or not any(row.variant for row in rows):  # one legend for all panels
            for axis in figure.axes:
                if axis.get_legend() is not None:
                    axis.get_legend().remove()
            look.legend(figure, [row for row in rows if any(run.knn for run in row.runs)], lines=None)
        return picture(
            figure,
            "knn-over-epochs",
            "k-NN accuracy during training",
            "One line a run. Weighted k-NN from training images to training images held out for this purpose, which is not the "
            "test split of the tables." + left_out(dropped),
            f"Online k-NN accuracy over epochs on {', '.join(panels)}.",
        )


def collapse(rows: Sequence[Row], look: Look) -> Picture | None:
    """Draw a panel for each logged diagnostic, with a line for each row (its first seed)."""
    trained = [row for row in rows if any(run.diagnostics or run.steps for run in row.runs)]
    curves: dict[str, list[Curve]] = {}
    for row in trained[:MOST_ROWS]:
        line = {"color": look.colour(row), "ls": look.backbone_dash(row), "lw": 1.3}
        for key in DIAGNOSTICS:
            x, y = _over_epochs(row.runs[0], records_with(row.runs[0], key), key)
            if len(x) > 1:
                curves.setdefault(key, []).append(Curve(row.label, x, y, line))
    if not curves:
        return None
    with style():
        figure = signs_of_collapse(curves, 3 if len(curves) > 2 else 2, WIDTH, 2.35, "epoch")
        look.legend(figure, trained[:MOST_ROWS], lines=True)
        return picture(
            figure,
            "collapse",
            "Signs of collapse during training",
            f"{meaning_of(curves)} The first seed of each row." + left_out(max(0, len(trained) - MOST_ROWS)),
            f"Curves of {', '.join(DIAGNOSTICS[key][0] for key in curves)} over epochs.",
        )


def cross_correlation(rows: Sequence[Row], problems: list[Problem], colours: str) -> Picture | None:
    """Draw a line of cross-correlation matrices for each row, of its first seed that has them; unreadable files become problems."""
    evolutions: list[Evolution] = []
    dropped = 0
    for row in rows:
        name = "\n".join(filter(None, (row.method_name, row.backbone, row.variant)))
        for run in row.runs:
            file = correlation_file(run.path)
            if len(evolutions) == MOST_MATRICES and file.exists():
                dropped += 1
                break
            try:
                evolutions.append(Evolution(**vars(read_correlations(run.path)), name=name, about=row.label))
                break
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                problems.append(Problem(str(file), f"{unreadable(error)}; not drawn"))
    if not evolutions:
        return None
    with style():
        return picture(
            film_strip(evolutions, colours, frames=5, most=192),
            "cross-correlation",
            "Cross-correlation of two views’ projections",
            "Entry i, j: correlation of feature i of one view with feature j of the other, over images. Barlow Twins drives it to "
            "the identity; the other methods are shown for comparison. Evenly spaced features where there are many."
            + left_out(dropped),
            f"Heatmaps of cross-correlation matrices over training for {', '.join(evolution.about for evolution in evolutions)}.",
        )
