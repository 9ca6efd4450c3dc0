"""``run.py visualize collapse``. Needs no torch: everything is in the runs' logs."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from reports.visual.collapse import diagnostics
from reports.visual.cross_correlation_drawing import run_words
from reports.visual.options import CollapseOptions
from reports.visual.paper import save_figure
from rundir.read import read_runs


def draw(options: CollapseOptions) -> list[Path]:
    """One picture, a panel for each diagnostic and a line for each run."""
    runs, problems = read_runs([Path(run) for run in options.runs])
    for run in runs:
        if not run.has_log:
            raise UserError(f"{run.path}: no log.jsonl; give the directory of a training")
    unread = [p for p in problems if not any(str(run.path) == p.where for run in runs)]
    if unread or not runs:
        problem = unread[0] if unread else problems[0]
        raise UserError(f"{problem.where}: {problem.what}")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    about = " ".join(f"{name}: {run_words(run.config)}." for run, name in zip(runs, names, strict=True))
    out = Path(options.out) if options.out else runs[0].path / "figures" if len(runs) == 1 else Path("pictures")
    return save_figure(diagnostics(runs, names, about), out, "collapse", vector=True)
