"""What a run is made of: its method with initial weights, its images, what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from backbones import build_backbone
from common.errors import UserError
from data.datasets import open_dataset
from data.store import ImageStore
from methods.base import METHODS, Method, MethodConfig
from training.batches import MODEL, seed_of, short_side_for
from training.config import TrainConfig
from training.monitor import hold_out
from training.plan import cost_of


def build_method(config: TrainConfig, method_config: MethodConfig, num_classes: int) -> Method:
    """A freshly initialised method; its weights are a function of the seed."""
    torch.manual_seed(seed_of(MODEL, config.seed))

    def make_backbone(**hints: Any) -> Any:
        return build_backbone(config.backbone, config.image_size, **hints)

    return METHODS.get(config.method)(method_config, make_backbone, num_classes)


def images_of(config: TrainConfig) -> tuple[ImageStore, ImageStore]:
    """The images to train on, and those held out for the online k-NN. Of several processes the first decodes them."""
    root = None if config.data_root is None else Path(config.data_root)
    store = open_dataset(config.data, "train", root, short_side_for(config.image_size), stream=config.stream)
    if METHODS.get(config.method).uses_labels:
        labelled = (store.labels >= 0).any() if store.label_sets is None else store.label_sets.any()
        if not labelled:
            raise UserError(f"--method {config.method} needs labels, and no training image of {config.data} has one")
    trained, held_out = hold_out(len(store), config.knn_every)
    return store.subset(trained), store.subset(held_out)


def require_same_images(run: Path, config: TrainConfig) -> None:
    """See that a run that has begun goes on, or is evaluated, on the images that it began with: they may have moved, and
    ``data_root`` may then differ. Raises UserError where its log says that they were others."""
    try:
        with open(run / "log.jsonl", encoding="utf-8") as log:
            begun = json.loads(log.readline()).get("fingerprint")
    except (OSError, ValueError, AttributeError, RecursionError):  # a damaged log is the loop's to tell
        return
    now = images_of(config)[0].fingerprint
    if begun not in (None, now):
        where = f" in {config.data_root}" if config.data_root else ""
        raise UserError(
            f"{run} was begun on other images than those of {config.data}{where} (fingerprint {begun}, now {now}); "
            "give the folder of those, or another --out"
        )


def costs_of(config: TrainConfig, method_config: MethodConfig, store: ImageStore) -> dict[str, Any]:
    """What training on ``store`` costs: see ``training.plan.cost_of``."""
    views = list(METHODS.get(config.method).views(method_config, config.image_size))
    labels = None if store.label_sets is None else store.num_classes
    return cost_of(lambda: build_method(config, method_config, store.num_classes), views, config, labels)
