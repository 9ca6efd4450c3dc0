"""``--extend``: a training goes on beyond the epochs that it was planned for.

Schedules are functions of the step and of the planned epochs, so from the step where the run stands they are those of the longer
plan: after a cosine has ended, the learning rate jumps back to where the longer cosine is at that step. Such a run is none of the
longer plan, so the option ``extended_from`` keeps the epochs of its earlier plans. Reports show it, and mark comparisons of such a
run with others as unequal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UsageError, UserError
from rundir.log import holds_work
from rundir.options import as_number, written_options
from rundir.paths import has_checkpoint
from training.config import TrainConfig


def with_extension(config: TrainConfig, asked: TrainConfig, extend: bool) -> TrainConfig:
    """Return resolved options with ``extended_from``, and with the warm-up that the run had unless the options ``asked`` for name
    one. Raises UsageError if options contradict each other, UserError if the directory holds no run that can be extended."""
    run = Path(config.out)
    written = written_options(run) if has_checkpoint(run) and holds_work(run) else {}
    before = as_number(written.get("epochs"))
    earlier = written.get("extended_from") or None
    if asked.extended_from is not None and asked.extended_from != earlier:
        epochs = asked.extended_from[0]
        raise UsageError(
            f"--extended_from is what --extend keeps: train with --epochs {epochs:g}, then with --epochs {config.epochs:g} --extend"
        )
    if extend:
        if config.budget is not None:
            raise UsageError("--extend: give the new --epochs in place of --budget")
        if before is None:
            raise UserError(f"--extend: {run} holds no training that could go on; leave --extend out to begin one")
        if config.epochs < before:
            raise UsageError(f"--extend: {run} is planned for {before:g} epochs already; give more --epochs than that")
        if config.epochs > before:
            earlier = [*(earlier or []), before]
    if earlier is None:
        return config
    warmup = written.get("warmup_epochs") if asked.warmup_epochs is None else config.warmup_epochs
    return dataclasses.replace(config, extended_from=earlier, warmup_epochs=warmup)


def is_extension(written: Mapping[str, Any], config: TrainConfig) -> bool:
    """Whether a run with the options ``written`` becomes, by these, one with further epochs."""
    return config.extended_from is not None and config.extended_from != written.get("extended_from")


def way_to_extend(written: Mapping[str, Any], config: TrainConfig) -> str:
    """Advice for a run with fewer epochs than are asked for; "" for others."""
    before = as_number(written.get("epochs"))
    if before is None or config.budget is not None or config.epochs <= before:
        return ""
    return (
        f". To train that run on, add --extend (its schedules go on as those of {config.epochs:g} epochs, and reports say so); "
        f"for a new schedule from its weights, add --init {config.out} and give another --out"
    )
