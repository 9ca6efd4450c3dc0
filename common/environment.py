"""``run.py`` runs in the caller's Python if that has the packages, else in ``.venv``, which ``make setup`` makes.
Imports the standard library only."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, first_line

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
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


def _is_installed(name: str) -> bool:
    """Whether Python finds a module, not just a folder, of that name."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None
