"""``run.py`` runs in the caller's Python if that has the packages, else in ``.venv``, which ``make setup`` makes.
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
#: Packages that are imported first; a Python that has them has all others.
PACKAGES = ("yaml", "simple_parsing", "numpy", "torch", "rich", "pandas", "jinja2")


def continue_in_venv(missing: str | None, words: Sequence[str]) -> None:
    """Replace this process by the same command in ``.venv``, made if needed, unless the missing package is none of
    ``PACKAGES`` or this is ``.venv`` already. Raises UserError if it cannot be made."""
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
