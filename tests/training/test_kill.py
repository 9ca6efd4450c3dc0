"""A run killed while it writes a checkpoint continues from the one before, to the same weights."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from commands.train import train
from common.errors import UserError
from rundir.paths import last_checkpoint
from training.checkpoint import load_checkpoint

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

#: Trains in a process of its own. The n-th checkpoint is cut short by SIGKILL: half of it has reached the temporary file.
SCRIPT = """
import importlib.util, io, os, signal, sys
from pathlib import Path
import torch
import training.checkpoint
from commands.train import train

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("small_runs", sys.argv[1])
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
kill_at, written = int(sys.argv[4]), 0
save = torch.save

def save_half(state, file):
    global written
    written += 1
    if written < kill_at:
        return save(state, file)
    whole = io.BytesIO()
    save(state, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

training.checkpoint.torch.save = save_half
train(*runs.small_run(Path(sys.argv[2]), Path(sys.argv[3]), knn_every=0))
"""


@pytest.mark.slow
def test_a_run_killed_in_a_checkpoint_continues(folder, small, tmp_path):
    run = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(HERE.parent / "small_runs.py"), str(folder), str(run), "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    path = last_checkpoint(run)
    assert (
        load_checkpoint(path)["step"] == 5
    )  # the second: after the first epoch; that of the second epoch was cut short
    assert list(path.parent.glob(".last.pt.*.tmp")), "nothing was half written, so this has tested nothing"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(*small(run, knn_every=0))
        whole = train(*small(tmp_path / "whole", knn_every=0))
    finally:
        torch.set_num_threads(threads)
    assert not list(path.parent.glob(".last.pt.*.tmp"))
    states = [load_checkpoint(last_checkpoint(r))["method"] for r in (run, whole)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"last\.pt: cannot be read as a checkpoint"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="no checkpoint of format 1"):
        load_checkpoint(path)
