"""A description of a run's surroundings: code, packages, hardware, command."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from common.distributed import world_size
from common.environment import ROOT, processors

PACKAGES = [
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "numba",
    "scipy",
    "scikit-learn",
    "pillow",
    "pytorch-metric-learning",
]


def describe_environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Describe this process's surroundings, JSON-able. ``commit`` and ``modified`` (tracked files differ from it) are None outside
    a git checkout, ``cuda`` is None without a CUDA device."""
    commit = _git("rev-parse", "HEAD")
    return {
        "command": ["python", *sys.argv],
        "started": now(),
        "commit": commit,
        "modified": None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": processors(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else {"mps": "Apple GPU (mps)"}.get(device.type, "CPU"),
        "precision": precision,
        "processes": world_size(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
