"""Signs of collapse over a training, from its log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from common.errors import UserError
from reports.figures.figures import DIAGNOSTICS
from reports.visual.cross_correlation_drawing import run_words
from reports.visual.options import CollapseOptions
from reports.visual.style import COLOURS, DASHES, grid, headed, save_figure, sentence, style
from rundir.paths import FIGURES, LOG
from rundir.read import Run, read_runs

COLUMNS = 4


def series(run: Run, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images seen (thousands) and values of one diagnostic, from the records of the evaluated backbone's features where it is
    there, else from those of the steps."""
    features = [record for record in run.diagnostics if record.get("kind") == "diagnostics" and key in record]
    batch = run.config.get("batch_size", 1)
    kept = [r for r in features or run.steps if isinstance(r.get(key), (int, float)) and isinstance(r.get("step"), int)]
    return np.array([r["step"] * batch / 1000 for r in kept]), np.array([float(r[key]) for r in kept])


def diagnostics(runs: Sequence[Run], names: Sequence[str], about: str) -> Figure:
    """A panel for each diagnostic that any run has logged at least twice, a line for each run.

    Args:
        names: of the runs, for the legend.
        about: what they are, for the caption.

    Raises:
        UserError: there is none.
    """
    keys = [key for key in DIAGNOSTICS if any(len(series(run, key)[0]) > 1 for run in runs)]
    if not keys:
        raise UserError(f"{runs[0].path}: its {LOG} holds no diagnostics at two or more times; train for longer")
    columns = 3 if len(keys) in (5, 6, 9) else min(COLUMNS, len(keys))
    with style():
        figure, axes = grid(-(-len(keys) // columns), columns, 2.25, 1.9)
        handles = {}
        for axis in axes.ravel()[len(keys) :]:
            axis.set_axis_off()
        for axis, key in zip(axes.ravel(), keys, strict=False):
            for number, (run, name) in enumerate(zip(runs, names, strict=True)):
                x, y = series(run, key)
                if len(x) < 2:
                    continue
                dash = DASHES[number // len(COLOURS) % len(DASHES)]
                look = {"color": COLOURS[number % len(COLOURS)], "ls": (0, dash) if dash else "-"}
                (handles[name],) = axis.plot(x, y, lw=1.4, marker="o" if len(x) < 12 else None, ms=2.6, **look)
                outputs = run.config.get("out_dim")
                if key == "teacher_entropy" and outputs:
                    axis.axhline(math.log(outputs), lw=0.9, ls=":", color=look["color"])
            axis.set_title(DIAGNOSTICS[key][0], fontsize=8.5)
        for axis in axes[-1]:
            axis.set_xlabel("thousand images seen", fontsize=7.5)
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper right", ncols=min(4, len(handles)), fontsize=7.5
        )
        told = " ".join(f"{sentence(DIAGNOSTICS[key][0])}: {DIAGNOSTICS[key][1]}." for key in keys)
        if "teacher_entropy" in keys:
            told += " Dotted: ln K."
        warned = [f"{name}: {run.warnings[0]}" for run, name in zip(runs, names, strict=True) if run.warnings]
        if warned:
            told += " The runs warned: " + " ".join(warned)
        return headed(figure, f"Signs of collapse over training\n{about}", told)


def draw(options: CollapseOptions) -> list[Path]:
    """One picture, a panel for each diagnostic and a line for each run."""
    runs, problems = read_runs([Path(run) for run in options.runs])
    for run in runs:
        if not run.has_log:
            raise UserError(f"{run.path}: no {LOG}; give the directory of a training")
    unread = [p for p in problems if not any(str(run.path) == p.where for run in runs)]
    if unread or not runs:
        problem = unread[0] if unread else problems[0]
        raise UserError(f"{problem.where}: {problem.what}")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    about = " ".join(f"{name}: {run_words(run.config)}." for run, name in zip(runs, names, strict=True))
    out = Path(options.out) if options.out else runs[0].path / FIGURES if len(runs) == 1 else Path("pictures")
    return save_figure(diagnostics(runs, names, about), out, "collapse", vector=True)
