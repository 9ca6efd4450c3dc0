"""From the options given to the options of a run: defaults that depend on others, checks, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbones import check_name
from common.distributed import world_size
from common.errors import UsageError, UserError, unknown_name
from common.files import read_yaml
from data.datasets import default_image_size
from methods.core.base import MethodConfig
from reports.visual.options import RUN_PICTURES
from rundir.options import INCIDENTAL, written_options
from training.config import TrainConfig
from training.machine.devices import pick_device, pick_precision

#: Side in pixels of the largest images that are trained on or evaluated: their store alone is too large for any disk beyond it.
MAX_IMAGE_SIZE = 4096


def resolve(config: TrainConfig) -> TrainConfig:
    """A copy with every default filled in that depends on other options, the data set or the machine. All checks of single
    options are here, too.

    Raises:
        UsageError: an option out of its range, or options that contradict each other.
    """
    _check(config)
    precision = pick_precision(config.precision, pick_device(config.device))
    if config.strategy == "fsdp" and precision == "fp16":
        raise UsageError("--strategy fsdp trains in bf16 or fp32; give --precision bf16 or fp32")
    if config.strategy == "fsdp" and config.compile:
        raise UsageError("--compile works with --strategy ddp only; leave one of the two out")
    return dataclasses.replace(_on_any_machine(config), precision=precision)


def _on_any_machine(config: TrainConfig) -> TrainConfig:
    """A copy with every default filled in but the machine's."""
    name = re.sub(r"[^A-Za-z0-9_.=+-]", "_", f"{config.method}-{config.backbone}-{config.data}-{config.seed}")
    return dataclasses.replace(
        config,
        out=config.out or f"runs/{name}",
        image_size=config.image_size or default_image_size(config.data),
        warmup_epochs=min(10.0, config.epochs / 10) if config.warmup_epochs is None else config.warmup_epochs,
        weight_decay_end=config.weight_decay if config.weight_decay_end is None else config.weight_decay_end,
    )


def _check(config: TrainConfig) -> None:
    def require(holds: bool, option: str, what: str) -> None:
        if not holds:
            raise UsageError(f"--{option} {getattr(config, option)}: {what}")

    check_name(config.backbone)
    for what in config.visualize or []:
        if what not in RUN_PICTURES:
            raise unknown_name("picture of a run", what, RUN_PICTURES)
    for option, value in dataclasses.asdict(config).items():
        require(not isinstance(value, float) or math.isfinite(value), option, "give a finite number")
    require(config.epochs > 0, "epochs", "give more than 0")
    for option in ("batch_size", "accumulate", "checkpoint_every", "keep_checkpoints", "log_every"):
        require(getattr(config, option) >= 1, option, "give at least 1")
    for option in ("lr", "min_lr", "min_lr_scale", "weight_decay", "clip_grad", "knn_every", "seed"):
        require(getattr(config, option) >= 0, option, "give 0 or more")
    if config.image_size is not None:
        check_image_size("image_size", config.image_size)
    require(config.seed < 2**63, "seed", "give less than 2 to the power of 63")
    require(config.weight_decay_end is None or config.weight_decay_end >= 0, "weight_decay_end", "give 0 or more")
    require(0 <= config.momentum < 1, "momentum", "give 0 or more and less than 1")
    warmup = config.warmup_epochs
    require(warmup is None or 0 <= warmup <= config.epochs, "warmup_epochs", f"give 0 to --epochs, {config.epochs}")
    parts = config.accumulate * world_size()
    if config.batch_size % parts:
        raise UsageError(
            f"--batch_size {config.batch_size} cannot be split into {config.accumulate} accumulation steps on each of "
            f"{world_size()} processes; give a multiple of {parts}"
        )
    if config.paired_views is not None and config.pairing == "same_image":
        raise UsageError(
            "--paired_views says which views --pairing same_label draws from other images; add that option"
        )
    require(0 <= config.pairing_start <= config.epochs, "pairing_start", f"give 0 to --epochs, {config.epochs:g}")
    if config.pairing_start and config.pairing == "same_image":
        raise UsageError("--pairing_start says when --pairing same_label begins; add that option")


def check_image_size(option: str, size: int) -> None:
    """Raises UsageError for a side in pixels that no memory has room for, or that shows nothing."""
    if not 8 <= size <= MAX_IMAGE_SIZE:
        raise UsageError(f"--{option} {size}: give 8 to {MAX_IMAGE_SIZE} pixels")


def options_of(config: TrainConfig, method_config: MethodConfig, evaluations: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a run, as the command line names them: plain values and lists."""
    options = {**dataclasses.asdict(config), **dataclasses.asdict(method_config)}
    for name, evaluation in evaluations.items():
        options |= {f"{name}_{option}": value for option, value in dataclasses.asdict(evaluation).items()}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def require_same_run(run: Path, config: TrainConfig, method_config: MethodConfig) -> None:
    """See that a run directory is free, or holds this very run.

    Raises:
        UserError: it holds a run with other options, which are named, or one of unknown options.
    """
    file = run / "config.yaml"
    if not file.exists():
        for kind in ("log.jsonl", "checkpoints"):
            if (run / kind).exists():
                raise UserError(
                    f"{run} holds {kind} but no config.yaml, so what was trained is unknown; give another --out"
                )
        return
    try:
        there = read_yaml(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); give another --out") from error
    if not isinstance(there, dict):
        raise UserError(f"{file}: holds no mapping of options to values; give another --out")
    now = options_of(config, method_config, {})
    differing = [name for name in now if name not in INCIDENTAL and there.get(name) != now[name]]
    if differing:
        what = "; ".join(f"{name} was {there.get(name)}, now {now[name]}" for name in differing)
        raise UserError(f"{run} holds a run with other options ({what}); give another --out, or those options")


def other_options(run: Path, config: TrainConfig, method_config: MethodConfig) -> str:
    """In which options what is asked for differs from the run that a directory holds, in words; "" where in none, or where nothing
    is known of a run there. What the machine decides does not count, for runs may come from another one: what
    ``auto`` stands for, the epochs of a budget, what is read from initial weights."""
    there = written_options(run)
    now = options_of(_on_any_machine(config), method_config, {})
    open_ones = {"precision"} if config.precision == "auto" else set()
    if config.budget is not None:  # which is compared itself
        open_ones |= {"epochs", "warmup_epochs"}
    if config.init is not None:  # read from the file where they are not given
        open_ones |= {name for name in ("init_sha256", "init_labels") if now[name] is None}
    differing = [n for n in now if n in there and n not in INCIDENTAL and n not in open_ones and there[n] != now[n]]
    return "; ".join(f"{name} was {there[name]}, now {now[name]}" for name in differing)


def is_out_of_date(run: Path, config: TrainConfig, evaluations: Mapping[str, Any]) -> bool:
    """Whether a finished run is to be gone through again: its data lie in another folder now, which may hold other images, or one
    of these evaluations (name to options) was last asked for with other options. False where nothing is known."""
    there = written_options(run)
    now = {"data_root": config.data_root}
    for name, options in evaluations.items():
        now |= {f"{name}_{option}": value for option, value in dataclasses.asdict(options).items()}
    return any(option in there and there[option] != value for option, value in now.items())
