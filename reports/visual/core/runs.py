"""Names and training options of runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from rundir.options import require_options
from rundir.paths import CONFIG


def training_options(run: str | Path) -> dict[str, Any]:
    """Read a run's training options. Raises UserError for a run without, such as an evaluation of released weights."""
    options = require_options(Path(run), "give a run directory")
    if "method" not in options:
        raise UserError(
            f"{Path(run) / CONFIG}: does not say which method was trained; give the directory of a training"
        )
    return options


def run_words(options: Mapping[str, Any]) -> str:
    """Name a run's method, backbone and data."""
    return f"{options.get('method', '?')}, {options.get('backbone', '?')}, on {options.get('data', '?')}"


def names_of(runs: Sequence[str]) -> list[str]:
    """Name runs by folder, or by path where two folders have the same name."""
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
