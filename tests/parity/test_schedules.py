"""Learning rates, weight decay and momentum, against the authors' (schedules.npz, barlow_trajectory.npz)."""

import json

import numpy as np

from common.schedules import cosine


def test_dino(golden):
    arrays = golden("schedules")
    lr = [cosine(5e-4 * 512 / 256, 1e-6, step, 70, warmup_steps=21) for step in range(70)]
    weight_decay = [cosine(0.04, 0.4, step, 70) for step in range(70)]
    momentum = [cosine(0.996, 1.0, step, 70) for step in range(70)]
    for ours, name in ((lr, "lr"), (weight_decay, "wd"), (momentum, "momentum")):
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
