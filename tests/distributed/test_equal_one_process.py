"""Two and four processes on different parts of a batch equal one on the whole of it: in loss, gradient, buffers, online numbers
and whole runs; whether each has all weights (ddp) or a part of each (fsdp)."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.lock import owned_lock
from rundir.paths import last_checkpoint
from tests import small_runs
from tests.distributed import cases
from training.checkpoint import load_checkpoint
from training.machine.batchnorm import GlobalBatchNorm, use_global_batchnorm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def launch(processes, out, *words):
    """cases.py, as so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (
        open(out / "said.txt", "w+") as said,
        subprocess.Popen(
            [*command, str(HERE / "cases.py"), *map(str, words)],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
        ) as launcher,
    ):
        try:
            status = launcher.wait(timeout=1200)
        finally:
            launcher.terminate()  # it ends its processes, which are in sessions of their own
    assert status == 0, (out / "said.txt").read_text()[:5000]


def once(tmp_path_factory, name, make):
    """A folder that ``make(folder)`` has filled, once for all of pytest's workers that these tests are dealt out to."""
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"distributed-{name}"
    done = out.with_suffix(".done")
    with owned_lock(out.with_suffix(".lock"), lambda owner: None):
        if not done.exists():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            make(out)
            done.touch()
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """45 images to train on and five held out, which neither two nor four divide."""
    out = once(tmp_path_factory, "images", lambda out: small_runs.make_folder(out / "images", 50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_COMPARE_CACHE", str(out / "cache"))
        yield out / "images"


@pytest.fixture(scope="module")
def two_processes(folder, tmp_path_factory):
    """Everything that needs two processes, done once: the folder with what they wrote."""
    return once(tmp_path_factory, "two", lambda out: launch(2, out, folder, out))


@pytest.fixture(scope="module")
def four_processes(folder, two_processes, tmp_path_factory):
    """The same of four, which continue a run of the two."""
    return once(tmp_path_factory, "four", lambda out: launch(4, out, folder, out, two_processes))


@pytest.fixture
def several(request):
    """``several(processes, name)``: what they found, after a look that it is the same in all of them."""

    def load(processes, name):
        out = request.getfixturevalue({2: "two_processes", 4: "four_processes"}[processes])
        found = torch.load(out / f"{name}.pt")
        assert len(found["digests"]) == processes and len(set(found["digests"])) == 1, "the processes differ"
        return found

    return load


@pytest.fixture(scope="module")
def alone():
    """What one process finds, by the case's name; of the last one asked for, since they are large."""
    return functools.lru_cache(1)(lambda name: cases.steps({str(case): case for case in cases.EVERY}[name]))


def assert_close(ours, reference, what):
    """Equal to rounding: relative to each number, or to the largest of all."""
    assert ours.keys() == reference.keys()
    scale = max(float(t.abs().max()) for t in reference.values() if t.is_floating_point())
    for name, value in reference.items():
        if value.is_floating_point():
            torch.testing.assert_close(
                ours[name], value, rtol=1e-6, atol=1e-9 * scale, msg=lambda m, n=name: f"{what} {n}: {m}"
            )
        else:
            assert torch.equal(ours[name], value), f"{what} {name}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "processes", "strategy"),
    [(case, *kind) for case in cases.EVERY for kind, among in cases.CASES_OF.items() if case in among],
    ids=str,
)
def test_loss_gradient_and_state(case, processes, strategy, alone, several):
    found, expected = several(processes, f"{strategy}-{case}"), alone(str(case))
    torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-5, atol=1e-6)
    assert_close(found["gradients"], expected["gradients"], "gradient of")
    assert_close(found["same"], expected["same"], f"after {cases.STEPS} steps")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_no_image_is_counted_twice(processes, folder, several):
    """Of 45 and five images each process takes an equal share, the last of which are filled up."""
    expected = cases.online_numbers(folder)
    assert (expected["knn"]["bank"], expected["knn"]["n"]) == (45, 5)
    found = several(processes, "online")
    assert found["knn"] == expected["knn"]
    for ours, reference in zip(found["same"], expected["same"], strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-6)


def tensors_of(run):
    """Weights and moments of a run's last checkpoint, by name."""
    state = load_checkpoint(last_checkpoint(run))
    assert state["step"] == 4
    moments = {f"{n} {k}": v for n, own in state["optimizer"]["state"].items() for k, v in own.items()}
    assert moments
    return {**state["method"], **moments}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", cases.OPTIMIZERS)
def test_what_is_shared_out_equals_what_is_not(optimizer, two_processes):
    """Weights, the teacher's among them, and moments after two epochs with clipped gradients, with pictures or without."""
    assert_same_training(two_processes / f"fsdp-{optimizer}", two_processes / f"ddp-{optimizer}")
    drawn = (two_processes / f"fsdp-{optimizer}" / "figures").glob("training/attention-1-*.png")
    assert [file.name[-5:] for file in sorted(drawn)] == (["0.png", "2.png", "4.png"] if optimizer == "sgd" else [])


def assert_same_training(run, other):
    ours, reference = tensors_of(run), tensors_of(other)
    assert ours.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_checkpoint_continues_on_another_number_of_devices(folder, two_processes, four_processes, tmp_path):
    """From two processes with all weights to two with parts; from those, damaged, to four; from two and from four to one."""
    runs = [two_processes / "continued", four_processes / "damaged"]
    for of_several in (two_processes, four_processes):
        runs.append(tmp_path / of_several.name)
        cases.as_after_one_epoch(of_several / "fsdp-adamw", runs[-1])
        cases.sharded_run(folder, runs[-1], optimizer="adamw")
    for run in runs:
        assert "resumed" in json.loads((run / "environment.json").read_text())
        assert_same_training(run, two_processes / "ddp-adamw")
    said = (four_processes / "said.txt").read_text()
    assert said.count("step-2.pt is taken in its place") == 1 and "continuing after step 2 of 4" in said


def test_recomputed_activations_change_nothing():
    """In one process the strategy is that alone; stochastic depth draws the same paths again."""
    usual, recomputed = (cases.steps(cases.Case("dino", {}), drop_path=0.5, strategy=s) for s in ("ddp", "fsdp"))
    assert torch.equal(usual["losses"], recomputed["losses"])
    assert_close(recomputed["gradients"], usual["gradients"], "gradient of")


@pytest.mark.slow
def test_a_whole_run(folder, two_processes, tmp_path):
    """The same images, crops and order, whatever the number of processes. (Accumulated BatchNorm sees other parts of a batch
    in two processes than in one, so the losses are near, not equal.)"""
    alone = cases.whole_run(folder, tmp_path / "run")
    runs = (two_processes / "run", alone)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs]
    assert [(r["kind"], r["step"]) for r in logs[0]] == [(r["kind"], r["step"]) for r in logs[1]]
    losses = np.array([[r["loss"] for r in log if r["kind"] == "step"] for log in logs])
    assert abs(losses[0, 0] / losses[1, 0] - 1) < 0.2
    assert logs[0][1]["top1"] == logs[1][1]["top1"]  # of the untrained network: no rounding can have grown
    states = [load_checkpoint(last_checkpoint(run)) for run in runs]
    assert states[0]["step"] == states[1]["step"] == 4
    assert states[0]["method"].keys() == states[1]["method"].keys()


def test_batchnorm_is_replaced_in_place():
    norm = torch.nn.BatchNorm2d(4, momentum=0.3)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), norm)
    names = list(module.state_dict())
    x = torch.randn(5, 3, 2, 2)
    expected = module(x)
    running = norm.running_mean.clone()
    norm.reset_running_stats()
    module = use_global_batchnorm(module, torch.device("cpu"))
    assert isinstance(module[1], GlobalBatchNorm) and list(module.state_dict()) == names
    torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module[1].running_mean, running)
