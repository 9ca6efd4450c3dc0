"""Load the network to look at, and name it for titles."""

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
from methods.core.recipes import defaults_of
from reports.visual.core.base import FeaturesVisualization, ImagesVisualization
from training.config import TrainConfig
from training.machine.devices import pick_device
from training.plan import Plan

DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Network:
    """A backbone in eval mode. ``weights`` names their origin for titles; other weights than a run's have no ``image_size`` and
    no ``options``."""

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
    """Build a backbone without gradients for its parameters, and load weights (options of ``NetworkVisualization``).

    Args:
        image_size: usual side of its images in pixels (None: the run's, else 224).

    Raises:
        UsageError: neither the options nor the weights name the backbone.
        UserError: the weights are missing, damaged or another backbone's, or the backbone has no parameters.
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
    """Load the network of the options for its training size; it takes any size that divides into patches."""
    return load_network(options.weights, options.backbone, options.key, None, options.device, options.seed)


def weights_title(weights: str | None, options: dict[str, Any], key: str | None) -> str:
    """Name the origin of weights for titles; ``options`` are their run's."""
    if weights is None:
        return "untrained"
    which = f", {key}" if key else ""
    return f"{run_title(weights, options)}{which}" if options else f"weights of {Path(weights).name}{which}"


def run_title(run: str | Path, options: dict[str, Any]) -> str:
    """Name a run: ``dino on imagefolder, 100 epochs (run NAME)``, or ``untrained (run NAME)``."""
    path = Path(run)
    name = path.name if path.is_dir() else path.resolve().parent.parent.name
    method = options.get("method", "?")
    if method in METHODS.names() and not METHODS.get(method).trains:
        return f"untrained (run {name})"
    epochs = options.get("epochs", "?")
    epochs = f"{epochs:g}" if isinstance(epochs, (int, float)) else epochs
    return f"{method} on {options.get('data', '?')}, {epochs} epochs (run {name})"


def context_of(options: FeaturesVisualization) -> tuple[EvalContext, str]:
    """Make the context of evaluations (with their cache of features), and name the weights for titles."""
    source = Source(options.weights)
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(WeightsOptions)}
    out = options.weights if source.is_run_directory else str(options.folder())
    context = make_context(WeightsOptions(**{**given, "out": out}))
    return context, weights_title(options.weights, source.options, options.key)


def plan_of(options: Mapping[str, Any]) -> Plan:
    """Make an unresolved, unchecked training plan with these options and the method's defaults."""
    kind = METHODS.get(options["method"])
    recipe, own = defaults_of(kind, options.get("recipe", TrainConfig.recipe))
    config = TrainConfig(**{**recipe, **_fields_of(TrainConfig, options)})
    return Plan(config, dataclasses.replace(own, **_fields_of(kind.Config, options)))


def _fields_of(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Select the options that a dataclass has, with tuples for lists."""
    fields = [field for field in dataclasses.fields(kind) if field.name in options]
    tuples = {field.name for field in fields if isinstance(field.default, tuple)}
    values = {field.name: options[field.name] for field in fields}
    return {name: tuple(value) if name in tuples else value for name, value in values.items()}
