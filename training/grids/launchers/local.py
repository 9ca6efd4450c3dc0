"""Cells as processes on this machine. A failed cell does not stop the others."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence

from common.environment import processors
from common.interrupt import answering
from common.progress import note
from training.grids.launchers.cells import CellState, Show, words_of_cell
from training.grids.launchers.process import start
from training.grids.options import CompareCommand

#: The answer to Ctrl-C.
ANSWER = "stopping: the running trainings finish their steps and save; again to end them now"


def launch(states: Sequence[CellState], command: CompareCommand, show: Show) -> None:
    """Run the cells, ``command.jobs`` at a time (default: 1). They share the cores, and cells that name no CUDA device share those,
    too. On an interrupt the cells write checkpoints and stop; the same command continues."""
    processes: dict[str, subprocess.Popen] = {}

    def going() -> list[subprocess.Popen]:
        return [process for process in processes.values() if process.poll() is None]

    with answering(ANSWER, lambda: [process.kill() for process in going()]):
        try:
            _run(states, command.jobs or 1, command, show, processes)
        finally:
            for process in (stopping := going()):
                process.send_signal(signal.SIGTERM)
            if stopping:
                note(f"waiting for the checkpoints of {len(stopping)} runs", style="none")
            for process in stopping:
                process.wait()


def _run(
    states: Sequence[CellState], jobs: int, command: CompareCommand, show: Show, processes: dict[str, subprocess.Popen]
) -> None:
    """Start cells, and keep their ``processes`` by name, until all have ended."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, processors() // jobs))
    devices = visible_devices() if jobs > 1 else []
    taken: dict[str, str] = {}  # device of each running cell, by the cell's name
    waiting = deque(state for state in states if state.status == "waiting")
    running: list[CellState] = []
    while waiting or running:
        for state in list(running):
            if (code := processes[state.cell.name].poll()) is not None:
                running.remove(state)
                taken.pop(state.cell.name, None)
                state.becomes("failed" if code else "done")
                show(state)
        while waiting and len(running) < jobs:
            state = waiting.popleft()
            environment = {"OMP_NUM_THREADS": threads}
            # A cell that names cuda:1 needs to see all devices.
            if len(devices) > 1 and state.cell.options.get("device", "auto") in ("auto", "cuda"):
                device = taken[state.cell.name] = min(devices, key=list(taken.values()).count)
                environment["CUDA_VISIBLE_DEVICES"] = device
            with open(state.log, "w") as log:
                processes[state.cell.name] = start(words_of_cell(state, command), log, environment)
            running.append(state)
            state.becomes("running")
            show(state)
        if running:
            time.sleep(0.2)
            show(None)


def visible_devices() -> list[str]:
    """Numbers or UUIDs of the CUDA devices that this process may use, as in ``CUDA_VISIBLE_DEVICES``."""
    import torch

    # Counting does not start CUDA, which would hold device memory as long as the grid runs.
    count = torch.cuda.device_count()
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if listed is None else listed.split(",")[:count]
