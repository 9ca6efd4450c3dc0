"""Grids' launchers where there is no cluster; tests/clusters has those with one."""

import json
import os
import socket
import subprocess
import sys

import pytest

import run as command_line
from common.errors import UsageError, UserError
from training.config import CompareCommand
from training.grid import Cell
from training.launchers import slurm
from training.launchers.cells import CellState, read_states
from training.launchers.config import LaunchOptions
from training.launchers.status import status_in_folder


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gpus": 2}, "--gpus: --launcher local has no such option; add --launcher slurm or ray"),
        (
            {"launcher": "ray", "partition": "gpu"},
            "--partition: --launcher ray has no such option; add --launcher slurm",
        ),
        (
            {"launcher": "slurm", "address": "auto"},
            "--address: --launcher slurm has no such option; add --launcher ray",
        ),
        ({"wait": True}, "--wait: --launcher local"),
        ({"launcher": "slurm", "time": 4}, "--time 4: give at least 5"),
        ({"launcher": "slurm", "nodes": 0}, "--nodes 0: give at least 1"),
        ({"launcher": "ray", "gpus": -1}, "--gpus -1: give at least 0"),
    ],
)
def test_options_that_a_launcher_has_not(options, message):
    with pytest.raises(UsageError) as error:
        LaunchOptions(**options).check()
    assert message in str(error.value)


def test_options_that_a_launcher_has():
    LaunchOptions().check()
    LaunchOptions(launcher="slurm", gpus=8, cpus=4, nodes=2, partition="gpu", time=60, wait=True).check()
    LaunchOptions(launcher="ray", gpus=0, cpus=4, address="10.0.0.1:6379").check()


def test_no_trainings_at_a_time(capsys):
    words = ["compare", "--methods", "random", "--backbones", "vit_nano", "--jobs", "0"]
    assert command_line.main(words) == 2
    assert "--jobs 0: give at least 1" in capsys.readouterr().err


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_status_from_the_folder_alone(tmp_path, ended, capsys, monkeypatch):
    def lock(name, **owner):
        directory = tmp_path / "runs" / name
        directory.mkdir(parents=True)
        (directory / "lock").write_text(json.dumps(owner) if owner else "")
        return directory

    (lock("done") / "log.jsonl").write_text('{"kind": "end", "step": 9}\n')
    (lock("unmeasured") / "log.jsonl").write_text('{"kind": "end", "step": 9}\n')
    here = socket.gethostname()
    (lock("running", pid=os.getpid(), host=here) / "log.jsonl").write_text(
        '{"kind": "step", "step": 9, "epoch": 2, "loss": 0.5}\n'
    )
    lock("elsewhere", pid=ended, host=here + "-other")
    lock("killed", pid=ended, host=here)
    expected = {
        "done": "done",
        "unmeasured": "stopped",
        "running": "running",
        "elsewhere": "running",
        "killed": "stopped",
        "absent": "waiting",
    }
    cells = [{"name": name, "evals": ["knn"] if name == "unmeasured" else []} for name in expected]
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    assert {state.cell.name: status_in_folder(state) for state in read_states(tmp_path)} == expected
    monkeypatch.setenv("COLUMNS", "120")
    assert command_line.main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "1 of 6 done" in said and "epoch 3, loss 0.500" in said


def test_status_without_a_grid(tmp_path):
    with pytest.raises(UsageError, match="holds no grid"):
        read_states(tmp_path)
    (tmp_path / "cells.json").write_text("[{}]")
    with pytest.raises(UserError, match=r"cells\.json: damaged"):
        read_states(tmp_path)


def test_slurm_that_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    states = [CellState(Cell("a", {}), tmp_path / "runs" / "a")]
    command = CompareCommand(out=str(tmp_path), launch=LaunchOptions(launcher="slurm"))
    with pytest.raises(UserError, match="squeue does not answer"):
        slurm.launch(states, command, [], lambda state: None)


def test_a_job_that_has_left_the_queue(tmp_path):
    state = CellState(Cell("a", {}), tmp_path / "runs" / "a")
    assert slurm.status_of(state, {"a": "7_0"}, {"7_0": "queued"}) == "queued"
    assert slurm.status_of(state, {"a": "7_0"}, {"7_1": "running"}) == "failed"
    state.directory.mkdir(parents=True)
    (state.directory / "log.jsonl").write_text('{"kind": "end", "step": 9}\n')
    assert slurm.status_of(state, {"a": "7_0"}, {}) == "done"
