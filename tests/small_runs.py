"""Runs small enough to test with: noise images of two colours, a backbone of two thin blocks or layers."""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from PIL import Image

#: Options that make each method small.
SMALL = {
    "dino": {
        "out_dim": 64,
        "hidden_dim": 32,
        "bottleneck_dim": 16,
        "local_crops": 2,
        "local_size": 16,
        "drop_path": 0.1,
    },
    "barlow_twins": {"projector": "32-32-16"},
    "simclr": {"projector": "32-16"},
    "supcon": {"projector": "32-16"},
    "byol": {"projector": "32-16", "predictor_dim": 32},
    "mocov2": {"projector": "32-16", "queue": 32},
    "mocov3": {"projector": "32-32-16", "predictor_dim": 32},
    "vicreg": {"projector": "32-32-16"},
    "swav": {"projector": "32-16", "prototypes": 12, "local_crops": 2, "local_size": 16, "freeze_prototypes": 1},
    "supervised": {},
    "random": {},
}
SMALL["weak_dino"] = SMALL["dino"]


def shrunk(config_class: type) -> dict[str, Any]:
    """A method's options that make it small, whatever it is: no count above 16, no layer wider than that."""
    from common.options import facts_of
    from heads.mlp import parse_widths

    options: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if type(field.default) is int and field.default > 16:
            options[field.name] = 16
        elif facts_of(config_class, field.name).get("form") is parse_widths:
            options[field.name] = "-".join(["16"] * len(parse_widths(field.default)))
    return options


def switches(config_class: type) -> list[dict[str, Any]]:
    """The defaults (no option), and whatever differs from them in one switch: each bool the other way, each of a field's choices.
    What the configuration refuses is left out."""
    from common.errors import UsageError

    kinds = get_type_hints(config_class)
    changed: list[dict[str, Any]] = [{}]
    for field in dataclasses.fields(config_class):
        choices = (False, True) if kinds[field.name] is bool else get_args(kinds[field.name])
        if kinds[field.name] is bool or get_origin(kinds[field.name]) is Literal:
            changed += [{field.name: choice} for choice in choices if choice != field.default]
    accepted = []
    for options in changed:
        with suppress(UsageError):
            config_class(**options)
            accepted.append(options)
    return accepted


def register_small_backbones() -> None:
    """``small_vit`` and ``small_cnn``. Functions of this name are what a plug-in does."""
    from torch import nn

    from backbones import BACKBONES
    from backbones.base import Backbone
    from backbones.vit import VisionTransformer

    class SmallCNN(Backbone):
        width = 16

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
            )

        def forward(self, images):
            return self.layers(images).mean((2, 3))

    if "small_vit" not in BACKBONES.names():
        BACKBONES.register("small_vit")(
            lambda image_size, **hints: VisionTransformer(
                patch_size=8, width=24, depth=2, heads=2, drop_path_rate=hints.get("drop_path_rate", 0.0)
            )
        )
        BACKBONES.register("small_cnn")(lambda image_size, **hints: SmallCNN())


def make_folder(root: Path, images: int = 44) -> Path:
    """``imagefolder`` data: as many training images as said, of two classes, each red or green noise; four to test with."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 4)):
        for number in range(count):
            folder = root / split / ("red", "green")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
            pixels[..., number % 2] //= 4
            Image.fromarray(pixels).resize((36, 40)).save(folder / f"{number}.png")
    return root


def small_run(root: Path, out: Path, method: str = "dino", **options: Any):
    """Options of a small run: (TrainConfig, the method's). Those of ``options`` that the method has are its."""
    from methods.core.base import METHODS
    from training.config import TrainConfig

    register_small_backbones()
    kind = METHODS.get(method)
    own = {field.name for field in dataclasses.fields(kind.Config)}
    given = {
        "backbone": "small_vit",
        "data": "imagefolder",
        "data_root": str(root),
        "out": str(out),
        "image_size": 16,
        "batch_size": 8,
        "epochs": 3,
        "knn_every": 1,
        "log_every": 2,
        "device": "cpu",
        "precision": "fp32",
        **SMALL.get(method, {}),
        **options,
    }
    train = {**kind.recipe, **{k: v for k, v in given.items() if k not in own}}
    return TrainConfig(method=method, **train), kind.Config(**{k: v for k, v in given.items() if k in own})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def counted() -> dict[str, Any]:
    """Costs by what they depend on."""
    return {}


@pytest.fixture
def small(folder: Path, counted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``small(out, method, **options)``: as ``small_run`` on ``folder``. What a training costs is counted once for the
    same options: it takes as long as a small training."""
    from training import costs

    def cost_of(build, views, config, num_labels):
        own = getattr(build, "__self__", None)  # the plan
        key = repr(
            (
                dataclasses.replace(config, out="", data_root=None),
                getattr(own, "method_config", build),
                views,
                num_labels,
            )
        )
        if key not in counted:
            counted[key] = costs.cost_of(build, views, config, num_labels)
        return counted[key]

    monkeypatch.setattr("training.plan.cost_of", cost_of)
    return lambda out, method="dino", **options: small_run(folder, out, method, **options)
