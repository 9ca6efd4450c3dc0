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
    passes the image on. Of transformers all tokens are computed, as in published counts, although pooled features need only the
    CLS token of the last block.
    """
    parameters = sum(parameter.numel() for parameter in backbone.parameters())
    shadow = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        compute = shadow.tokens if shadow.has_tokens else shadow
        compute(torch.empty(1, 3, image_size, image_size, device="meta"))
    return parameters, counter.get_total_flops()
