"""Two processes on different halves of a batch equal one on the whole of it: in loss, gradient, buffers and whole runs;
whether each has all weights (ddp) or a part of each (fsdp)."""

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training.batchnorm import GlobalBatchNorm, use_global_batchnorm
from training.checkpoint import last_checkpoint, load_checkpoint

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def load_cases():
    spec = importlib.util.spec_from_file_location("distributed_cases", HERE / "cases.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cases = load_cases()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Everything that needs two processes, done once: (folder with what they wrote, folder of images)."""
    out = tmp_path_factory.mktemp("two")
    folder = cases.small().make_folder(out / "images")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "SSL_COMPARE_CACHE": str(out / "cache"),
    }
    with (
        open(out / "said.txt", "w+") as said,
        subprocess.Popen(
            [*command, str(HERE / "cases.py"), str(folder), str(out)],
            env=environment,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as launcher,
    ):
        try:
            status = launcher.wait(timeout=400)
        finally:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)  # the launcher's children as well
    assert status == 0, (out / "said.txt").read_text()[:5000]
    return out, folder


@pytest.fixture(scope="module")
def alone():
    """What one process finds, by the case's name."""
    return functools.cache(cases.two_steps)


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


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", cases.CASES)
def test_loss_gradient_and_state(name, strategy, alone, two_processes):
    out, _ = two_processes
    first, second = (torch.load(out / f"rank{rank}.pt")[strategy][name] for rank in (0, 1))
    expected = alone(name)
    torch.testing.assert_close(first["losses"], expected["losses"], rtol=1e-5, atol=1e-6)
    assert_close(first["gradients"], expected["gradients"], "gradient of")
    assert_close(first["state"], expected["state"], "after two steps")
    assert all(torch.equal(first["state"][key], second["state"][key]) for key in first["state"]), "the processes differ"


def tensors_of(run):
    """Weights and moments of a run's last checkpoint, by name."""
    state = load_checkpoint(last_checkpoint(run))
    assert state["step"] == 4
    moments = {f"{n} {k}": v for n, own in state["optimizer"]["state"].items() for k, v in own.items()}
    assert moments
    return {**state["method"], **moments}


@pytest.mark.parametrize("optimizer", cases.OPTIMIZERS)
def test_what_is_shared_out_equals_what_is_not(optimizer, two_processes):
    """Weights, the teacher's among them, and moments after two epochs with clipped gradients."""
    out, _ = two_processes
    ours, reference = (tensors_of(out / f"{strategy}-{optimizer}") for strategy in ("fsdp", "ddp"))
    assert ours.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_checkpoint_continues_on_another_number_of_devices(two_processes, tmp_path, monkeypatch):
    """From two processes with all weights to two with parts; from those to one."""
    out, folder = two_processes
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(out / "cache"))
    cases.as_after_one_epoch(out / "fsdp-adamw", tmp_path / "alone")
    cases.sharded_run(folder, tmp_path / "alone", optimizer="adamw")
    reference = tensors_of(out / "ddp-adamw")
    for run in (out / "continued", tmp_path / "alone"):
        assert "resumed" in json.loads((run / "environment.json").read_text())
        ours = tensors_of(run)
        assert ours.keys() == reference.keys()
        for name, value in reference.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_recomputed_activations_change_nothing():
    """In one process the strategy is that alone; stochastic depth draws the same paths again."""
    usual, recomputed = (cases.two_steps("dino-vit", drop_path=0.5, strategy=s) for s in ("ddp", "fsdp"))
    assert torch.equal(usual["losses"], recomputed["losses"])
    assert_close(recomputed["gradients"], usual["gradients"], "gradient of")


def test_a_whole_run(two_processes, tmp_path, monkeypatch):
    """The same images, crops and order, whatever the number of processes. (Accumulated BatchNorm sees other parts of a batch
    in two processes than in one, so the losses are near, not equal.)"""
    out, folder = two_processes
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(out / "cache"))
    alone = cases.whole_run(folder, tmp_path / "run")
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (out / "run", alone)]
    assert [(r["kind"], r["step"]) for r in logs[0]] == [(r["kind"], r["step"]) for r in logs[1]]
    losses = np.array([[r["loss"] for r in log if r["kind"] == "step"] for log in logs])
    assert abs(losses[0, 0] / losses[1, 0] - 1) < 0.2
    assert logs[0][1]["top1"] == logs[1][1]["top1"]  # of the untrained network: no rounding can have grown
    states = [load_checkpoint(last_checkpoint(run)) for run in (out / "run", alone)]
    assert states[0]["step"] == states[1]["step"] == 4
    assert states[0]["method"].keys() == states[1]["method"].keys()


def test_accumulation_equals_the_whole_batch():
    """Without BatchNorm and with a loss that is a mean over images, parts of a batch give the batch's gradient."""
    whole, parts = (cases.two_steps("dino-vit", parts, centering="none") for parts in (1, 4))
    torch.testing.assert_close(parts["losses"][0], whole["losses"][0], rtol=1e-4, atol=1e-5)
    for name, gradient in whole["gradients"].items():
        torch.testing.assert_close(parts["gradients"][name], gradient, rtol=1e-3, atol=1e-6)


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
