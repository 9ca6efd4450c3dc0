"""Learning rates, weight decay and momentum, against the authors' (schedules.npz, barlow_trajectory.npz)."""

import json

import numpy as np

from common.schedules import cosine


def test_dino(golden, warmup_of, end_of):
    arrays = golden("schedules")
    steps = len(arrays["lr"])
    for name, warmup in (("lr", warmup_of(arrays["lr"])), ("wd", 0), ("momentum", 0)):
        start, end = arrays[name][warmup], 1.0 if name == "momentum" else end_of(arrays[name], warmup)
        ours = [cosine(start, end, step, steps, warmup) for step in range(steps)]
        assert np.abs(np.array(ours) - arrays[name]).max() < 1e-9, name


def test_barlow_twins(golden):
    arrays = golden("barlow_trajectory")
    meta = json.loads(str(arrays["meta"]))
    steps = meta["epochs"] * meta["steps_per_epoch"]
    warmup = meta["warmup_epochs"] * meta["steps_per_epoch"]
    for column, name in enumerate(("lr_weights", "lr_biases")):
        peak = meta[name] * meta["batch"] / 256
        ours = [cosine(peak, 0.001 * peak, step, steps, warmup, warmup_endpoint=False) for step in range(steps)]
        assert np.abs(np.array(ours) - arrays["lr_weights_biases"][:, column]).max() < 1e-9, name
