"""Device, precision and process group of a run."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist

from common.distributed import is_distributed, rank, world_size
from common.environment import processors
from common.errors import UsageError, UserError, first_line

Precision = Literal["fp32", "bf16", "fp16"]
#: Parts of torch's error messages when another process has ended.
LOST_CONNECTION = ("Connection closed by peer", "Connection reset", "Broken pipe", "ncclRemoteError")


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes of ``torchrun``, with NCCL for CUDA tensors and gloo for CPU tensors. Has no effect on a single process,
    or if the group exists. Inside, torch's error after the end of another process becomes a UserError."""
    began = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if began:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    failed = False
    try:
        yield
    except Exception as error:
        failed = True
        is_lost = any(words in str(error) for words in LOST_CONNECTION)
        if isinstance(error, (dist.DistError, RuntimeError)) and is_distributed() and is_lost:
            raise UserError(
                f"process {rank()} of {world_size()}: another process of this command has ended ({first_line(error)}); "
                "its own message says why, and the same command continues from the last checkpoint"
            ) from error
        raise
    finally:
        # Ending NCCL waits for messages of the other processes, which may never come after a failure.
        if began and not (failed and cuda):
            dist.destroy_process_group()


def pick_device(name: str) -> torch.device:
    """Return the device for ``auto`` (CUDA, else mps, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``. Several processes on
    a machine take the CUDA devices of their local ranks. Also sets CUDA to full float32 precision, convolutions included, has torch
    work in no more threads than there are processors, and calls ``keep_memory``. Raises UsageError if this machine has no such
    device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {name!r}; give auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has none that torch can use; give --device auto")
    if device.type == "cuda":
        if device.index is not None and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
            raise UsageError(
                f"--device {name}: each of several processes takes a CUDA device of its own; give --device cuda"
            )
        index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
        if not torch.cuda.is_available() or index >= torch.cuda.device_count():
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            raise UsageError(f"--device {name}: torch sees {count} CUDA devices here (wanted number {index}, from 0)")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if not os.environ.get("OMP_NUM_THREADS"):  # torch knows of no share of a container
        torch.set_num_threads(min(torch.get_num_threads(), processors()))
    keep_memory(True)
    return device


def keep_memory(keep: bool) -> None:
    """Tell glibc to keep freed memory for the next allocation; False: about the default. By default it returns large blocks to the
    system, and getting them back page by page takes a quarter of each training step (docs/performance.md)."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        # Numbers of malloc.h: M_TRIM_THRESHOLD (-1: never), M_MMAP_THRESHOLD (its largest), M_MMAP_MAX (0: none; its default).
        for option, value in ((-1, -1 if keep else 64 << 20), (-3, 32 << 20), (-4, 0 if keep else 65536)):
            mallopt(option, value)


def pick_precision(name: str, device: torch.device) -> Precision:
    """Resolve the precision ``auto`` from the hardware alone, so that a machine always computes alike: bf16 on CUDA devices of
    capability 8.0 and above and on CPUs with bf16 products (AVX-512 BF16, AMX; 0.4 to 0.5 of the time in fp32) that oneDNN may use
    (``ONEDNN_MAX_CPU_ISA`` can forbid it), fp16 on older CUDA devices with tensor cores (7.0), and fp32 elsewhere. Raises
    UsageError for fp16 without CUDA, which has no gradient scaling."""
    if name == "fp16" and device.type != "cuda":
        raise UsageError(f"--precision fp16 needs a CUDA device, and this run is on {device.type}; give bf16 or fp32")
    if name != "auto":
        return name  # type: ignore[return-value]
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"
    has_products = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type == "cpu" and has_products and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "bf16"
    return "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager:
    """The context of forward passes in a precision. Weights and losses stay float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work; call it before reading the clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory in GiB: allocated on a CUDA device, resident on a CPU. mps keeps no peak, so there the current memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # macOS counts bytes, Linux kibibytes


def energy_joules(device: torch.device) -> float | None:
    """Energy that a CUDA device has used since its driver was loaded, as NVML counts it (Volta and newer). None where nothing
    tells it: older devices, parts of one (MIG), and all others."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None) if device.type == "cuda" else None
    if uuid is None:
        return None
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    name = str(uuid) if str(uuid).startswith("GPU-") else f"GPU-{uuid}"
    failed = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    failed = failed or nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    return None if failed else millijoules.value / 1000
