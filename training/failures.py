"""Out-of-memory errors, explained: what took the memory, and what would fit."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from common.distributed import world_size
from common.environment import CONTROL_GROUPS, control_group_files
from common.errors import UserError, is_out_of_memory
from common.files import size_in_words
from training.config import TrainConfig

#: Part of a device's memory that the estimate may take; crops, libraries' buffers and fragmentation take the rest.
USABLE = 0.8
#: What torch says of a BatchNorm with nothing to normalise.
SINGLE_VALUE = "Expected more than 1 value per channel when training"


@contextmanager
def explained(
    config: TrainConfig, method: nn.Module, device: torch.device, memory: Callable[[], Mapping[str, int | None]]
) -> Iterator[None]:
    """Turn an out-of-memory error into a UserError that names the largest tensors and a batch size that would fit. ``memory``
    gives the estimate of ``training.costs.cost_of`` by part, in bytes, or {}."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and SINGLE_VALUE in str(error):
            raise too_small_batch("--batch_size") from error
        if not is_out_of_memory(error):
            raise
        estimate: Mapping[str, int | None] = {}
        with suppress(Exception):  # counting takes memory, too
            estimate = memory()
        raise UserError(_out_of_memory(config, method, device, estimate)) from error


def fitting(config: TrainConfig, device: torch.device, memory: Mapping[str, int | None]) -> int:
    """Images, fewer than now, that a process's forward pass would have room for, by the estimate for one process; 0: none."""
    together = config.batch_size // config.accumulate
    fewer = together // world_size() // 2
    activations = memory.get("activations")
    if not activations:
        return fewer
    fixed = sum(value for name, value in memory.items() if name != "activations" and value)
    free = USABLE * memory_of(device) - fixed
    return max(0, min(int(free / (activations / together)), fewer))


def memory_of(device: torch.device) -> int:
    """Bytes that this process can have on a device; on a CPU the free memory within the process's and its container's limits."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    page = os.sysconf("SC_PAGE_SIZE")
    limits = [page * os.sysconf("SC_PHYS_PAGES")]
    if Path("/proc/meminfo").is_file():
        own = int(Path("/proc/self/statm").read_text().split()[1]) * page
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        # Older systems, and Windows' first Linux, do not tell what is available.
        available = fields.get("MemAvailable", fields["MemTotal"])
        limits.append(int(available.split()[0]) * 1024 + own)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for file in (*control_group_files("memory.max"), CONTROL_GROUPS / "memory" / "memory.limit_in_bytes"):
        if file.is_file() and (text := file.read_text().strip()).isdecimal():
            limits.append(int(text))
    return min(limits)


def _out_of_memory(
    config: TrainConfig, method: nn.Module, device: torch.device, memory: Mapping[str, int | None]
) -> str:
    parts = sorted(((value, name) for name, value in memory.items() if value), reverse=True)
    largest = ", ".join(f"{name.replace('_', ' ')} {size_in_words(value)}" for value, name in parts)
    tensors = sorted(((p.nbytes, name) for name, p in method.named_parameters()), reverse=True)[:3]
    named = ", ".join(f"{name} {size_in_words(value)}" for value, name in tensors)
    estimate = f" the estimate: {largest};" if largest else ""
    images = config.batch_size // world_size() // config.accumulate
    advice = advice_on_memory(config, device, memory)
    return (
        f"out of memory on {device} ({size_in_words(memory_of(device))}) with {images} images a forward pass;"
        f"{estimate} the largest tensors: {named}. In another --out, {advice}; {config.out} keeps its last checkpoint"
    )


def advice_on_memory(config: TrainConfig, device: torch.device, memory: Mapping[str, int | None]) -> str:
    """Name a batch that would fit, and an ``accumulate`` for the batch as it is; or what else takes less memory."""
    count, share = fitting(config, device, memory), config.batch_size // world_size()
    if count < 1:
        return "not even one image would fit: give a smaller backbone or --image_size, or --precision bf16"
    splits = range(config.accumulate + 1, share + 1)
    accumulate = next(n for n in splits if share % n == 0 and share // n <= count)
    fits = count * config.accumulate * world_size()
    return f"--batch_size {fits} would fit, or --accumulate {accumulate} for the same batch in parts"


def too_small_batch(option: str, network: str = "the network", hint: str = "") -> UserError:
    """The error for batches of one image where a BatchNorm of ``network`` has a single value a channel then; ``hint`` ends it."""
    return UserError(
        f"{option} 1: a BatchNorm of {network} would have a single value to normalise; give {option} 2 or more{hint}"
    )
