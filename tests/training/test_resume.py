"""A run that was stopped equals one that was not, to the bit: for every method, optimiser and precision of a CPU, and whatever
number of threads brings the images."""

import itertools
import json
import os
import signal

import pytest
import torch

from commands.train import train
from methods.core.base import METHODS
from rundir.paths import last_checkpoint
from training.checkpoint import load_checkpoint

KINDS = list(itertools.product(("adamw", "sgd", "lars", "larc"), ("fp32", "bf16")))  # fp16 needs a CUDA device
TRAINED = [name for name in METHODS.names() if METHODS.get(name).trains]
#: Options of a method that have a state of their own.
OWN = {"weak_dino": {"targets": "label", "label_momentum": 0.9}}
#: Every method, each with another optimiser and precision, and one method with all of them.
CASES = sorted((name, *KINDS[place % len(KINDS)]) for place, name in enumerate(TRAINED))
CASES += [
    pytest.param("barlow_twins", *kind, marks=pytest.mark.slow)
    for kind in KINDS
    if ("barlow_twins", *kind) not in CASES
]


def equal(a: object, b: object) -> bool:
    """The same to the bit, of whatever a checkpoint holds."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def losses_of(run) -> list[float]:
    records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["kind"] == "step"]


@pytest.mark.parametrize(("method", "optimizer", "precision"), CASES)
def test_a_stopped_run_continues_to_the_bit(method, optimizer, precision, small, tmp_path, monkeypatch):
    kind = METHODS.get(method)
    options = {
        "optimizer": optimizer, "precision": precision, "epochs": 2, "knn_every": 0, "log_every": 1, "warmup_epochs": 1,
        "lr": 0.01, "stream": method == "barlow_twins", "backbone": "small_cnn" if method == "vicreg" else "small_vit",
        **OWN.get(method, {}),
    }  # fmt: skip
    whole = train(*small(tmp_path / "whole", method, **options))

    before_step = kind.before_step

    def and_signal(self, progress):
        if progress.step == 6:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        before_step(self, progress)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "before_step", and_signal)
        with pytest.raises(SystemExit):
            train(*small(tmp_path / "parts", method, **options))
    assert load_checkpoint(last_checkpoint(tmp_path / "parts"))["step"] == 7
    monkeypatch.setattr("training.batches.AHEAD", 1)
    monkeypatch.setattr("data.store.stream.processors", lambda: 5)
    parts = train(*small(tmp_path / "parts", method, **options))
    states = [load_checkpoint(last_checkpoint(run)) for run in (whole, parts)]
    assert all(state["step"] == 10 and state["optimizer"]["state"] for state in states)
    for entry in ("method", "optimizer"):
        assert equal(states[0][entry], states[1][entry]), entry
    assert losses_of(whole) == losses_of(parts) and len(losses_of(whole)) == 10
