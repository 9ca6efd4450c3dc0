"""Blocks of backbones as compiled programs (``torch.compile``): the operations between matrix products become a few kernels that
pass over memory once. Blocks and not whole networks: equal blocks share a program, so compiling takes a minute, not many."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn
from torch.utils._triton import has_triton

from common.errors import UsageError
from training.machine.sharding import blocks_of, networks_of


def compile_blocks(method: nn.Module, device: torch.device) -> None:
    """Compile every backbone's blocks when they are first called, for each size of input. State dicts stay as they are. Raises
    UsageError where this device has no compiler."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"--compile needs a C++ compiler, and {compiler} is not there; install it, or leave --compile out"
        )
    if device.type == "cuda" and not has_triton():
        raise UsageError("--compile needs triton on a CUDA device; install it, or leave --compile out")
    # One program for each shape of block and size of crop, with and without gradients; torch's own limit is 8.
    torch._dynamo.config.recompile_limit = 256
    for network in networks_of(method):
        for block in blocks_of(network):
            block.compile(dynamic=False)
