"""The options of a run, as its directory keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from common.files import read_yaml, write_text

#: Options that change where and how a training runs, not what is trained. They may differ between a run and its continuation, and
#: runs that differ only in them are one row.
INCIDENTAL = frozenset(
    {
        "out",
        "visualize",
        "data_root",
        "stream",
        "device",
        "strategy",
        "compile",
        "evals",
        "tensorboard",
        "wandb",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    }
)


#: Methods without any training.
UNTRAINED = ("random", "pixels")


_START = "; start: "


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def label_use(config: Mapping[str, Any], uses_labels: bool) -> str:
    """Which labels a training with these options used, and that of its initial weights ("none", "10% (pairs)", "all").

    Args:
        config: options of the training.
        uses_labels: whether its method's loss reads labels.
    """
    fraction = _number(config.get("label_fraction"))
    share = "all" if fraction is None or fraction >= 1 else f"{100 * fraction:.3g}%"
    own = share if uses_labels else f"{share} (pairs)" if config.get("pairing") == "same_label" else "none"
    before = str(config.get("init_labels") or "?") if config.get("init") else "none"
    return own if before == "none" else f"{own}{_START}{before}"


def written_options(run: Path) -> dict[str, Any]:
    """What a run directory's ``config.yaml`` says; nothing where there is none, or a damaged one (which ``require_same_run``
    refuses)."""
    try:
        there = read_yaml(run / "config.yaml")
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def write_config(run: Path, options: Mapping[str, Any]) -> None:
    """Write ``config.yaml``, which ``--config`` reads."""
    write_text(run / "config.yaml", yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True))
