"""Training: everything is set up here, ``training.loop`` holds the loop, ``training.step`` what a step is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from backbones import build_backbone
from common.distributed import is_distributed, is_main
from common.errors import UserError
from data.datasets import open_dataset
from data.store import ImageStore
from eval import run_evaluations
from eval.base import EvaluationConfig
from eval.context import make_context
from methods.base import METHODS, Method, MethodConfig
from training.batches import MODEL, Batches, BatchSource, seed_of, short_side_for
from training.checkpoint import last_checkpoint, remove_unfinished
from training.config import TrainConfig
from training.devices import pick_device, process_group
from training.diagnostics import CollapseWatch
from training.loop import Session, end_of
from training.monitor import Monitor, hold_out
from training.plan import cost_of, print_plan
from training.resolve import options_of, require_same_run, resolve, write_config
from training.step import Stepper

__all__ = ["end_of", "plan", "print_plan", "train", "train_task"]


def train(
    config: TrainConfig, method_config: MethodConfig, evaluations: Mapping[str, EvaluationConfig] | None = None
) -> Path:
    """Pre-train a backbone, or continue where its run directory stops; then evaluate it.

    Args:
        config: options; see ``training.config``.
        method_config: the method's own.
        evaluations: by name, what to measure afterwards, with its options.

    Returns:
        the run directory.

    Raises:
        UsageError, UserError: options or data are wrong; the directory holds another run; the loss is no longer finite.
        SystemExit: stopped by SIGINT or SIGTERM, after a checkpoint; the status is 128 + the signal's number.
    """
    evaluations = evaluations or {}
    with process_group(config.device):
        config = resolve(config)
        run = Path(config.out)
        require_same_run(run, config, method_config)
        if is_distributed():
            dist.barrier()  # all have looked before the first writes
        options = options_of(config, method_config, evaluations)
        if is_main():
            write_config(run, options)
            remove_unfinished(last_checkpoint(run))
        if (end := end_of(run)) is not None:
            if is_main():
                print(f"{run}: training ended already, after {end['minutes']:.1f} minutes; nothing to train")
        else:
            _train(run, config, method_config, options)
        main = is_main()
    if main and evaluations:
        context = make_context(str(run), None, None, None, None, config.device, config.precision, None, config.seed)
        run_evaluations(list(evaluations), evaluations, context)
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
        write_config(run, options)
        remove_unfinished(last_checkpoint(run))
    stepper = Stepper(method, config, pick_device(config.device))
    parameters = sum(p.numel() for p in method.backbone.parameters())
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    costs = {"parameters": parameters, "trained_parameters": trained}
    Session(run, config, options, stepper, batches, CollapseWatch(None, 0), None, about, costs).run()


def _train(run: Path, config: TrainConfig, method_config: MethodConfig, options: dict[str, Any]) -> None:
    """Set a method's training up, and run it."""
    device = pick_device(config.device)
    train_store, held_out = _images(config)
    method = build_method(config, method_config, train_store.num_classes)
    views = list(method.views(method_config, config.image_size))
    costs = _costs(config, method_config, train_store)
    stepper = Stepper(method, config, device)
    method = stepper.method
    batches = Batches(train_store, views, config, device) if method.trains else None
    monitor = Monitor(method, views, train_store, held_out, config, device)
    warmup_steps = round(config.warmup_epochs * batches.steps_per_epoch) if batches else 0
    watch = CollapseWatch(getattr(method_config, "out_dim", None), warmup_steps)
    about = {"images": len(train_store), "held_out": len(held_out), "fingerprint": train_store.fingerprint}
    costs = {name: value for name, value in costs.items() if name != "memory_gib"}
    Session(run, config, options, stepper, batches, watch, monitor, about, costs).run()


def build_method(config: TrainConfig, method_config: MethodConfig, num_classes: int) -> Method:
    """A freshly initialised method; its weights are a function of the seed."""
    torch.manual_seed(seed_of(MODEL, config.seed))

    def make_backbone(**hints: Any) -> Any:
        return build_backbone(config.backbone, config.image_size, **hints)

    return METHODS.get(config.method)(method_config, make_backbone, num_classes)


def _images(config: TrainConfig) -> tuple[ImageStore, ImageStore]:
    """The images to train on, and those held out for the online k-NN. Of several processes the first decodes them."""
    root = None if config.data_root is None else Path(config.data_root)
    store = open_dataset(config.data, "train", root, short_side_for(config.image_size))
    if METHODS.get(config.method).uses_labels:
        labelled = (store.labels >= 0).any() if store.label_sets is None else store.label_sets.any()
        if not labelled:
            raise UserError(f"--method {config.method} needs labels, and no training image of {config.data} has one")
    trained, held_out = hold_out(len(store), config.knn_every)
    return store.subset(trained), store.subset(held_out)


def _costs(config: TrainConfig, method_config: MethodConfig, store: ImageStore) -> dict[str, Any]:
    views = list(METHODS.get(config.method).views(method_config, config.image_size))
    labels = None if store.label_sets is None else store.num_classes
    return cost_of(lambda: build_method(config, method_config, store.num_classes), views, config, labels)


def plan(config: TrainConfig, method_config: MethodConfig) -> dict[str, Any]:
    """What ``train`` would do: resolved ``options``, ``device``, ``images``, ``held_out``, ``steps_per_epoch``,
    ``total_steps``, ``left_out`` (images each epoch), ``images_seen``, and the costs of ``training.plan.cost_of``. Decodes the
    data set if that has not happened yet; trains nothing and writes no run directory."""
    config = resolve(config)
    store, held_out = _images(config)
    costs = _costs(config, method_config, store)
    per_epoch = len(store) // config.batch_size if METHODS.get(config.method).trains else 0
    return {
        "options": {**asdict(config), **asdict(method_config)},
        "device": str(pick_device(config.device)),
        "images": len(store),
        "held_out": len(held_out),
        "steps_per_epoch": per_epoch,
        "total_steps": per_epoch * config.epochs,
        "left_out": len(store) - per_epoch * config.batch_size if per_epoch else 0,
        "images_seen": per_epoch * config.batch_size * config.epochs,
        **costs,
    }
