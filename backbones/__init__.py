"""Backbones by name. Importing this imports no torch; building one does."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.errors import UsageError, unknown_name
from common.registry import Registry

if TYPE_CHECKING:
    from backbones.base import Backbone

#: Builders by name, called with ``image_size`` and hints as keywords. A plug-in's builder takes ``**hints`` it does not use.
BACKBONES: Registry[Callable[..., Backbone]] = Registry("backbone")

#: Keywords beside ``image_size``. A family gets the hints that its ``build`` has as arguments.
HINTS = {"drop_path_rate", "zero_init_residual", "output_stride"}


def _family(module: str, name: str) -> Callable[..., Backbone]:
    def build(image_size: int, **hints: Any) -> Backbone:
        builder = importlib.import_module(f"backbones.{module}").build
        taken = inspect.signature(builder).parameters
        return builder(name, image_size, **{hint: value for hint, value in hints.items() if hint in taken})

    return build


#: Side in pixels of the patches of each ViT in ``backbones.vit``.
PATCH_SIZES = {
    "vit_pico": 4,
    "vit_nano": 4,
    "vit_micro8": 8,
    "vit_t16": 16,
    "vit_s16": 16,
    "vit_s8": 8,
    "vit_b16": 16,
    "vit_b8": 8,
    "vit_s16_12heads": 16,
}

for _name in PATCH_SIZES:
    BACKBONES.register(_name)(_family("vit", _name))
for _name in ("resnet18", "resnet18_cifar", "resnet50"):
    BACKBONES.register(_name)(_family("resnet", _name))
BACKBONES.register("pixels")(_family("pixels", "pixels"))


def names() -> list[str]:
    """All names, sorted, without timm's models, which are ``timm:NAME``."""
    return BACKBONES.names()


def title_of(name: str) -> str:
    """A backbone's name as papers write it; others' names stay.

    >>> [title_of(name) for name in ("vit_s16", "vit_s16_12heads", "vit_nano", "resnet50", "resnet18_cifar")]
    ['ViT-S/16', 'ViT-S/16 (12 heads)', 'ViT-nano/4', 'ResNet-50', 'ResNet-18 (CIFAR)']
    """
    if name in PATCH_SIZES:
        name, _, heads = name.removeprefix("vit_").partition("_")
        size = name.rstrip("0123456789")
        title = f"ViT-{ {'t': 'Ti', 's': 'S', 'b': 'B'}.get(size, size) }/{PATCH_SIZES[f'vit_{name}']}"
        return f"{title} ({heads.replace('heads', ' heads')})" if heads else title
    if residual := re.fullmatch(r"resnet(\d+)(_cifar)?", name):
        return f"ResNet-{residual[1]}{' (CIFAR)' if residual[2] else ''}"
    return name.removeprefix("timm:")


def citation_of(name: str) -> str:
    """Authors, year and arXiv number of a backbone's architecture; "" for others'."""
    if name in PATCH_SIZES:
        return "Dosovitskiy et al. 2021, arXiv 2010.11929"
    return "He et al. 2016, arXiv 1512.03385" if name.startswith("resnet") else ""


def check_name(name: str) -> None:
    """Raise UsageError, with the nearest name, if ``build_backbone`` does not know ``name``."""
    if not name.startswith("timm:") and name not in names():
        raise unknown_name("backbone", name, [*names(), "timm:NAME"])


def build_backbone(name: str, image_size: int = 224, **hints: Any) -> Backbone:
    """Build a backbone with fresh weights.

    Args:
        name: one of ``names()``, or ``timm:NAME``.
        image_size: side of square images in pixels. Only timm models and pixels depend on it.
        hints: ``drop_path_rate`` (stochastic depth: ViTs, and timm's networks but ResNets) and ``zero_init_residual`` (residual
            branches start at zero: ResNets, timm's too), which other families ignore; ``output_stride`` (ResNets, timm): 8, 16
            or 32 input pixels per cell of the last map.

    Raises UsageError for an unknown name or an impossible output stride, UserError for an impossible image size.
    """
    from backbones.base import avoid_single_pixels
    from backbones.convolution import use_products

    if unknown := hints.keys() - HINTS:
        raise TypeError(f"unknown backbone hints: {', '.join(sorted(unknown))}")
    check_name(name)
    build = _family("timm_models", name) if name.startswith("timm:") else BACKBONES.get(name)
    backbone = build(image_size, **hints)
    stride = hints.get("output_stride")
    if stride is not None and backbone.stride != stride:
        raise UsageError(f"{name} has an output stride of {backbone.stride} and cannot be given {stride}")
    backbone.label = name
    use_products(backbone)
    return avoid_single_pixels(backbone)
