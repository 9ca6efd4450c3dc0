"""``run.py`` runs in the caller's Python if that has the packages, else in ``.venv``, which ``make setup`` makes.
Imports the standard library only."""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, first_line

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
#: Modules that reports are made with.
OF_REPORTS = ("simple_parsing", "yaml", "numpy", "scipy", "pandas", "matplotlib", "seaborn", "jinja2", "PIL", "rich")
#: Modules of all packages that pyproject.toml requires.
PACKAGES = (
    *OF_REPORTS,
    *("torch", "torchvision", "timm", "pytorch_metric_learning", "sklearn", "numba", "safetensors", "xxhash"),
)


def continue_in_venv(command: str, words: Sequence[str]) -> None:
    """Replace this process by the same command in ``.venv``, made if needed, unless this Python has what ``command`` needs or is
    that of ``.venv``. Imports none of ``PACKAGES``. Raises UserError if ``.venv`` cannot be made."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return
    needed = OF_REPORTS if command == "report" else PACKAGES
    lacking = [name for name in needed if not _is_installed(name)]
    if sys.version_info >= (3, 11) and not lacking:
        return
    if not (VENV / "ready").exists():
        try:
            made = subprocess.run(["make", "-C", str(ROOT), "setup", f"PYTHON={sys.executable}"], stdout=sys.stderr)
        except FileNotFoundError:
            made = None
        if made is None or made.returncode != 0:
            problem = f"{lacking[0]} is not installed here" if lacking else "Python 3.11 or newer is needed"
            raise UserError(f"{problem}, and make setup failed; in {ROOT}, run: make setup")
    python = str(VENV / "bin" / "python")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(python, [python, str(ROOT / "run.py"), *words])


def missing_package(what: str, error: ImportError, extra: str) -> UserError:
    """Make the error for a package of one of pyproject.toml's extras that ``what`` needs, with the command that installs it into
    this Python."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        command = f".venv/bin/uv pip install --python .venv/bin/python -r pyproject.toml --extra {extra}"
    else:
        command = f"{shlex.quote(sys.executable)} -m pip install '.[{extra}]'"
    name = (error.name or first_line(error)).partition(".")[0]
    return UserError(
        f"{what} needs the package {name}, which is not installed; in {shlex.quote(str(ROOT))}, run: {command}"
    )


def processors() -> int:
    """Number of processors that this process may use: of its affinity (SLURM, taskset), within the share of its control group (a
    container)."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [_first_line_of(file).split(" ") for file in control_group_files("cpu.max")]
    for folder in ("cpu", "cpu,cpuacct"):  # version 1
        limits.append([_first_line_of(CONTROL_GROUPS / folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")])
    shares = [int(limit[0]) / int(limit[1]) for limit in limits if len(limit) == 2 and all(map(str.isdecimal, limit))]
    return max(1, min([allowed, *(math.ceil(share) for share in shares if share > 0)]))


def control_group_files(name: str) -> list[Path]:
    """Files of this name of the process's control group (a SLURM job, a container) and of the groups around it."""
    lines = [line for line in _lines_of(Path("/proc/self/cgroup")) if line.startswith("0:")]
    groups = [CONTROL_GROUPS / line.split(":", 2)[2].lstrip("/") for line in lines]
    return [file for group in groups for place in (group, *group.parents) if (file := place / name).is_file()]


def _lines_of(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _first_line_of(file: Path) -> str:
    return next(iter(_lines_of(file)), "")


def _is_installed(name: str) -> bool:
    """Whether Python finds a module, not just a folder, of that name."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None
