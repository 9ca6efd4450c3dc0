"""The method of a run, and the images it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UsageError, UserError
from common.files import read_yaml
from data.datasets import open_dataset
from data.store.store import ImageStore
from methods.core.base import METHODS, MethodConfig
from training.batches import short_side_for
from training.config import TrainConfig


def read_options(run: str | Path) -> dict[str, Any]:
    """The options in a run's ``config.yaml``. Raises UserError where there are none, or not of a training."""
    file = Path(run) / "config.yaml"
    try:
        options = read_yaml(file)
    except OSError as error:
        raise UserError(f"{run}: no run directory: its config.yaml cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file}: not YAML ({error})") from error
    if not isinstance(options, dict) or "method" not in options:
        raise UserError(f"{file}: does not say which method was trained; give the directory of a training")
    return options


def configs_of(options: Mapping[str, Any]) -> tuple[TrainConfig, MethodConfig]:
    """Options of a training, those of the trainer and those of its method; what is not said has the method's default."""
    kind = METHODS.get(options["method"])
    return (
        TrainConfig(**{**kind.recipe, **_fields_of(TrainConfig, options)}),
        kind.Config(**_fields_of(kind.Config, options)),
    )


def _fields_of(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a dataclass has; sequences are tuples there."""
    found = {field.name: options[field.name] for field in dataclasses.fields(kind) if field.name in options}
    tuples = {field.name for field in dataclasses.fields(kind) if isinstance(field.default, tuple)}
    return {name: tuple(value) if name in tuples else value for name, value in found.items()}


def train_images(config: TrainConfig) -> ImageStore:
    """All training images, as the trainer stores them; ``config.image_size`` is resolved."""
    if config.image_size is None:
        raise UsageError("--image_size is needed")
    root = None if config.data_root is None else Path(config.data_root)
    return open_dataset(config.data, "train", root, short_side_for(config.image_size))


def names_of(runs: list[str]) -> list[str]:
    """What pictures call several runs: their folders' names, or their paths where these are not all different."""
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
