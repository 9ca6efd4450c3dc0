"""Names of backbones that the shapes of a state dict suggest."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from backbones.vit import ARCHITECTURES

#: timm's words for the widths of ViTs.
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant", 1536: "giant"}
#: ResNets by the blocks of their stages: bottleneck or not.
_RESNETS = {
    (False, (2, 2, 2, 2)): ("resnet18", "resnet18_cifar"),
    (False, (3, 4, 6, 3)): ("timm:resnet34",),
    (True, (3, 4, 6, 3)): ("resnet50", "timm:wide_resnet50_2", "timm:resnext50_32x4d"),
    (True, (3, 4, 23, 3)): ("timm:resnet101", "timm:wide_resnet101_2", "timm:resnext101_32x8d"),
    (True, (3, 8, 36, 3)): ("timm:resnet152",),
}
_CONVNEXTS = {40: "atto", 48: "femto", 64: "pico", 80: "nano", 96: "tiny", 128: "base", 192: "large", 256: "xlarge"}


def names_by_shapes(state: Mapping[str, Tensor]) -> list[str]:
    """The backbones that may fit, the likeliest first. ``state`` is in the authors' layout, without prefixes."""
    if "patch_embed.0.weight" in state:
        return [name for name, shape in ARCHITECTURES.items() if "stem" in shape]
    if "patch_embed.proj.weight" in state:
        return _vits(state)
    prefix = "" if "layer1.0.conv1.weight" in state else None
    stages = ("layer1", "layer2", "layer3", "layer4")
    if "4.0.conv1.weight" in state:  # nn.Sequential(*resnet.children())
        prefix, stages = "", ("4", "5", "6", "7")
    if prefix is not None:
        blocks = tuple(_count(state, stage) for stage in stages)
        return list(_RESNETS.get((f"{stages[0]}.0.conv3.weight" in state, blocks), ()))
    stem = state.get("stem.0.weight", state.get("downsample_layers.0.0.weight"))
    if stem is not None and stem.ndim == 4 and len(stem) in _CONVNEXTS:
        size = _CONVNEXTS[len(stem)]
        return [f"timm:convnext_{other}" for other in (size, *(["small"] if size == "tiny" else []))]
    return []


def _vits(state: Mapping[str, Tensor]) -> list[str]:
    patches = state["patch_embed.proj.weight"]
    if patches.ndim != 4:
        return []
    width, patch, depth = len(patches), patches.shape[-1], _count(state, "blocks")
    ours = [
        name
        for name, shape in ARCHITECTURES.items()
        if (shape["patch_size"], shape["width"], shape["depth"]) == (patch, width, depth)
    ]
    size = _SIZES.get(width)
    if size is None:
        return ours
    registers = "reg4_" if "register_tokens" in state or "reg_token" in state else ""
    dinov2 = [f"timm:vit_{size}_patch{patch}_{registers}dinov2"] if "blocks.0.ls1.gamma" in state else []
    return [*ours, *dinov2, f"timm:vit_{size}_patch{patch}_224", f"timm:vit_{size}_patch{patch}_384"]


def _count(state: Mapping[str, Tensor], stage: str) -> int:
    """Count the blocks of a stage."""
    return len({match[1] for name in state if (match := re.match(rf"{re.escape(stage)}\.(\d+)\.", name))})
