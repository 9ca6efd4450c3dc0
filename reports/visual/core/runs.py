"""What pictures call runs, and the options that runs were trained with. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from rundir.options import require_options
from rundir.paths import CONFIG


def training_options(run: str | Path) -> dict[str, Any]:
    """The options that a run was trained with. Raises UserError where there are none, or not of a training."""
    options = require_options(Path(run), "give a run directory")
    if "method" not in options:
        raise UserError(
            f"{Path(run) / CONFIG}: does not say which method was trained; give the directory of a training"
        )
    return options


def run_words(options: Mapping[str, Any]) -> str:
    """Method, backbone and data of a run, from its options."""
    return f"{options.get('method', '?')}, {options.get('backbone', '?')}, on {options.get('data', '?')}"


def names_of(runs: Sequence[str]) -> list[str]:
    """What pictures call several runs: their folders' names, or their paths where two names are the same."""
    names = [Path(run).resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]
