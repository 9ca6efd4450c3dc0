"""A budget in images, minutes or operations, for methods whose steps cost differently. ``training.plan`` turns it into epochs."""

from __future__ import annotations

import re
import time

import torch

from common.distributed import all_reduce_mean, is_main
from common.errors import UsageError
from common.progress import track
from methods.core.base import Progress
from training.batches import Batches, split
from training.machine.devices import synchronize
from training.step import Stepper

KINDS = ("epochs", "images", "minutes", "flops")
#: Steps taken before and while a step is timed.
WARM_UP, TIMED = 3, 10


def parse_budget(text: str) -> tuple[str, float]:
    """Parse ``images=5e6`` into ("images", 5e6). Raises UsageError unless it is a kind and a positive number."""
    kind, _, amount = text.partition("=")
    if kind not in KINDS or not re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d+)?", amount) or not float(amount):
        raise UsageError(f"--budget {text}: give one of {', '.join(f'{kind}=NUMBER' for kind in KINDS)}")
    return kind, float(amount)


def minutes_of_a_step(stepper: Stepper, batches: Batches) -> float:
    """Time optimiser steps before training, since schedules have to know where they end. Returns the mean over processes; the
    caller throws the weights of ``stepper`` away."""
    stepper.method.train()
    # With more epochs, since the schedules of a short training could end before the last timed step.
    epochs = batches.config.epochs + WARM_UP + TIMED
    began = 0.0
    steps = track(batches.stream(0, WARM_UP + TIMED), "timing steps for the budget", WARM_UP + TIMED, show=is_main())
    for step, batch in enumerate(steps):
        if step == WARM_UP:
            synchronize(batches.device)
            began = time.perf_counter()
        stepper.step(split(batch, batches.config.accumulate), Progress(step, batches.steps_per_epoch, epochs))
    synchronize(batches.device)
    seconds = torch.tensor((time.perf_counter() - began) / TIMED, device=batches.device)
    return all_reduce_mean(seconds).item() / 60
