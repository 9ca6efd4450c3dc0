"""Draw signs of collapse from a training's log; reports draw the same panels (``signs_of_collapse``)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from simple_parsing import field

from common.errors import UserError
from reports.visual.core.base import VISUALIZATIONS, Visualization
from reports.visual.core.runs import names_of, run_words
from reports.visual.core.style import figure_of, headed, line_look, save_figure, style
from rundir.options import as_number
from rundir.paths import LOG
from rundir.read import Run, read_runs

#: Signs of collapse by key in the log: name, and meaning.
DIAGNOSTICS = {
    "effective_rank": ("effective rank", "dimensions that features really use; near 1 they have collapsed"),
    "projection_rank": (
        "effective rank, projections",
        "the same of a batch’s projections, so that it can be less than the batch",
    ),
    "feature_std": ("feature std", "1 where features are spread evenly over the sphere, 0 where all images look alike"),
    "alignment": ("alignment", "distance of two views of an image; 0 at best"),
    "uniformity": ("uniformity", "0 where all images look alike; lower is more even"),
    "on_diagonal": ("cross-correlation, diagonal", "its mean; 1 where two views of an image agree"),
    "off_diagonal": ("cross-correlation, rest", "its root mean square; 0 where features say different things"),
    "teacher_entropy": ("teacher entropy", "0 where an image has one prototype, ln K where the teacher says nothing"),
    "kl": ("KL, teacher to student", "near 0 with a constant entropy: nothing left to learn"),
}


@VISUALIZATIONS.register("collapse")
@dataclass(kw_only=True)
class Collapse(Visualization):
    """Signs of collapse over training: teacher entropy, KL, effective rank, feature std, alignment, uniformity."""

    runs: list[str] = field(positional=True)
    """run directories"""

    def draw(self) -> list[Path]:
        """Write one picture."""
        runs, problems = read_runs([Path(run) for run in self.runs])
        for run in runs:
            if not run.has_log:
                raise UserError(f"{run.path}: no {LOG}; give the directory of a training")
        read = {str(run.path) for run in runs}
        for problem in problems:
            if problem.where not in read:
                raise UserError(f"{problem.where}: {problem.what}")
        figure = diagnostics(runs, names_of([str(run.path) for run in runs]))
        folder = self.folder(*(str(run.path) for run in runs))
        return save_figure(figure, folder, "collapse")


@dataclass(frozen=True)
class Curve:
    """A line of a panel, with matplotlib's properties, and the upper bound of ``y``, drawn dotted."""

    name: str
    x: np.ndarray
    y: np.ndarray
    look: Mapping[str, Any]
    limit: float | None = None


def records_with(run: Run, key: str) -> list[dict[str, Any]]:
    """The log's records with a number under ``key``. The ``effective_rank`` of steps is of a batch's projections, which is another
    quantity than that of the evaluated features, and has the key ``projection_rank``."""
    features = [record for record in run.diagnostics if record.get("kind") != "step"]
    steps = [
        {**record, "projection_rank": record.get("effective_rank"), "effective_rank": None} for record in run.steps
    ]
    for records in (features, steps):
        if numbers := [record for record in records if as_number(record.get(key)) is not None]:
            return numbers
    return []


def meaning_of(keys: Collection[str]) -> str:
    """Explain diagnostics, a sentence each."""
    return " ".join(f"{name[0].upper()}{name[1:]}: {means}." for name, means in (DIAGNOSTICS[key] for key in keys))


def signs_of_collapse(
    curves: Mapping[str, Sequence[Curve]], columns: int, width: float, height: float, xlabel: str
) -> Figure:
    """Draw a panel for each diagnostic; ``curves`` by key of ``DIAGNOSTICS``, sizes as for ``figure_of``."""
    figure, axes = figure_of(len(curves), columns, width, height)
    for axis, (key, lines) in zip(axes, curves.items(), strict=True):
        for line in lines:
            axis.plot(line.x, line.y, **line.look)
            if line.limit is not None:
                axis.axhline(line.limit, lw=0.9, ls=":", color=line.look["color"])
        axis.set_title(DIAGNOSTICS[key][0])
        axis.set_xlabel(xlabel)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def diagnostics(runs: Sequence[Run], names: Sequence[str]) -> Figure:
    """Draw a panel for each diagnostic, a line for each run, against images seen. Raises UserError if none was logged twice."""
    curves: dict[str, list[Curve]] = {}
    for key in DIAGNOSTICS:
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            records = [record for record in records_with(run, key) if as_number(record.get("step")) is not None]
            if len(records) > 1:
                batch = as_number(run.config.get("batch_size")) or 1
                x = np.array([float(record["step"]) for record in records]) * batch / 1000
                y = np.array([float(record[key]) for record in records])
                outputs = as_number(run.config.get("out_dim")) if key == "teacher_entropy" else None
                limit = math.log(outputs) if outputs and outputs > 0 else None
                curves.setdefault(key, []).append(Curve(name, x, y, line_look(number, len(x)), limit))
    if not curves:
        raise UserError(f"{runs[0].path}: its {LOG} holds no diagnostics at two or more times; train for longer")
    columns = 3 if len(curves) in (5, 6, 9) else min(4, len(curves))
    with style():
        height = 1.9 + 0.75 / -(-len(curves) // columns)
        figure = signs_of_collapse(curves, columns, max(2.25 * columns, 4.2), height, "thousand images seen")
        looks = {curve.name: curve.look for lines in curves.values() for curve in lines}
        handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        figure.legend(handles=handles, loc="outside upper right", ncols=min(4, len(handles)), fontsize=7.5)
        about = " ".join(f"{name}: {run_words(run.config)}." for run, name in zip(runs, names, strict=True))
        caption = meaning_of(curves) + (" Dotted: ln K." if "teacher_entropy" in curves else "")
        if warned := [f"{name}: {run.warnings[0]}" for run, name in zip(runs, names, strict=True) if run.warnings]:
            caption += f" The runs warned: {' '.join(warned)}"
        return headed(figure, f"Signs of collapse over training\n{about}", caption)
