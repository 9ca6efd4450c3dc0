"""Grids' launchers where there is no cluster; tests/clusters has those with one."""

import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from rich.console import Console

import run as command_line
from commands.status import status_in_folder
from common.errors import UsageError, UserError
from common.lock import process_began
from rundir.lock import run_lock
from training.grids.grid import Cell
from training.grids.launchers import ray_cluster, slurm
from training.grids.launchers.cells import CellState, read_states, run_cells
from training.grids.options import CompareCommand, LaunchOptions
from training.grids.progress import RunProgress, progress_in


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
        ({"launcher": "ray", "gpus": -1}, "--gpus -1: give 0 or more"),
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
    lock("elsewhere", pid=ended, host=here + "-other")  # a moment ago
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


def test_status_tells_names_minutes_and_progress_in_80_columns(tmp_path, capsys, monkeypatch):
    cells = [
        f"barlow_twins-vit_small_patch16_224-lr={lr}-weight_decay={decay}-seed{seed}"
        for lr, decay, seed in itertools.product((1e-4, 1e-05), (0.04, 0.4), (0, 1))
    ]
    start = {"kind": "start", "step": 0, "steps_per_epoch": 40}
    step = {"kind": "step", "step": 100, "epoch": 2, "loss": 0.5, "seconds": 300.0}
    end = {"kind": "end", "step": 400, "minutes": 21.5}
    logs = [[start, step, end], [start, step], [start, step], [start]]  # done, running, stopped, running
    for name, records, pid in zip(cells, logs, (None, os.getpid(), None, os.getpid()), strict=False):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname()}) if pid else "")
        (run / "config.yaml").write_text("epochs: 10\n")
        (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "cells.json").write_text(json.dumps([{"name": name, "evals": []} for name in cells]))
    monkeypatch.setenv("COLUMNS", "80")
    assert command_line.main(["status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [[part.strip() for part in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    named = [row for row in table if row[1]]
    assert len({row[0] for row in named}) == len(cells) and all(len(line) <= 80 for line in lines)
    for row, name in zip(named, cells, strict=True):
        assert all(value in row[0] for value in re.findall("=([0-9.e-]+[0-9])", name)) and row[0].endswith(name[-5:])
    assert named[0][1:] == ["done", "21.5", ""]
    assert [row[1:3] for row in named[1:4]] == [["running", "5.0"], ["stopped", "5.0"], ["running", "0.0"]]
    said = " ".join(row[3] for row in table)
    assert "step 100/400 (25%), epoch 3, loss 0.500, 0:1" in said and said.count(" left") == 1
    assert "step 0/400" in said


def test_time_in_which_a_machine_slept_brings_the_end_no_nearer(tmp_path):
    """The log is an hour old, and the next record was due after 10 steps of 3 s each."""
    (tmp_path / "config.yaml").write_text("epochs: 10\nlog_every: 10\n")
    records = [{"kind": "start", "steps_per_epoch": 40}, {"kind": "step", "step": 100, "seconds": 300.0, "loss": 0.5}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    os.utime(tmp_path / "log.jsonl", (time.time() - 3600,) * 2)
    assert "0:14:30 left" in progress_in(tmp_path, [], True).words


def test_progress_of_runs_whose_logs_tell_less(tmp_path):
    def words(records, evaluations=(), goes_on=True):
        (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return progress_in(tmp_path, evaluations, goes_on)

    assert progress_in(tmp_path / "absent", [], True) == RunProgress(None, "")
    early = words([{"kind": "start", "steps_per_epoch": 10}, {"kind": "step", "step": 1, "seconds": 9.0, "loss": None}])
    assert early.words == "step 1, epoch 1, loss nan"  # its options, and so all of its steps, are unknown
    (tmp_path / "config.yaml").write_text("epochs: 0.5\n")
    early = words([{"kind": "start", "steps_per_epoch": 10}, {"kind": "step", "step": 1, "seconds": 9.0, "loss": 2}])
    assert early.words == "step 1/5 (20%), epoch 1, loss 2.000, too early to tell the time left"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "knn.json").write_text("[]")
    ended = words([{"kind": "end", "step": 5, "minutes": 3.0}], ["knn", "linear"], goes_on=False)
    assert ended == RunProgress(3.0, "trained; evaluations are left (1/2 measured)")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell when a process began")
def test_a_killed_run_whose_process_number_another_process_has(tmp_path, monkeypatch):
    state = CellState(Cell("a", {}), tmp_path / "runs" / "a")
    lock = state.directory / "lock"
    with run_lock(state.directory):
        left = json.loads(lock.read_text())
        assert status_in_folder(state) == "running"
    with subprocess.Popen(["sleep", "60"]) as other:
        lock.write_text(json.dumps({**left, "pid": other.pid}))
        assert status_in_folder(state) == "stopped"
        with monkeypatch.context() as patch:
            patch.setattr("common.lock.process_began", lambda process: None)  # as on a system that does not tell
            assert status_in_folder(state) == "running"
        lock.write_text(json.dumps({**left, "pid": other.pid, "process_began": process_began(other.pid)}))
        assert status_in_folder(state) == "running"
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # its number is kept until somebody asks after it
        assert status_in_folder(state) == "stopped"


def test_status_without_a_grid(tmp_path):
    with pytest.raises(UsageError, match="holds no grid"):
        read_states(tmp_path)
    (tmp_path / "cells.json").write_text("[{}]")
    with pytest.raises(UserError, match=r"cells\.json: damaged"):
        read_states(tmp_path)


def test_a_grid_that_is_stopped_stops_its_cells_first(stopped_first, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.grids.launchers.process.ROOT", tmp_path)
    cells = [Cell("a", {"method": "dino"})]
    console = Console(file=io.StringIO())
    number = stopped_first(lambda: run_cells(cells, CompareCommand(out=str(tmp_path)), console))
    assert f"stopped by {number.name}; the same command continues" in capsys.readouterr().err


#: In place of run.py: a cell that writes down which devices it sees. The second one ends once the third has begun.
CELL = """
import os, sys, time
from pathlib import Path

name, folder = Path(sys.argv[sys.argv.index("--out") + 1]).name, Path(__file__).parent
(folder / f"{name}.seen").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
while name == "b" and not (folder / "c.seen").exists():
    time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("visible", "count", "device", "seen"),
    [
        (None, 2, None, ["0", "1", "0"]),
        (None, 2, "cuda", ["0", "1", "0"]),
        ("3,GPU-5f,7", 2, None, ["3", "GPU-5f", "3"]),
        (None, 1, None, ["all"] * 3),
        ("5", 1, None, ["5"] * 3),
        ("3,7", 2, "cpu", ["3,7"] * 3),
        (None, 2, "cuda:1", ["all"] * 3),
    ],
)
def test_cells_share_the_gpus(tmp_path, monkeypatch, visible, count, device, seen):
    (tmp_path / "run.py").write_text(CELL)
    monkeypatch.setattr("training.grids.launchers.process.ROOT", tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    cells = [Cell(name, {"device": device} if device else {}) for name in "abc"]
    states = run_cells(cells, CompareCommand(out=str(tmp_path), jobs=2), Console(file=io.StringIO()))
    assert [state.status for state in states] == ["done"] * 3
    assert [(tmp_path / f"{name}.seen").read_text() for name in "abc"] == seen


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{closed}", "ray://127.0.0.1:{closed}", "127.0.0.1:x", "127.0.0.1:99999"]
)
def test_no_ray_cluster_at_the_address(address):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = address.format(closed=taken.getsockname()[1])
        with pytest.raises(UserError) as error:
            ray_cluster.require_answer(address)
    assert str(error.value).startswith(f"--address {address}: no Ray cluster answers there (")


def test_addresses_that_may_be_rays(monkeypatch):
    monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "7")  # a user's own number stays
    ray_cluster.require_answer("auto")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ray_cluster.require_answer(f"127.0.0.1:{listener.getsockname()[1]}")
    assert os.environ["RAY_NUM_REDIS_GET_RETRIES"] == "7"


def test_a_task_stops_its_cell_when_the_file_asks(when_begun, tmp_path, monkeypatch):
    monkeypatch.setattr("training.grids.launchers.process.ROOT", tmp_path)
    thread = when_begun((tmp_path / "stop").touch)
    ray_cluster.run_cell(["train"], 1, str(tmp_path), str(tmp_path / "log"), {})
    thread.join()
    assert (tmp_path / "stopped").read_text() == "SIGTERM"


def test_a_cancelled_task_stops_its_cell_first(when_begun, heed, tmp_path, monkeypatch):
    """Ray cancels a task by KeyboardInterrupt."""
    monkeypatch.setattr("training.grids.launchers.process.ROOT", tmp_path)
    heed(signal.SIGINT)
    thread = when_begun(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        ray_cluster.run_cell(["train"], 1, str(tmp_path), str(tmp_path / "log"), {})
    thread.join()
    assert (tmp_path / "stopped").read_text() == "SIGTERM"


def test_one_process_at_a_time_runs_a_grid(tmp_path):
    said = rf"process {os.getpid()} on \S+, since .* is writing into it"
    with run_lock(tmp_path), pytest.raises(UserError, match=said):
        run_cells([Cell("a", {})], CompareCommand(out=str(tmp_path)), Console(file=io.StringIO()))
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_slurm_that_is_not_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    states = [CellState(Cell("a", {}), tmp_path / "runs" / "a")]
    command = CompareCommand(out=str(tmp_path), launch=LaunchOptions(launcher="slurm"))
    with pytest.raises(UserError, match="squeue does not answer"):
        slurm.launch(states, command, lambda state: None)


def test_a_job_that_has_left_the_queue(tmp_path):
    state = CellState(Cell("a", {}), tmp_path / "runs" / "a")
    assert slurm.status_of(state, {"a": "7_0"}, {"7_0": "queued"}) == "queued"
    assert slurm.status_of(state, {"a": "7_0"}, {"7_1": "running"}) == "failed"
    state.directory.mkdir(parents=True)
    (state.directory / "log.jsonl").write_text('{"kind": "end", "step": 9}\n')
    assert slurm.status_of(state, {"a": "7_0"}, {}) == "done"
