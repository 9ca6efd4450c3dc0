"""Show how far each run of a grid is, from the grid's folder alone. Asks no process of the grid, and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simple_parsing import field

from common.cli import read_command
from common.progress import Console
from rundir.failure import failure_of
from rundir.lock import is_running
from training.grids.launchers.cells import CellState, read_states, table_of
from training.grids.launchers.slurm import queued, read_jobs, status_of


@dataclass(kw_only=True)
class StatusCommand:
    """How far each cell of a grid is, from the grid's folder, and from SLURM's queue where there is one."""

    out: str = field(positional=True, metavar="OUT")
    """the folder that compare was given as --out"""


def main(words: Sequence[str]) -> int:
    return status(read_command("status", __doc__, StatusCommand, words))


def status(command: StatusCommand) -> int:
    """Print a grid's cells. Raises UserError if the folder holds no grid."""
    out = Path(command.out)
    states, jobs = read_states(out), read_jobs(out)
    queue = queued() if jobs else None
    for state in states:
        if queue is not None and state.cell.name in jobs:
            state.status = status_of(state, jobs, queue)
        else:
            state.status = status_in_folder(state)
    console = Console()
    console.print(table_of(states, console.width))
    return 0


def status_in_folder(state: CellState) -> str:
    """``done``, ``running`` while a process holds the run directory, ``failed`` or ``stopped`` if one held it, else ``waiting``."""
    if state.is_done:
        return "done"
    running = is_running(state.directory)
    if not running and failure_of(state.directory):
        return "failed"
    return {True: "running", False: "stopped", None: "waiting"}[running]
