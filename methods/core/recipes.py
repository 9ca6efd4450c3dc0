"""Defaults of a method's and the trainer's options: as published, or for a few thousand small images (``--recipe small``)."""

from __future__ import annotations

import dataclasses
from typing import Any

from methods.core.base import Method, MethodConfig

#: For a few thousand images of 32 to 96 pixels on a laptop; the same for every method that trains, so that only the methods differ.
#: How they were searched, on held-out training images, is told in docs/methods.md.
TRAINING: dict[str, Any] = {
    "optimizer": "adamw",
    "batch_size": 128,
    "epochs": 100,
    "lr": 2e-3,
    "min_lr": 1e-5,
    "min_lr_scale": 0.0,
    "warmup_epochs": None,
    "weight_decay": 0.04,
    "clip_grad": 1.0,
}
#: The same of the methods that have the option.
OF_METHODS: dict[str, Any] = {
    "blur_p": (0.0, 0.0),  # a published blur, of up to 2 pixels, hides what small images show
    "local_blur_p": 0.0,
    "local_crops": 2,
    "drop_path": 0.0,
}


def defaults_of(method: type[Method], recipe: str) -> tuple[dict[str, Any], MethodConfig]:
    """The trainer's options that differ from its defaults, and the method's own options, by ``published`` or ``small``."""
    if recipe != "small":
        return dict(method.recipe), method.Config()
    if not method.trains:
        return {**method.recipe, "recipe": recipe}, method.Config()
    names = {field.name for field in dataclasses.fields(method.Config)}
    own = {name: value for name, value in {**OF_METHODS, **method.small}.items() if name in names}
    trainers = {name: value for name, value in method.small.items() if name not in names}
    return {**method.recipe, **TRAINING, **trainers, "recipe": recipe}, method.Config(**own)
