"""Grids whose processes have died, on this machine or another one."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import environment
from common.environment import processors
from common.errors import UserError
from common.lock import owned_lock, owner_lives
from common.progress import Console
from rundir.lock import SILENT_SECONDS, is_running
from training.grids.grid import Cell
from training.grids.launchers import slurm
from training.grids.launchers.cells import read_states, run_cells
from training.grids.options import CompareCommand

HOLD = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
#: In place of run.py: a cell that notes its threads.
CELL = """
import os, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True)
(out / "log.jsonl").write_text('{"kind": "end", "step": 1}\\n')
(Path(__file__).parent / "threads").write_text(os.environ["OMP_NUM_THREADS"])
"""
DAMAGED = [5, [5], ["a"], *([{"name": name, "evals": evals}] for name, evals in ((5, []), ("a", 5), ("a", [[]])))]


def a_run(folder: Path, silent: float, **owner: object) -> Path:
    """A run directory whose files are ``silent`` seconds old."""
    folder.mkdir()
    (folder / "log.jsonl").write_text("")
    (folder / "lock").write_text(json.dumps({"pid": 5, "host": socket.gethostname() + "-other", **owner}))
    for file in folder.iterdir():
        os.utime(file, (time.time() - silent,) * 2)
    return folder


def test_a_run_killed_on_another_host_has_stopped(tmp_path):
    assert is_running(a_run(tmp_path / "killed", 2 * SILENT_SECONDS)) is False
    assert is_running(a_run(tmp_path / "writes", 5)) is True


def test_a_silent_run_of_another_host_runs_while_its_lock_is_held(tmp_path):
    run = a_run(tmp_path / "run", 2 * SILENT_SECONDS)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(run / "lock")], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_running(run) is True
        holder.kill()
    assert is_running(run) is False


def test_looking_at_a_lock_turns_nobody_away(tmp_path):
    """A look holds the lock for a moment, in which another process may want it."""
    path = tmp_path / "lock"
    path.touch()
    look = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("60", "0.01"), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert look.stdout.readline() == "held\n"
    with owned_lock(path, lambda owner: pytest.fail("turned away")):
        look.wait()


@pytest.mark.parametrize("pid", [10**30, -1, 0, "5", None, 2.5, True, [5]])
def test_a_process_number_that_no_process_has(tmp_path, pid):
    assert owner_lives({"pid": pid}) is False
    assert is_running(a_run(tmp_path / "run", 0, pid=pid, host=socket.gethostname())) is False


@pytest.mark.parametrize("cells", DAMAGED)
def test_a_damaged_list_of_cells_is_named(tmp_path, cells):
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    with pytest.raises(UserError, match=r"cells\.json: damaged"):
        read_states(tmp_path)


@pytest.mark.parametrize(("given", "seen"), [(None, "3"), ("2", "2")])
def test_cells_share_the_processors_that_are_allotted_unless_the_user_says(tmp_path, monkeypatch, given, seen):
    (tmp_path / "run.py").write_text(CELL)
    monkeypatch.setattr("training.grids.launchers.process.ROOT", tmp_path)
    monkeypatch.setattr("training.grids.launchers.local.processors", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    run_cells([Cell("a", {"device": "cpu"})], CompareCommand(out=str(tmp_path), jobs=2), Console(file=io.StringIO()))
    assert (tmp_path / "threads").read_text() == seen


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu.max": "no number"}, 8),
    ],
)
def test_processors_within_affinity_and_control_group(tmp_path, monkeypatch, files, count):
    monkeypatch.setattr(environment, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(environment, "control_group_files", lambda name: [tmp_path / name])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert processors() == count


class Cluster:
    """A SLURM that takes arrays of jobs and shows them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.jobs: dict[str, tuple[str, str]] = {}
        self.submitted: list[list[str]] = []
        self.dies = False
        monkeypatch.setattr(slurm, "submit", self.submit)
        monkeypatch.setattr(slurm, "squeue", self.squeue)

    def submit(self, states, command, folder, mark):
        self.submitted.append([state.cell.name for state in states])
        numbers = [f"{len(self.submitted)}_{place}" for place in range(len(states))]
        self.jobs |= dict.fromkeys(numbers, ("PENDING", mark))
        if self.dies:
            raise KeyboardInterrupt  # after sbatch, before the numbers are noted
        return numbers

    def squeue(self, *words):
        form = words[-1].removeprefix("--format=")
        return "".join(
            form.replace("%i", number).replace("%T", state).replace("%k", mark) + "\n"
            for number, (state, mark) in self.jobs.items()
        )


def test_a_death_between_sbatch_and_its_note_submits_nothing_twice(tmp_path, monkeypatch):
    cluster = Cluster(monkeypatch)
    command = CompareCommand(out=str(tmp_path))
    command.launch.launcher = "slurm"

    def compare(names: str) -> dict[str, str]:
        states = run_cells([Cell(name, {}) for name in names], command, Console(file=io.StringIO()))
        return {state.cell.name: state.status for state in states}

    assert compare("a") == {"a": "queued"}
    cluster.dies = True
    with pytest.raises(KeyboardInterrupt):
        compare("abc")
    cluster.dies = False
    cluster.jobs["2_1"] = ("RUNNING", cluster.jobs["2_1"][1])
    assert compare("abcd") == {"a": "queued", "b": "queued", "c": "running", "d": "queued"}
    assert cluster.submitted == [["a"], ["b", "c"], ["d"]]
    assert slurm.read_jobs(tmp_path) == {"a": "1_0", "b": "2_0", "c": "2_1", "d": "3_0"}


def test_a_death_before_sbatch_submits_again(tmp_path, monkeypatch):
    cluster = Cluster(monkeypatch)
    command = CompareCommand(out=str(tmp_path))
    command.launch.launcher = "slurm"
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "submitting.json").write_text(json.dumps({"mark": "0123", "cells": ["a"]}))
    run_cells([Cell("a", {})], command, Console(file=io.StringIO()))
    assert cluster.submitted == [["a"]]


@pytest.mark.parametrize("note", ["{", "5", '{"mark": "x"}', '{"mark": 5, "cells": 5}'])
def test_a_damaged_note_is_named(tmp_path, monkeypatch, note):
    Cluster(monkeypatch).jobs["1_0"] = ("RUNNING", "x")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "submitting.json").write_text(note)
    with pytest.raises(UserError, match=r"submitting\.json: cannot be matched .* cancel the jobs named"):
        slurm.adopt(tmp_path, {})


def test_the_setup_of_jobs_takes_any_path_and_the_users_threads(monkeypatch):
    root = Path("/home/it's me/$(touch x); y/ssl compare")
    monkeypatch.setattr(slurm, "ROOT", root)
    script = "\n".join([*slurm.setup_of(4), 'printf "%s|%s" "$PYTHONPATH" "$OMP_NUM_THREADS"'])

    def said(**variables: str) -> str:
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
        return subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True, env=clean | variables
        ).stdout

    assert said() == f"{root}|4"
    assert said(PYTHONPATH="/b c", OMP_NUM_THREADS="2") == f"{root}:/b c|2"
