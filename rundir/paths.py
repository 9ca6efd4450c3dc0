"""Where the files of a run lie."""

from __future__ import annotations

from pathlib import Path


def last_checkpoint(run: Path) -> Path:
    """Where a run's newest checkpoint is."""
    return run / "checkpoints" / "last.pt"


def best_checkpoint(run: Path) -> Path:
    """Where a run's checkpoint with the best online k-NN is, where that has been measured."""
    return run / "checkpoints" / "best.pt"


def earlier_checkpoints(run: Path) -> list[Path]:
    """The checkpoints that are kept from before the last, the newest first."""
    found = (run / "checkpoints").glob("step-*.pt")
    numbered = [(int(file.stem[5:]), file) for file in found if file.stem[5:].isdecimal()]
    return [file for _, file in sorted(numbered, reverse=True)]


def has_checkpoint(run: Path) -> bool:
    """True if there is something that a run may continue from, whole or damaged."""
    return any(file.exists() for file in (last_checkpoint(run), best_checkpoint(run), *earlier_checkpoints(run)))
