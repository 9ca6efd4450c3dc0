"""Learning rates by layer, for methods that fine-tune a pre-trained backbone under heads of their own."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from backbones.base import Backbone
from common.errors import UserError
from methods.core.base import Method


def scaled_groups(method: Method, backbone_lr_scale: float, layer_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a backbone and the heads on it. Biases and 1-d tensors have no weight decay. Heads have the whole
    learning rate; layer l of a backbone of L layers has ``backbone_lr_scale · layer_decay ** (L - l)`` of it (arXiv 2106.08254,
    section 2.3 of its appendix)."""
    scales = {name: 1.0 for name, _ in method.named_parameters()}
    if any(parameter.requires_grad for parameter in method.backbone.parameters()):
        layers = backbone_layers(method.backbone, layer_decay != 1)
        top = max(layers.values())
        for name, layer in layers.items():
            scales[f"backbone.{name}"] = backbone_lr_scale * layer_decay ** (top - layer)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and not name.endswith(".bias")
            groups.setdefault((scales[name], decayed), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, **({} if decayed else {"weight_decay": 0.0})}
        for (scale, decayed), parameters in groups.items()
    ]


def backbone_layers(backbone: Backbone, required: bool) -> dict[str, int]:
    """The layer of each parameter of a backbone: 0 before the first block (or stage), i + 1 in block i, the last block's after all
    blocks. Without numbered blocks, stages or layers, all are 0, or raises UserError if layers are ``required``."""
    names = [name for name, _ in backbone.named_parameters()]
    layers: list[int | None] = []
    for name in names:
        # ResNets count their layers from 1; blocks and stages are counted from 0.
        stage = re.search(r"(?:^|\.)layer(\d+)\.", name)
        block = re.search(r"(?:^|\.)(?:blocks|stages|layers)\.(\d+)\.", name)
        layers.append(int(stage[1]) if stage else int(block[1]) + 1 if block else None)
    numbered = [place for place, layer in enumerate(layers) if layer is not None]
    if not numbered:
        if required:
            raise UserError(f"--layer_decay: the layers of {backbone.label} are not known by name; give 1")
        return dict.fromkeys(names, 0)
    top = max(layers[place] for place in numbered)
    return {
        name: layer if layer is not None else top if place > numbered[-1] else 0
        for place, (name, layer) in enumerate(zip(names, layers, strict=True))
    }
