"""The plan of a run: all decisions before it trains, and its costs. A run makes one plan and hands it down."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import build_backbone
from backbones.formats.released import is_released
from backbones.formats.source import Source
from common.errors import UserError
from common.schedules import steps_of
from data.datasets import list_images, open_dataset
from data.store.listing import Listing
from data.store.store import ImageStore
from data.views.spec import View
from methods.core.base import METHODS, Method, MethodConfig, ViewBatch
from rundir.log import holds_work
from rundir.options import written_options
from training.batches import MODEL, Batches, hold_out, seed_of, short_side_for
from training.budget import minutes_of_a_step, parse_budget
from training.config import TrainConfig
from training.costs import cost_of, empty_batch, most_costs
from training.extension import with_extension
from training.initial import with_initial_weights
from training.machine.devices import pick_device
from training.resolve import options_of, resolve
from training.step import Stepper


@dataclass
class Plan:
    """A run before it begins, with resolved options, those of later evaluations by name, and the weights to start from (None: fresh
    ones, or the run directory's checkpoint). The first use opens the images, and counts the costs."""

    config: TrainConfig
    method_config: MethodConfig
    evaluations: Mapping[str, Any] = field(default_factory=dict)
    initial: Source | None = None

    @property
    def directory(self) -> Path:
        return Path(self.config.out)

    @property
    def root(self) -> Path | None:
        """The folder of the data set; None for one that needs none."""
        return None if self.config.data_root is None else Path(self.config.data_root)

    @property
    def options(self) -> dict[str, Any]:
        """All options of the run, as in its ``config.yaml``."""
        return options_of(self.config, self.method_config, self.evaluations)

    @property
    def method(self) -> type[Method]:
        return METHODS.get(self.config.method)

    @property
    def device(self) -> torch.device:
        return pick_device(self.config.device)

    @cached_property
    def views(self) -> list[View]:
        """The views that the method sees of each image in a step."""
        return list(self.method.views(self.method_config, self.config.image_size))

    @cached_property
    def images(self) -> tuple[ImageStore, ImageStore]:
        """The images to train on, and images held out for the online k-NN. The first of several processes decodes them."""
        config = self.config
        store = open_dataset(config.data, "train", self.root, short_side_for(config.image_size), stream=config.stream)
        if not store.labelled.any():
            self.require_no_labels()
        # The online k-NN needs labels.
        trained, held_out = hold_out(len(store), config.knn_every if store.labelled.any() else 0)
        # Without images held out, the training's are the store itself, whose parts hold the places of their images.
        return store.subset(trained) if len(held_out) else store, store.subset(held_out)

    def require_no_labels(self) -> None:
        """Raise UserError if something of the plan needs labels, which no image has."""
        config = self.config
        if use := self.method.label_use(vars(self.method_config)):
            needs = f"--method {config.method} needs labels{f' for its {use}' if isinstance(use, str) else ''}"
        elif config.pairing == "same_label":
            needs = f"--pairing same_label (--method {config.method}) needs labels"
        elif self.evaluations:
            needs = f"--evals {' '.join(self.evaluations)} measure by labels"
        else:
            return
        raise UserError(f"{needs}, and no training image of {config.data} has one")

    @cached_property
    def listing(self) -> Listing:
        """The training images and those held out, before any is decoded; damaged ones count."""
        return list_images(self.config.data, "train", self.root)

    @cached_property
    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Places in ``listing`` of the images to train on, and of those held out."""
        labels = self.listing.labels
        labelled = labels is None or bool((labels >= 0).any())
        return hold_out(len(self.listing.names), self.config.knn_every if labelled else 0)

    @cached_property
    def costs(self) -> dict[str, Any]:
        """What training costs; see ``training.costs.cost_of``. Counting takes seconds, and decodes no image. Raises UserError or
        UsageError for sizes and options that the method or the backbone refuses."""
        return cost_of(self.build_method, self.views, self.config, self._label_columns)

    @cached_property
    def most_costs(self) -> dict[str, Any]:
        """Upper bounds of two of ``costs``, sooner; see ``training.costs.most_costs``. Raises as ``costs`` does."""
        return most_costs(self.build_method, self.views, self.config, self._label_columns)

    @property
    def _label_columns(self) -> int | None:
        """Columns of multi-hot labels; None where an image has one label."""
        return None if self.listing.labels is not None else len(self.listing.classes)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images[0]) // self.config.batch_size if self.method.trains else 0

    @property
    def total_steps(self) -> int:
        return steps_of(self.config.epochs, self.steps_per_epoch) if self.steps_per_epoch else 0

    @property
    def images_seen(self) -> int:
        return self.total_steps * self.config.batch_size

    @property
    def left_out(self) -> int:
        """Images that each epoch leaves out, others each time, since they do not fill a batch."""
        return len(self.images[0]) % self.config.batch_size if self.steps_per_epoch else 0

    def alike(self, config: TrainConfig) -> Plan:
        """The plan of a run that differs in nothing but its seed and directory: it shares what this one has listed, opened and
        counted."""
        plan = copy.copy(self)
        plan.config = config
        return plan

    def build_method(self) -> Method:
        return build_method(self.config, self.method_config, len(self.listing.classes))

    def empty_batch(self, rows: int) -> ViewBatch:
        """A batch of the right shapes, on the CPU, for counting."""
        return empty_batch(self.views, rows, self._label_columns)

    def batches(self) -> Batches:
        return Batches(self.images[0], self.views, self.config, self.device)


def make_plan(
    config: TrainConfig,
    method_config: MethodConfig,
    evaluations: Mapping[str, Any] | None = None,
    fetch: bool = True,
    extend: bool = False,
) -> Plan:
    """Plan a run: fill in defaults, turn its budget into epochs, and look for ``config.init``; released weights are downloaded
    where they are missing, or, without ``fetch``, not looked for. With ``extend``, the run in the directory may get further epochs
    (``training.extension``).

    Writes no run directory. Raises UsageError for a wrong budget, an option out of its range, or options that contradict each
    other; UserError if initial weights are missing, or operations that a budget limits cannot be counted."""
    plan = Plan(config, method_config, evaluations or {})
    if config.budget is not None and plan.method.trains:
        # The end of the schedules, and so of a warm-up, is not known yet.
        plan.config = resolve(dataclasses.replace(config, warmup_epochs=0.0))
        config = dataclasses.replace(config, epochs=_epochs_within_budget(plan))
    plan.config = with_extension(resolve(config), config, extend)
    if fetch or not is_released(plan.config.init):
        plan.config, plan.initial = with_initial_weights(plan.config)
    return plan


def _epochs_within_budget(plan: Plan) -> float:
    """The epochs that a budget is enough for. A run that has begun keeps its epochs."""
    config = plan.config
    kind, amount = parse_budget(config.budget)
    begun = written_options(plan.directory) if holds_work(plan.directory) else {}
    if begun.get("budget") == config.budget and isinstance(begun.get("epochs"), (int, float)):
        return float(begun["epochs"])
    if kind == "epochs":
        return amount
    batches = plan.batches()
    if kind == "images":
        cost_of_a_step = config.batch_size
    elif kind == "flops":
        flops = plan.costs["training_flops"]
        if flops is None:
            raise UserError(f"--budget {config.budget}: operations of {config.method} cannot be counted; give images=…")
        cost_of_a_step = flops * config.batch_size
    else:
        cost_of_a_step = minutes_of_a_step(Stepper(plan.build_method(), config, plan.device), batches)
    return amount / cost_of_a_step / batches.steps_per_epoch


def build_method(config: TrainConfig, method_config: MethodConfig, num_classes: int) -> Method:
    """Build a method with fresh weights, which are a function of the seed."""
    torch.manual_seed(seed_of(MODEL, config.seed))

    def make_backbone(**hints: Any) -> Any:
        return build_backbone(config.backbone, config.image_size, **hints)

    return METHODS.get(config.method)(method_config, make_backbone, num_classes)
