"""Small values of the host on a device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A list, an array or a tensor of the CPU as a tensor of the device, without a wait: by itself torch lets a copy to CUDA wait
    for all that the device was asked for before."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)
