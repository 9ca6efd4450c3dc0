"""Resolve the given options into a run's options, check them, and compare them with a run directory's ``config.yaml``."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from backbones import check_name
from common.distributed import world_size
from common.errors import UsageError, UserError
from common.files import as_file_name
from common.options import check, options_without_effect
from data.datasets import default_image_size
from methods.core.base import METHODS, Method, MethodConfig
from methods.core.recipes import defaults_of
from rundir.log import holds_work
from rundir.options import require_options, written_options
from rundir.paths import CHECKPOINTS, CONFIG, LOG, RESULTS
from training.config import TrainConfig
from training.extension import is_extension, way_to_extend
from training.machine.devices import pick_device, pick_precision

#: Options that may differ between a run and its continuation.
WITHOUT_EFFECT = options_without_effect(TrainConfig)


def resolve(config: TrainConfig) -> TrainConfig:
    """Fill in defaults that depend on other options, the data set or the machine. Raises UsageError for an option out of its range,
    or options that contradict each other."""
    _check(config)
    precision = pick_precision(config.precision, pick_device(config.device))
    if config.strategy == "fsdp" and precision == "fp16":
        raise UsageError("--strategy fsdp trains in bf16 or fp32; give --precision bf16 or fp32")
    if config.strategy == "fsdp" and config.compile:
        raise UsageError("--compile works with --strategy ddp only; leave one of the two out")
    return dataclasses.replace(_on_any_machine(config), precision=precision)


def _on_any_machine(config: TrainConfig) -> TrainConfig:
    """Fill in every default that does not depend on the machine."""
    name = as_file_name(f"{config.method}-{config.backbone}-{config.data}-{config.seed}")
    return dataclasses.replace(
        config,
        out=config.out or f"runs/{name}",
        image_size=config.image_size or default_image_size(config.data),
        warmup_epochs=_warmup(config) if config.warmup_epochs is None else config.warmup_epochs,
        weight_decay_end=config.weight_decay if config.weight_decay_end is None else config.weight_decay_end,
    )


def _warmup(config: TrainConfig) -> float:
    """The default warm-up in epochs. Small data sets have one for all methods, so that only the methods differ; trainings inside
    evaluations (``finetune``) are no methods by name."""
    own = config.recipe == "published" and config.method in METHODS.names()
    epochs, part = (METHODS.get(config.method) if own else Method).warmup
    return min(epochs, config.epochs * part)


def _check(config: TrainConfig) -> None:
    check_name(config.backbone)
    check(config)
    for option in ("warmup_epochs", "pairing_start"):
        value = getattr(config, option)
        if value is not None and value > config.epochs:
            raise UsageError(f"--{option} {value}: give 0 to --epochs, {config.epochs:g}")
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
    if config.pairing_start and config.pairing == "same_image":
        raise UsageError("--pairing_start says when --pairing same_label begins; add that option")


def options_of(config: TrainConfig, method_config: MethodConfig, evaluations: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a run, as the command line names them: plain values and lists."""
    options = {**dataclasses.asdict(config), **dataclasses.asdict(method_config)}
    options |= _options_of_evaluations(evaluations)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def _options_of_evaluations(evaluations: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name}_{option}": value
        for name, evaluation in evaluations.items()
        for option, value in dataclasses.asdict(evaluation).items()
    }


def require_same_run(run: Path, config: TrainConfig, method_config: MethodConfig) -> bool:
    """Whether a run directory holds a run with these options. An option that it was not written with, since the toolkit has got it
    later, has its default there. Raises UserError, naming the options, if the directory holds work of a run with other options, or
    with unknown ones; a start that took no step is no work."""
    if not holds_work(run):
        written = written_options(run)
        return "method" in written and not _differing(written, config, method_config)
    if not (run / CONFIG).exists():
        kind = next(kind for kind in (CHECKPOINTS, LOG, RESULTS) if (run / kind).exists())
        raise UserError(f"{run} holds {kind} but no {CONFIG}, so what was trained is unknown; give another --out")
    written = require_options(run)
    if "method" not in written or "weights" in written:
        raise UserError(f"{run} holds the results of an evaluation, and no training; give another --out")
    if differing := _differing(written, config, method_config):
        raise UserError(
            f"{run} holds a run with other options ({differing}); give another --out, or those options"
            f"{way_to_extend(written, config)}"
        )
    return True


def _differing(written: Mapping[str, Any], config: TrainConfig, method_config: MethodConfig) -> str:
    """Say in which options a run differs from a resolved one."""
    ignored = {*WITHOUT_EFFECT, *(("epochs", "extended_from", "budget") if is_extension(written, config) else ())}
    return _differences(_with_defaults(written, config, method_config), options_of(config, method_config, {}), ignored)


def other_options(run: Path, config: TrainConfig, method_config: MethodConfig) -> str:
    """Say in which options a run differs from the run in a directory; "" for none, or for an unknown run. Values that the machine
    decides do not count: the precision of ``auto``, the epochs of a budget, facts about initial weights."""
    now = options_of(_on_any_machine(config), method_config, {})
    ignored = {*WITHOUT_EFFECT}
    if config.precision == "auto":
        ignored.add("precision")
    if config.budget is not None:  # the budget itself is compared
        ignored |= {"epochs", "warmup_epochs"}
    if config.init is not None:  # read from the file where they are not given
        ignored |= {name for name in ("init_sha256", "init_labels") if now[name] is None}
    written = written_options(run) if holds_work(run) else {}
    return _differences(_with_defaults(written, config, method_config), now, ignored) if written else ""


def _with_defaults(written: Mapping[str, Any], config: TrainConfig, method_config: MethodConfig) -> dict[str, Any]:
    """A run's options, with the default of each that it lacks. A default that depends on the machine is taken as equal."""

    def without_missing(given: Any, defaults: Any) -> Any:
        missing = [f.name for f in dataclasses.fields(given) if f.name not in written]
        return dataclasses.replace(given, **{name: getattr(defaults, name) for name in missing})

    recipe, own = defaults_of(METHODS.get(config.method), written.get("recipe", TrainConfig.recipe))
    options = options_of(
        _on_any_machine(without_missing(config, TrainConfig(**recipe))), without_missing(method_config, own), {}
    )
    return {**options, "precision": config.precision, **written}


def is_out_of_date(run: Path, config: TrainConfig, evaluations: Mapping[str, Any]) -> bool:
    """True if a finished run must be evaluated again: its data are in another folder, which may hold other images, or an evaluation
    has other options. False for an unknown run."""
    now = {"data_root": config.data_root, **_options_of_evaluations(evaluations)}
    defaults = _options_of_evaluations({name: type(evaluation)() for name, evaluation in evaluations.items()})
    written = written_options(run)
    return bool(written) and bool(_differences({**defaults, **written}, now))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], ignored: Collection[str] = ()) -> str:
    """Say which options differ, among options that both have."""
    names = [name for name in now if name in before and name not in ignored and before[name] != now[name]]
    return "; ".join(f"{name} was {before[name]}, now {now[name]}" for name in names)
