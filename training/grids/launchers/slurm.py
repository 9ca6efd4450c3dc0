"""Cells as the jobs of a SLURM array, through submitit.

A job's tasks are the processes of one distributed training. SLURM sends a cell SIGUSR1 before its time is over, and SIGTERM when
it is preempted. The cell writes a checkpoint, and its job is queued again and continues there. ``OUT/jobs/jobs.json`` holds the
number of each cell's job; ``squeue`` gives the state of every job that has not ended.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from common.environment import ROOT, missing_package
from common.errors import UserError, why
from common.files import read_json, write_json
from rundir.paths import JOB_NUMBERS, JOBS, SUBMITTING
from training.grids.launchers.cells import ENDED, CellState, Show, words_of_cell
from training.grids.launchers.process import start
from training.grids.options import CompareCommand

#: The jobs' name in SLURM's queue.
NAME = "ssl-compare"
#: Advice where it is not known which cells have jobs.
BY_HAND = f"cancel the jobs named {NAME}, delete it, and compare again"
#: Seconds between the signal to stop and the end of a job's time.
AHEAD = 120
#: Seconds between looks at the queue.
POLL = 5.0
#: Exit statuses of a training that a signal stopped, in its loop (128 + number) or elsewhere.
STOPPED = [status for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP) for status in (128 + number, -number)]


def launch(states: Sequence[CellState], command: CompareCommand, show: Show) -> None:
    """Submit cells that are not done and not in the queue as one array, which runs ``command.jobs`` at a time (default: as many as
    the cluster has room for). Returns at once, or with ``--wait`` when all have ended; the jobs do not need this process. Raises
    UserError if SLURM or submitit is missing, or SLURM refuses the jobs."""
    out = Path(command.out).absolute()
    jobs, queue = read_jobs(out), queued()
    if queue is None:
        raise UserError("--launcher slurm: squeue does not answer here; run this on a login node of a SLURM cluster")
    jobs = adopt(out, jobs)
    for state in states:
        if state.status == "waiting" and jobs.get(state.cell.name) in queue:
            state.status = queue[jobs[state.cell.name]]
    waiting = [state for state in states if state.status == "waiting"]
    if waiting:
        mark = secrets.token_hex(8)
        write_json(out / JOBS / SUBMITTING, {"mark": mark, "cells": [state.cell.name for state in waiting]})
        ids = submit(waiting, command, out / JOBS, mark)
        jobs |= {state.cell.name: number for state, number in zip(waiting, ids, strict=True)}
        write_json(out / JOBS / JOB_NUMBERS, jobs)
        (out / JOBS / SUBMITTING).unlink()
        for state in waiting:
            state.becomes("queued")
            show(state)
    while command.launch.wait and any(state.status not in ENDED for state in states):
        time.sleep(POLL)
        if (queue := queued()) is None:
            continue  # SLURM's controller is busy or restarts; the jobs do not depend on it
        for state in states:
            # A failed cell may become done: a shared disk may show results later than the queue shows the job's end.
            if state.status != "done" and state.becomes(status_of(state, jobs, queue)):
                show(state)
        show(None)


def status_of(state: CellState, jobs: dict[str, str], queue: dict[str, str]) -> str:
    """A submitted cell's status: its job's in the queue, else done or failed."""
    return queue.get(jobs[state.cell.name]) or ("done" if state.is_done else "failed")


def adopt(out: Path, jobs: dict[str, str]) -> dict[str, str]:
    """Add the jobs that an earlier process has submitted and died before it noted their numbers. Their comment is its mark."""
    note = out / JOBS / SUBMITTING
    try:
        begun = read_json(note)
        mark, cells = begun["mark"], begun["cells"]
        if not isinstance(mark, str) or not isinstance(cells, list):
            raise ValueError("no mark and cells")
        lines = [line.split() for line in squeue("--array", f"--name={NAME}", "--format=%i %k").splitlines()]
        numbers = [line[0] for line in lines if line[1:] == [mark]]
        adopted = {cells[int(number.partition("_")[2])]: number for number in numbers}
    except FileNotFoundError:
        return jobs
    except (OSError, ValueError, KeyError, TypeError, IndexError, subprocess.CalledProcessError) as error:
        raise UserError(f"{note}: cannot be matched with the queue ({error}); {BY_HAND}") from error
    jobs = {**jobs, **adopted}
    write_json(out / JOBS / JOB_NUMBERS, jobs)
    note.unlink()
    return jobs


def submit(states: Sequence[CellState], command: CompareCommand, folder: Path, mark: str) -> list[str]:
    """Submit an array of jobs, one for each cell, with ``mark`` as their comment. Returns their numbers, such as ``12_0``."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"  # trainings handle it; submitit reads the variable when imported
    try:
        import submitit
    except ImportError as error:
        raise missing_package("--launcher slurm", error, "clusters") from error
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError("--launcher slurm: no sbatch or srun here; run this on a login node of a SLURM cluster")
    options = command.launch
    cpus = options.cpus or 1
    executor = submitit.SlurmExecutor(folder=folder)
    parameters = {
        "job_name": NAME,
        "comment": mark,
        "partition": options.partition,
        "nodes": options.nodes or 1,
        "ntasks_per_node": options.gpus or 1,
        "gpus_per_node": options.gpus or None,
        "cpus_per_task": cpus,
        "time": options.time or 1440,
        "signal_delay_s": AHEAD,
        "array_parallelism": command.jobs or len(states),
        "additional_parameters": {"requeue": True},
        "srun_args": [f"--cpus-per-task={cpus}"],  # since SLURM 22.05 srun does not inherit it from sbatch
        "setup": setup_of(cpus),
    }
    executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
    try:
        submitted = executor.submit_array([CellJob(words_of_cell(state, command), state.log) for state in states])
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"SLURM refuses the jobs: {' '.join(str(error).split())}") from error
    return [job.job_id for job in submitted]


def setup_of(cpus: int) -> list[str]:
    """The lines that a job's script begins with; the user's own number of threads stays."""
    return [
        f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONUNBUFFERED=1",
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}}",
        "export SUBMITIT_PREEMPT_SIGNAL=USR1",
    ]


class CellJob:
    """The function of each task of a cell's job: one process of the training."""

    def __init__(self, words: list[str], log: Path):
        self.words, self.log = words, log

    def __call__(self) -> None:
        """Run the process. Raises ChildProcessError if the cell has failed."""
        from submitit.helpers import TorchDistributedEnvironment

        task = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        # The first process prints progress; the others print only errors, which go into submitit's own logs.
        with open(self.log, "a") if task.rank == 0 else nullcontext() as log:
            process = start(self.words, log)
            # SLURM sends signals to all processes of a job, or to the first of each task; a second signal does no harm.
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, lambda number, frame: process.send_signal(number))
            status = process.wait()
        if status in STOPPED:
            if task.rank == 0:
                requeue(os.environ["SLURM_JOB_ID"])
            raise SystemExit(128 + signal.SIGTERM)
        if status:
            raise ChildProcessError(f"exit status {status}; {self.log} says why")


def squeue(*words: str) -> str:
    return subprocess.run(["squeue", "--noheader", *words], capture_output=True, text=True, check=True).stdout


def requeue(number: str) -> None:
    """Queue this job again, unless SLURM has done that or the job is cancelled."""
    if squeue(f"--jobs={number}", "--format=%T").strip() == "RUNNING":
        subprocess.run(["scontrol", "requeue", number], check=True)


def read_jobs(out: Path) -> dict[str, str]:
    """Read the number of each submitted cell's last job."""
    path = out / JOBS / JOB_NUMBERS
    try:
        jobs = read_json(path)
        if not isinstance(jobs, dict) or not all(isinstance(number, str) for number in jobs.values()):
            raise ValueError("no numbers of jobs by the names of cells")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({why(error)}); {BY_HAND}") from error
    return jobs


def queued() -> dict[str, str] | None:
    """Status of our jobs that have not ended (``queued`` or ``running``) by job number; None if SLURM does not answer."""
    try:
        lines = squeue("--array", f"--name={NAME}", "--format=%i %T").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    states = dict(line.split() for line in lines)
    return {number: "queued" if state in ("PENDING", "REQUEUED") else "running" for number, state in states.items()}
