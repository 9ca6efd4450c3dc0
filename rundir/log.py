"""The log of a run: how its training ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.files import archive_damage, read_json_lines
from rundir.paths import last_checkpoint


def end_of(run: Path) -> dict[str, Any] | None:
    """The last record of a finished run; None of one that is not."""
    try:
        records = read_json_lines(run / "log.jsonl")
    except (OSError, ValueError):
        return None
    return next((record for record in records if record.get("kind") == "end"), None)


def whole_end_of(run: Path) -> dict[str, Any] | None:
    """The same, and None where the last checkpoint has been damaged since: such a run continues from the one before."""
    end, last = end_of(run), last_checkpoint(run)
    return None if end is None or (last.exists() and archive_damage(last) is not None) else end
