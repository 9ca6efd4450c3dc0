"""Why a run failed, ``failure.json``: so that a report made anywhere, later, can say it."""

from __future__ import annotations

from pathlib import Path

from common.files import read_json, write_json
from rundir.paths import CONFIG, FAILURE


def write_failure(run: Path, reason: str) -> None:
    """Keep the reason, unless the directory holds no run."""
    if (run / CONFIG).is_file():
        write_json(run / FAILURE, {"reason": reason})


def failure_of(run: Path) -> str:
    """The reason why a run last failed; "" if it has not, or the file is damaged."""
    try:
        reason = read_json(run / FAILURE)["reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return reason if isinstance(reason, str) else ""


def forget_failure(run: Path) -> None:
    """Called when a training goes on, whoever has started it."""
    (run / FAILURE).unlink(missing_ok=True)
