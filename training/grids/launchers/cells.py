"""The cells of a grid while they run: the state of each, and how it is shown."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.cli import words_of
from common.errors import UsageError, UserError, why
from common.files import read_json, write_json
from common.names import short_names
from common.progress import Console
from rundir.failure import failure_of, write_failure
from rundir.lock import run_lock
from rundir.log import end_of
from rundir.paths import CELLS, output_of, results_file, run_of
from training.grids.grid import Cell
from training.grids.launchers.process import stopping_well
from training.grids.options import CompareCommand
from training.grids.progress import RunProgress, progress_in

#: Seconds between lines on running cells, where no table shows them.
LINE_SECONDS = 60.0
#: Seconds between updates of the table while no cell changes.
TABLE_SECONDS = 2.0
#: Statuses of cells that have ended.
ENDED = ("done", "failed")

Show = Callable[["CellState | None"], None]


@dataclass
class CellState:
    cell: Cell
    directory: Path
    status: str = "waiting"  # waiting, queued, running, done or failed; run.py status also says stopped
    started: float = 0.0
    seconds: float = 0.0
    progress: RunProgress | None = None
    read_as: str = ""  # the status with which ``progress`` was read

    @property
    def log(self) -> Path:
        """The file that takes the output of the cell's process."""
        return output_of(self.directory.parent.parent, self.cell.name)

    @property
    def is_done(self) -> bool:
        return is_done(self.directory, self.cell.options.get("evals") or [])

    def becomes(self, status: str) -> bool:
        """Set the status, and keep the time. True if the status has changed."""
        if status == self.status:
            return False
        if status == "running":
            self.started = time.monotonic()
        elif self.status == "running":
            self.seconds = time.monotonic() - self.started
        self.status = status
        if status == "failed":
            write_failure(self.directory, reason_of(self))
        return True


def is_done(directory: Path, evaluations: Sequence[str]) -> bool:
    """True if the training has ended and every evaluation has its results."""
    return end_of(directory) is not None and all(results_file(directory, name).is_file() for name in evaluations)


def run_cells(
    cells: Sequence[Cell], command: CompareCommand, console: Console, again: Collection[str] = ()
) -> list[CellState]:
    """Run every cell that is not done, and every cell named in ``again``. Prints a table that updates in place, or a line for each
    change if the output is no terminal. Returns the cells' states: done or failed, or any other without ``--wait`` on SLURM.
    Raises UserError if another process runs this grid, or the launcher cannot work here."""
    out = Path(command.out).absolute()
    states = [CellState(cell, run_of(out, cell.name)) for cell in cells]
    for state in states:
        if state.is_done and state.cell.name not in again:
            state.status = "done"
    module = {"ray": "ray_cluster"}.get(command.launch.launcher, command.launch.launcher)  # ray is a package's name
    launch = importlib.import_module(f"training.grids.launchers.{module}").launch
    with run_lock(out):  # two would start each cell twice
        states[0].log.parent.mkdir(exist_ok=True)
        described = [{"name": cell.name, "evals": list(cell.options.get("evals") or [])} for cell in cells]
        write_json(out / CELLS, described)
        with stopping_well(), shown(states, console) as show:
            launch(states, command, show)
    return states


def read_states(out: Path) -> list[CellState]:
    """Read the cells of the last grid in a folder, all as ``waiting``. Raises UserError if the folder holds no grid."""
    try:
        cells = read_json(out / CELLS)
        for cell in cells:
            if not all(isinstance(name, str) for name in [cell["name"], *cell["evals"]]):
                raise ValueError("no names of cells and evaluations")
        return [CellState(Cell(cell["name"], {"evals": cell["evals"]}), run_of(out, cell["name"])) for cell in cells]
    except FileNotFoundError as error:
        raise UsageError(f"{out}: holds no grid; give the folder that compare was given as --out") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / CELLS}: damaged ({why(error)}); the grid's compare command writes it anew") from error


def words_of_cell(state: CellState, command: CompareCommand) -> list[str]:
    """The arguments of ``run.py`` for a cell."""
    words = ["train", *words_of({**state.cell.options, "out": str(state.directory)})]
    for plugin in itertools.chain.from_iterable(command.plugin):
        words += ["--plugin", plugin]
    return words


def progress_of(state: CellState) -> RunProgress:
    """How far a cell is. That of one that does not run is read once a status: a grid may have a thousand."""
    if state.status == "running" or state.read_as != state.status:
        state.progress = progress_in(state.directory, state.cell.options.get("evals") or [], state.status == "running")
        state.read_as = state.status
    return state.progress


def reason_of(state: CellState) -> str:
    """Why a cell failed: the error that its output ends with, or its last line."""
    lines = [line.strip() for line in tail_of(state, 200).splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it printed nothing"])[-1]


def tail_of(state: CellState, lines: int = 12) -> str:
    """The last lines of a cell's output."""
    try:
        return "\n".join(state.log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(it printed nothing)"


def table_of(states: Sequence[CellState], width: int) -> Table:
    """A table of ``width`` letters with a row for each cell. Minutes are those of the cell's process where this one has started it,
    else those that its log tells."""
    done = sum(state.status == "done" for state in states)
    table = Table(title=f"{done} of {len(states)} done", title_justify="left")
    table.add_column("run", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("minutes", justify="right", no_wrap=True)
    table.add_column("progress", overflow="fold")
    names = short_names([state.cell.name for state in states], name_room(width))
    for state, name in zip(states, names, strict=True):
        seconds = time.monotonic() - state.started if state.status == "running" and state.started else state.seconds
        progress = progress_of(state)
        minutes = seconds / 60 if seconds else progress.minutes
        words = "" if state.status == "done" else progress.words
        if state.status in ("failed", "stopped"):
            words = "; ".join(filter(None, (failure_of(state.directory), progress.words)))
        shown = "" if minutes is None else f"{minutes:.1f}"
        table.add_row(Text(name), state.status, shown, Text(words))
    return table


def name_room(width: int) -> int:
    """Letters for the names of runs in a table of ``width`` letters, with room for three columns beside them."""
    return max(20, width - 47)


@contextmanager
def shown(states: Sequence[CellState], console: Console) -> Iterator[Show]:
    """Yield a function to call with each changed state, and with None while time passes."""

    spoken = time.monotonic()

    def print_change(state: CellState | None) -> None:
        nonlocal spoken
        if state is None and time.monotonic() - spoken >= LINE_SECONDS:
            spoken = time.monotonic()
            for other in states:
                if other.status == "running" and (words := progress_of(other).words):
                    console.print(f"{other.cell.name}: {words}", highlight=False, soft_wrap=True)
        if state is not None:
            done = sum(other.status == "done" for other in states)
            minutes = f" after {state.seconds / 60:.1f} min" if state.seconds and state.status in ENDED else ""
            reason = f": {reason_of(state)}" if state.status == "failed" else ""
            text = f"[{done}/{len(states)}] {state.cell.name}: {state.status}{minutes}{reason}"
            console.print(text, highlight=False, soft_wrap=True)

    if console.is_terminal:
        with Live(table_of(states, console.width), console=console, refresh_per_second=2) as live:
            drawn = time.monotonic()

            def draw(state: CellState | None) -> None:
                nonlocal drawn
                if state is not None or time.monotonic() - drawn >= TABLE_SECONDS:
                    live.update(table_of(states, console.width))
                    drawn = time.monotonic()

            yield draw
            live.update(table_of(states, console.width))
    else:
        yield print_change
