"""Training: everything is set up here, ``training.loop`` holds the loop, ``training.step`` what a step is."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from backbones.formats.source import Source
from commands.visualize import draw_for_run
from common.distributed import is_distributed, is_main
from common.errors import UserError
from common.files import remove_unfinished
from eval.core.base import EvaluationConfig
from eval.core.context import make_context
from eval.core.online import Monitor
from eval.core.options import WeightsOptions
from eval.core.run import run_evaluations
from methods.core.base import METHODS, Method, MethodConfig, steps_of
from rundir.lock import run_lock
from rundir.log import end_of, has_log, whole_end_of
from rundir.options import write_options
from rundir.paths import has_checkpoint
from training.batches import Batches, BatchSource
from training.budget import within_budget
from training.config import TrainConfig
from training.diagnostics import CollapseWatch
from training.initial import advice, start_from, with_initial_weights
from training.loop import Session
from training.machine.devices import pick_device, process_group
from training.machine.failures import explained
from training.plan import build_method, costs_of, images_of, print_plan, require_same_images
from training.resolve import options_of, require_same_run
from training.step import Stepper

__all__ = ["end_of", "plan", "print_plan", "train", "train_task", "whole_end_of"]


def train(
    config: TrainConfig,
    method_config: MethodConfig,
    evaluations: Mapping[str, EvaluationConfig] | None = None,
    resume: bool = True,
) -> Path:
    """Pre-train a backbone, or continue where its run directory stops; then evaluate it.

    Args:
        config: options; see ``training.config``.
        method_config: the method's own.
        evaluations: by name, what to measure afterwards, with its options.
        resume: continue what the run directory holds; if not, it has to be free.

    Returns:
        the run directory.

    Raises:
        UsageError, UserError: options or data are wrong; the directory holds another run, or another process writes into it; the
            loss is no longer finite; memory does not suffice, or another process of the training has died.
        SystemExit: stopped by SIGINT, SIGTERM or SIGUSR1, after a checkpoint; the status is 128 + the signal's number.
    """
    evaluations = evaluations or {}
    with ExitStack() as held:
        with process_group(config.device):
            config, initial = with_initial_weights(within_budget(config, method_config))
            run = Path(config.out)
            main = is_main()
            if main:
                held.enter_context(run_lock(run))
            if not resume and has_log(run):
                raise UserError(f"{run} holds a run, which --resume never does not continue; give another --out")
            require_same_run(run, config, method_config)
            begins = not has_checkpoint(run)
            if not begins and (evaluations or whole_end_of(run) is None):
                require_same_images(run, config)
            if is_distributed():
                dist.barrier()  # all have looked before the first writes
            options = options_of(config, method_config, evaluations)
            if main:
                remove_unfinished(run)
                write_options(run, options)
            if (end := whole_end_of(run)) is None:
                _train(run, config, method_config, options, initial if begins else None)
            elif main:
                print(f"{run}: training ended already, after {end['minutes']:.1f} minutes; nothing to train")
        if main and evaluations:
            context = make_context(
                WeightsOptions(weights=str(run), device=config.device, precision=config.precision, seed=config.seed)
            )
            run_evaluations(list(evaluations), evaluations, context)
    if main and config.visualize:
        draw_for_run(run, config.visualize)
    return run


def train_task(
    config: TrainConfig, options: dict[str, Any], method: Method, batches: BatchSource, **about: Any
) -> None:
    """Train something that brings its own network and batches (segmentation), or continue where its run directory stops: the
    same loop, run directory, checkpoints and resumption as of any method, without the online k-NN and the plan.

    Args:
        config: resolved options; ``out`` is the run directory.
        options: everything that the run depends on, for its ``config.yaml`` and its checkpoints.
        method: with its initial weights.
        batches: what it is trained on.
        about: for the log's first record.

    Raises: as ``train``.
    """
    run = Path(config.out)
    if is_main():
        remove_unfinished(run)
        write_options(run, options)
    device = pick_device(config.device)
    parameters = sum(p.numel() for p in method.backbone.parameters())
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    costs = {"parameters": parameters, "trained_parameters": trained}
    with explained(config, method, device, dict):
        stepper = Stepper(method, config, device)
        Session(run, config, options, stepper, batches, CollapseWatch(None, 0), None, about, lambda: costs).run()


def _train(
    run: Path, config: TrainConfig, method_config: MethodConfig, options: dict[str, Any], initial: Source | None
) -> None:
    """Set a method's training up, and run it. ``initial``: weights to start from, where it begins."""
    device = pick_device(config.device)
    train_store, held_out = images_of(config)
    method = build_method(config, method_config, train_store.num_classes)
    about = {"images": len(train_store), "held_out": len(held_out), "fingerprint": train_store.fingerprint}
    if initial is not None:
        about["initial"] = start_from(method, initial, config.backbone)
        if is_main():
            print(f"{run}: starts from {about['initial']}")
            if warning := advice(config, method_config):
                print(warning)
    views = list(method.views(method_config, config.image_size))
    costs = functools.cache(lambda: costs_of(config, method_config, train_store))

    def logged() -> dict[str, Any]:
        return {name: value for name, value in costs().items() if name != "memory_gib"}

    with explained(config, method, device, lambda: costs()["memory_gib"]):
        stepper = Stepper(method, config, device)
        method = stepper.method
        batches = Batches(train_store, views, config, device) if method.trains else None
        monitor = Monitor(method, views, train_store, held_out, config, device)
        warmup_steps = round(config.warmup_epochs * batches.steps_per_epoch) if batches else 0
        watch = CollapseWatch(getattr(method_config, "out_dim", None), warmup_steps)
        Session(run, config, options, stepper, batches, watch, monitor, about, logged).run()


def plan(config: TrainConfig, method_config: MethodConfig) -> dict[str, Any]:
    """What ``train`` would do: resolved ``options``, ``device``, ``images``, ``held_out``, ``steps_per_epoch``,
    ``total_steps``, ``left_out`` (images each epoch), ``images_seen``, and the costs of ``training.plan.cost_of``. Decodes the
    data set if that has not happened yet; trains nothing and writes no run directory."""
    config = within_budget(config, method_config)
    store, held_out = images_of(config)
    costs = costs_of(config, method_config, store)
    per_epoch = len(store) // config.batch_size if METHODS.get(config.method).trains else 0
    total = steps_of(config.epochs, per_epoch) if per_epoch else 0
    return {
        "options": {**asdict(config), **asdict(method_config)},
        "device": str(pick_device(config.device)),
        "images": len(store),
        "held_out": len(held_out),
        "steps_per_epoch": per_epoch,
        "total_steps": total,
        "left_out": len(store) - per_epoch * config.batch_size if per_epoch else 0,
        "images_seen": total * config.batch_size,
        **costs,
    }
