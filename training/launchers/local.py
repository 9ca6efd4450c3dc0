"""Cells on this machine: each is a process and a directory of its own; a failed one does not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from training.config import CompareCommand
from training.launchers.cells import ENDED, ROOT, CellState, Show, end_with_parent, words_of_cell


def launch(states: Sequence[CellState], command: CompareCommand, plugins: Sequence[str], show: Show) -> None:
    """Run the cells, ``command.jobs`` at a time (default: one), dividing the cores among them. Interrupting it stops the
    cells, which keep their checkpoints: the same command continues."""
    jobs = command.jobs or 1
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    processes: dict[str, subprocess.Popen] = {}
    try:
        while any(state.status not in ENDED for state in states):
            for state in states:
                running = sum(other.status == "running" for other in states)
                if state.status == "waiting" and running < jobs:
                    with open(state.log, "w") as log:
                        processes[state.cell.name] = subprocess.Popen(
                            [sys.executable, str(ROOT / "run.py"), *words_of_cell(state, plugins)],
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            env=environment,
                            preexec_fn=end_with_parent,
                        )
                    state.becomes("running")
                    show(state)
                elif state.status == "running" and (code := processes[state.cell.name].poll()) is not None:
                    state.becomes("failed" if code else "done")
                    show(state)
            time.sleep(0.2)
            show(None)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes.values():
            process.wait()
