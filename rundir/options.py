"""The options of a run, ``config.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, unreadable
from common.files import MOST_NUMBER, read_yaml, require_plain, write_text
from rundir.paths import CONFIG

#: Types of options that reports read.
TYPES = {
    **dict.fromkeys(("method", "backbone", "data", "pairing", "init"), str),
    "evals": list,
    **dict.fromkeys(("epochs", "label_fraction"), (int, float)),
}
#: Between the labels of a training and those of its initial weights.
START = "; start: "


def as_number(value: Any) -> float | None:
    """Return a finite number as a float, anything else as None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= MOST_NUMBER else None


def label_use(config: Mapping[str, Any], uses_labels: Any) -> str:
    """Say which labels a training and the training of its initial weights used: "none", "10% (pairs)", "all (pairs, targets)",
    "none; start: all". ``uses_labels``: whether the method's loss reads labels, or what for, in a word."""
    fraction = as_number(config.get("label_fraction"))
    share = "all" if fraction is None or fraction >= 1 else f"{100 * fraction:.3g}%"
    uses = ["pairs"] if config.get("pairing") == "same_label" else []
    uses += [uses_labels] if uses_labels and isinstance(uses_labels, str) else []
    by_loss = uses_labels and not isinstance(uses_labels, str)
    own = share if by_loss else f"{share} ({', '.join(uses)})" if uses else "none"
    before = str(config.get("init_labels") or "?") if config.get("init") else "none"
    return own if before == "none" else f"{own}{START}{before}"


def require_options(run: Path, otherwise: str = "give another --out") -> dict[str, Any]:
    """Read a run's ``config.yaml``. Raises UserError, which ends with ``otherwise``, if it cannot be read."""
    file = run / CONFIG
    try:
        return load_options(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {unreadable(error)}; {otherwise}") from error


def written_options(run: Path) -> dict[str, Any]:
    """Read a run's ``config.yaml``; a missing or damaged file gives no options."""
    try:
        return load_options(run / CONFIG)
    except (OSError, ValueError):
        return {}


def load_options(file: Path) -> dict[str, Any]:
    """Read a mapping of option names to plain values. Raises OSError, or ValueError if the file holds anything else."""
    options = read_yaml(file)
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise ValueError("no mapping of options to values")
    for name, value in options.items():
        try:
            require_plain(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if name in TYPES and not (value is None or isinstance(value, TYPES[name])):
            raise ValueError(f"{name} is {value!r}")
    if not all(isinstance(name, str) for name in options.get("evals") or []):
        raise ValueError(f"evals holds {options['evals']!r}, and no names")
    return options


def write_options(run: Path, options: Mapping[str, Any]) -> None:
    """Write ``config.yaml``, which ``--config`` reads."""
    write_text(run / CONFIG, yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True))
