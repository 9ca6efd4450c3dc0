"""Running a grid's cells on this machine: each is a process and a directory of its own; a failed one does not stop the
others; what is done already is not done again."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from common.cli import words_of
from common.files import read_json_lines
from training.grid import Cell

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class CellState:
    """What is known of a cell while a grid runs."""

    cell: Cell
    directory: Path
    status: str = "waiting"  # waiting | running | done | failed
    process: subprocess.Popen | None = None
    started: float = 0.0
    seconds: float = 0.0

    @property
    def log(self) -> Path:
        """What the cell's process prints."""
        return self.directory.parent.parent / "logs" / f"{self.cell.name}.log"


def is_done(directory: Path, evaluations: Sequence[str]) -> bool:
    """True if the training in ``directory`` has ended and every evaluation has its results."""
    try:
        ended = any(record.get("kind") == "end" for record in read_json_lines(directory / "log.jsonl"))
    except (OSError, ValueError):
        return False
    return ended and all((directory / "results" / f"{name}.json").is_file() for name in evaluations)


def run_cells(cells: Sequence[Cell], out: Path, jobs: int, plugins: Sequence[str], console: Console) -> list[CellState]:
    """Run every cell that is not done, ``jobs`` at a time, dividing the cores among them. Prints a table that updates in
    place (a line a change where the output is no terminal). Interrupting it stops the cells, which keep their checkpoints:
    the same command continues.

    Returns:
        the state of each cell: done or failed.
    """
    (out / "logs").mkdir(parents=True, exist_ok=True)
    states = [CellState(cell, out / "runs" / cell.name) for cell in cells]
    for state in states:
        if is_done(state.directory, state.cell.options.get("evals") or []):
            state.status = "done"
    # A SIGTERM ends this process as Ctrl-C does: by way of the cells, which write their checkpoints first.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    if console.is_terminal:
        with Live(_table(states), console=console, refresh_per_second=2) as live:
            _run(states, jobs, plugins, environment, lambda state: live.update(_table(states)))
    else:
        _run(states, jobs, plugins, environment, lambda state: _print_change(state, states, console))
    return states


def _run(states: list[CellState], jobs: int, plugins: Sequence[str], environment: Mapping[str, str], show) -> None:
    show(None)
    try:
        while any(state.status in ("waiting", "running") for state in states):
            for state in states:
                running = sum(other.status == "running" for other in states)
                if state.status == "waiting" and running < jobs:
                    _start(state, plugins, environment)
                    show(state)
                if state.status == "running" and state.process.poll() is not None:
                    state.seconds = time.monotonic() - state.started
                    state.status = "done" if state.process.returncode == 0 else "failed"
                    show(state)
            time.sleep(0.2)
            show(None)
    finally:
        for state in states:
            if state.process and state.process.poll() is None:
                state.process.send_signal(signal.SIGTERM)
        for state in states:
            if state.process:
                state.process.wait()


def _end_with_parent() -> None:
    """In a cell's process, before it starts: ask Linux to stop it when the grid's process is killed, so that a grid started
    again never finds the old one's cells still writing. Other systems have no such request."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _start(state: CellState, plugins: Sequence[str], environment: Mapping[str, str]) -> None:
    words = words_of({**state.cell.options, "out": str(state.directory)})
    for plugin in plugins:
        words += ["--plugin", plugin]
    with open(state.log, "w") as log:
        state.process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), "train", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_end_with_parent,
        )
    state.status, state.started = "running", time.monotonic()


def progress_of(state: CellState) -> str:
    """How far a running cell is, from the end of its log."""
    try:
        with open(state.directory / "log.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("kind") == "end":
            return "trained; evaluating"
        if record.get("kind") == "step":
            return f"epoch {record.get('epoch', 0) + 1}, loss {record.get('loss', float('nan')):.3f}"
    return ""


def tail_of(state: CellState, lines: int = 12) -> str:
    """The end of what a cell printed."""
    try:
        return "\n".join(state.log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(it printed nothing)"


def _table(states: Sequence[CellState]) -> Table:
    done = sum(state.status == "done" for state in states)
    table = Table(title=f"{done} of {len(states)} done", title_justify="left")
    for column in ("run", "status", "minutes", "progress"):
        table.add_column(column, justify="right" if column == "minutes" else "left")
    for state in states:
        seconds = time.monotonic() - state.started if state.status == "running" else state.seconds
        progress = progress_of(state) if state.status == "running" else ""
        table.add_row(state.cell.name, state.status, f"{seconds / 60:.1f}" if seconds else "", progress)
    return table


def _print_change(state: CellState | None, states: Sequence[CellState], console: Console) -> None:
    if state is not None:
        done = sum(other.status == "done" for other in states)
        minutes = f" after {state.seconds / 60:.1f} min" if state.seconds else ""
        console.print(
            f"[{done}/{len(states)}] {state.cell.name}: {state.status}{minutes}", markup=False, highlight=False
        )
