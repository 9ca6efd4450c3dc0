"""A budget in images, minutes or operations, as the epochs it is enough for: so that methods whose steps cost differently can be
given the same."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path

import torch

from common.distributed import all_reduce_mean
from common.errors import UsageError, UserError
from methods.core.base import METHODS, MethodConfig, Progress
from rundir.options import written_options
from training.batches import Batches, split
from training.config import TrainConfig
from training.machine.devices import pick_device, synchronize
from training.plan import build_method, costs_of, images_of
from training.resolve import resolve
from training.step import Stepper

KINDS = ("epochs", "images", "minutes", "flops")
#: Steps taken before and while a step is timed, for a budget of minutes.
WARM_UP, TIMED = 3, 10


def parse_budget(text: str) -> tuple[str, float]:
    """``images=5e6`` as ("images", 5e6). Raises UsageError for anything else than a kind and a positive number."""
    kind, _, amount = text.partition("=")
    if kind not in KINDS or not re.fullmatch(r"\d+(\.\d*)?([eE]\+?\d+)?", amount) or not float(amount):
        raise UsageError(f"--budget {text}: give one of {', '.join(f'{kind}=NUMBER' for kind in KINDS)}")
    return kind, float(amount)


def within_budget(config: TrainConfig, method_config: MethodConfig) -> TrainConfig:
    """The resolved options of a run (``training.resolve``), with the epochs that its budget is enough for.

    A budget of minutes is turned into epochs by timing some steps, whose weights are thrown away: the schedules have to know
    where they end. What the run then takes is in its log. A run directory that has begun keeps the epochs it began with.

    Raises:
        UsageError: not a budget, or an option that contradicts another.
        UserError: operations of this method cannot be counted.
    """
    if config.budget is None or not METHODS.get(config.method).trains:
        return resolve(config)
    kind, amount = parse_budget(config.budget)
    resolved = resolve(dataclasses.replace(config, warmup_epochs=0.0))  # whose end is not known yet
    begun = written_options(Path(resolved.out))
    if begun.get("budget") == config.budget and isinstance(begun.get("epochs"), (int, float)):
        epochs = float(begun["epochs"])
    elif kind == "epochs":
        epochs = amount
    else:
        store = images_of(resolved)[0]
        views = list(METHODS.get(config.method).views(method_config, resolved.image_size))
        batches = Batches(store, views, resolved, pick_device(resolved.device))
        steps = amount / _cost_of_a_step(kind, resolved, method_config, batches)
        epochs = steps / batches.steps_per_epoch
    return resolve(dataclasses.replace(config, epochs=epochs))


def _cost_of_a_step(kind: str, config: TrainConfig, method_config: MethodConfig, batches: Batches) -> float:
    """Images, minutes or operations of an optimiser step."""
    if kind == "images":
        return config.batch_size
    if kind == "flops":
        flops = costs_of(config, method_config, batches.store)["training_flops"]
        if flops is None:
            raise UserError(f"--budget {config.budget}: operations of {config.method} cannot be counted; give images=…")
        return flops * config.batch_size
    stepper = Stepper(build_method(config, method_config, batches.store.num_classes), config, batches.device)
    stepper.method.train()
    # As if inside a long training: the schedules of a short one could end before the last step that is timed.
    epochs = config.epochs + WARM_UP + TIMED
    began = 0.0
    for step, batch in enumerate(batches.stream(0, WARM_UP + TIMED)):
        if step == WARM_UP:
            synchronize(batches.device)
            began = time.perf_counter()
        stepper.step(split(batch, config.accumulate), Progress(step, batches.steps_per_epoch, epochs))
    synchronize(batches.device)
    seconds = torch.tensor((time.perf_counter() - began) / TIMED, device=batches.device)
    return all_reduce_mean(seconds).item() / 60
