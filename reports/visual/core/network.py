"""The network to look at, and what the titles of its pictures call it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backbones.base import Backbone
from backbones.formats.source import Source
from common.errors import UserError
from eval.core.context import EvalContext, make_context
from eval.core.options import WeightsOptions
from methods.core.base import METHODS
from reports.visual.core.base import FeaturesVisualization, ImagesVisualization
from training.config import TrainConfig
from training.machine.devices import pick_device
from training.plan import Plan

DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Network:
    """A backbone in eval mode on ``device``. ``weights``: where its weights come from, for titles; ``image_size`` and ``options``:
    of its run, None and empty for other weights."""

    backbone: Backbone
    name: str
    weights: str
    image_size: int | None
    options: dict[str, Any]
    device: torch.device

    @property
    def untrained(self) -> bool:
        return self.weights.startswith("untrained")


def load_network(
    weights: str | None, backbone: str | None, key: str | None, image_size: int | None, device: str, seed: int
) -> Network:
    """Build a backbone and load weights into it; gradients are off for its parameters. ``image_size``: of the images that it will
    mostly see (None: the run's, else 224); the other arguments are the options of ``NetworkVisualization``.

    Raises:
        UsageError: no backbone is named and the weights do not name it.
        UserError: the weights are missing, damaged or another backbone's.
    """
    source = Source(weights)
    name = source.backbone_name(backbone)
    network, _ = source.build(name, image_size or source.run.get("image_size") or DEFAULT_SIZE, seed, key)
    if not any(True for _ in network.parameters()):
        raise UserError(f"{name} has no parameters, so there is no network to look into; choose another backbone")
    chosen = pick_device(device)
    network.to(chosen).eval().requires_grad_(False)
    title, size = weights_title(weights, source.options, key), source.run.get("image_size")
    return Network(network, name, title, size, source.options, chosen)


def network_of(options: ImagesVisualization) -> Network:
    """The network that options name, built for the size it was trained at; it takes any size that divides into patches."""
    return load_network(options.weights, options.backbone, options.key, None, options.device, options.seed)


def weights_title(weights: str | None, options: dict[str, Any], key: str | None) -> str:
    """Where weights come from, for titles. ``options``: of their run, if they are a run's."""
    if weights is None:
        return "untrained"
    which = f", {key}" if key else ""
    return f"{run_title(weights, options)}{which}" if options else f"weights of {Path(weights).name}{which}"


def run_title(run: str | Path, options: dict[str, Any]) -> str:
    """A run in a few words: ``dino on imagefolder, 100 epochs (run NAME)``, or ``untrained (run NAME)``."""
    path = Path(run)
    name = path.name if path.is_dir() else path.resolve().parent.parent.name
    method = options.get("method", "?")
    if method in METHODS.names() and not METHODS.get(method).trains:
        return f"untrained (run {name})"
    epochs = options.get("epochs", "?")
    epochs = f"{epochs:g}" if isinstance(epochs, (int, float)) else epochs
    return f"{method} on {options.get('data', '?')}, {epochs} epochs (run {name})"


def context_of(options: FeaturesVisualization) -> tuple[EvalContext, str]:
    """Weights and data as evaluations have them, with the same cache of features; and what titles call the weights."""
    source = Source(options.weights)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(WeightsOptions)}
    out = options.weights if source.is_run_directory else str(options.folder())
    context = make_context(WeightsOptions(**{**given, "out": out}))
    return context, weights_title(options.weights, source.options, options.key)


def plan_of(options: Mapping[str, Any]) -> Plan:
    """The plan of a training with these options; what they leave out has the method's default. Nothing is resolved or checked."""
    kind = METHODS.get(options["method"])
    config = TrainConfig(**{**kind.recipe, **_fields_of(TrainConfig, options)})
    return Plan(config, kind.Config(**_fields_of(kind.Config, options)))


def _fields_of(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a dataclass has; sequences are tuples there."""
    fields = [field for field in dataclasses.fields(kind) if field.name in options]
    tuples = {field.name for field in fields if isinstance(field.default, tuple)}
    values = {field.name: options[field.name] for field in fields}
    return {name: tuple(value) if name in tuples else value for name, value in values.items()}
