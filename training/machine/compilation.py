"""Compiled blocks of backbones (``torch.compile``): the operations between matrix products become a few kernels. Equal blocks
share a program, so compiling takes a minute; whole networks would take many."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn
from torch.utils._triton import has_triton

from common.errors import UsageError
from training.machine.sharding import blocks_of, networks_of


def compile_blocks(method: nn.Module, device: torch.device) -> None:
    """Compile every backbone's blocks at their first call with each size of input, keeping state dicts. Raises UsageError without a
    compiler for this device."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"--compile needs a C++ compiler, and {compiler} is not there; install it, or leave --compile out"
        )
    if device.type == "cuda" and not has_triton():
        raise UsageError("--compile needs triton on a CUDA device; install it, or leave --compile out")
    # Each shape of block and size of crop, with and without gradients, takes a program; torch's own limit is 8.
    torch._dynamo.config.recompile_limit = 256
    for network in networks_of(method):
        for block in blocks_of(network):
            block.compile(dynamic=False)
