"""What ends a training from outside, in words: no memory left. (``training.machine.devices`` tells of a process of it that
died.)"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from common.distributed import world_size
from common.errors import UserError, is_out_of_memory
from training.config import TrainConfig

#: Part of a device's memory that the estimate may take: it counts no crops, no buffers of libraries and no fragmentation.
USABLE = 0.8


@contextmanager
def explained(
    config: TrainConfig, method: nn.Module, device: torch.device, memory_gib: Callable[[], Mapping[str, float | None]]
) -> Iterator[None]:
    """While training: errors of memory become sentences. The last checkpoint stays as it is.

    Args:
        config: resolved options.
        method: whose largest tensors are named.
        device: whose memory counts.
        memory_gib: gives an estimate by part, as ``training.plan.cost_of`` has it; empty where there is none.

    Raises:
        UserError: in place of an out-of-memory error, naming the largest things and a batch size that would fit.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            estimate: Mapping[str, float | None] = {}
            with suppress(Exception):  # counting takes memory, too
                estimate = memory_gib()
            raise UserError(_out_of_memory(config, method, device, estimate)) from error
        raise


def fitting(config: TrainConfig, device: torch.device, memory_gib: Mapping[str, float | None]) -> int:
    """Images of one process's forward pass that would fit into its device's memory by the estimate (which is of one process),
    and fewer than now; 0: not even one."""
    together = config.batch_size // config.accumulate
    fewer = together // world_size() // 2
    activations = memory_gib.get("activations")
    if not activations:
        return fewer
    fixed = sum(value for name, value in memory_gib.items() if name != "activations" and value)
    free = USABLE * memory_of(device) / 2**30 - fixed
    return max(0, min(int(free / (activations / together)), fewer))


def memory_of(device: torch.device) -> int:
    """Bytes that this process could have on a device: of a CPU what is free, within the process's and its container's
    limits."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    own = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if _linux() else 0
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if _linux():
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        limits.append(int(fields["MemAvailable"].split()[0]) * 1024 + own)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for file in (*_cgroups(), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        if file.is_file() and (text := file.read_text().strip()).isdecimal():
            limits.append(int(text))
    return min(limits)


def _cgroups() -> list[Path]:
    """Files of the limits of this process's control group (a SLURM job's, a container's) and of those around it."""
    own = Path("/proc/self/cgroup")
    lines = own.read_text().splitlines() if own.is_file() else []
    groups = [Path("/sys/fs/cgroup") / line.split(":", 2)[2].lstrip("/") for line in lines if line.startswith("0:")]
    return [place / "memory.max" for group in groups for place in (group, *group.parents)]


def _linux() -> bool:
    return Path("/proc/meminfo").is_file()


def _out_of_memory(
    config: TrainConfig, method: nn.Module, device: torch.device, memory_gib: Mapping[str, float | None]
) -> str:
    parts = sorted(((value, name) for name, value in memory_gib.items() if value), reverse=True)
    largest = ", ".join(f"{name.replace('_', ' ')} {_size(value)}" for value, name in parts)
    tensors = sorted(((p.nbytes / 2**30, name) for name, p in method.named_parameters()), reverse=True)[:3]
    named = ", ".join(f"{name} {_size(value)}" for value, name in tensors)
    estimate = f" the estimate: {largest};" if largest else ""
    count, share = fitting(config, device, memory_gib), config.batch_size // world_size()
    if count >= 1:
        parts_needed = next(
            n for n in range(config.accumulate + 1, share + 1) if share % n == 0 and share // n <= count
        )
        fits = count * config.accumulate * world_size()
        advice = f"--batch_size {fits} would fit, or --accumulate {parts_needed} for the same batch in parts"
    else:
        advice = "not even one image would fit: give a smaller backbone or --image_size, or --precision bf16"
    return (
        f"out of memory on {device} ({_size(memory_of(device) / 2**30)}) with {share // config.accumulate} images a forward pass;"
        f"{estimate} the largest tensors: {named}. In another --out, {advice}; {config.out} keeps its last checkpoint"
    )


def _size(gib: float) -> str:
    return f"{gib:.1f} GiB" if gib >= 1 else f"{gib * 1024:.1f} MiB"
