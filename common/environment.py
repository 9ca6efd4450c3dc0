"""The Python that ``run.py`` runs in: the caller's, where that has the packages, else ``.venv``, which ``make setup`` makes.
Imports the standard library only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
#: The packages that are imported first. A Python that has them has the toolkit's packages.
PACKAGES = ("yaml", "simple_parsing", "numpy", "torch", "rich", "pandas", "jinja2")


def continue_in_venv(missing: str | None, words: Sequence[str]) -> None:
    """Where one of ``PACKAGES`` is missing, replace this process by the same command in ``.venv``, which is made first if needed.
    Returns if another package is missing, or this is ``.venv`` already. Raises UserError if it cannot be made."""
    if missing not in PACKAGES or Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not (VENV / "ready").exists():
        try:
            made = subprocess.run(["make", "-C", str(ROOT), "setup", f"PYTHON={sys.executable}"], stdout=sys.stderr)
        except FileNotFoundError:
            made = None
        if made is None or made.returncode != 0:
            raise UserError(f"{missing} is not installed here, and make setup failed; in {ROOT}, run: make setup")
    python = str(VENV / "bin" / "python")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(python, [python, str(ROOT / "run.py"), *words])
