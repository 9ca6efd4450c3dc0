"""What a backbone costs, by counting."""

from __future__ import annotations

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from backbones.base import Backbone


def count(backbone: Backbone, image_size: int) -> tuple[int, int]:
    """Parameters, and floating-point operations of one forward pass of one square image of ``image_size`` pixels.

    A multiply-add counts as two operations (halve them for the "GMACs" that many papers call FLOPs). Convolutions and matrix
    products are counted, attention's included; norms and activations are not. Nothing is computed: a copy without storage
    passes the image on.
    """
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    shadow = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, 3, image_size, image_size, device="meta"))
    return parameters, counter.get_total_flops()
