"""The command ``run.py compare``: plan a grid, run what is missing, write the report."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common.registry import load_plugin
from reports import build_report
from training.config import CompareCommand
from training.grid import cells_of, fix_backbones, grid_of, options_of_methods
from training.launch import is_done, run_cells, tail_of


def compare(command: CompareCommand, further: Mapping[str, Any]) -> int:
    """Run a grid and write its report.

    Args:
        command: the options of the command itself.
        further: options for every cell that has them.

    Returns:
        exit status: 0, or 1 where a cell failed (the others are run and reported all the same).
    """
    plugins = list(itertools.chain.from_iterable(command.plugin))
    for plugin in plugins:
        load_plugin(plugin)
    grid = grid_of(command, further)
    fix_backbones(grid)
    cells = cells_of(grid, options_of_methods([*grid.methods, *grid.file_methods]))
    out = Path(command.out)
    console = Console()
    if command.dry_run:
        table = Table(title=f"{grid.title}: {len(cells)} runs in {out}", title_justify="left")
        for column in ("run", "status", "options"):
            table.add_column(column)
        for cell in cells:
            done = is_done(out / "runs" / cell.name, cell.options.get("evals") or [])
            given = {k: v for k, v in cell.options.items() if v is not None and k not in ("method", "backbone", "seed")}
            table.add_row(cell.name, "done" if done else "to run", " ".join(f"{k}={v}" for k, v in given.items()))
        console.print(table)
        return 0
    states = run_cells(cells, out, command.jobs, plugins, console)
    failed = [state for state in states if state.status == "failed"]
    for state in failed:
        console.print(f"\n{state.cell.name} failed; the end of {state.log}:\n{tail_of(state)}", markup=False)
    runs = [state.directory for state in states if state.directory.is_dir()]
    if runs:
        page = build_report(runs, out / "report", title=grid.title)
        console.print(f"report: {page}", markup=False, highlight=False, soft_wrap=True)
    return 1 if failed else 0
