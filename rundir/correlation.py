"""Cross-correlation of two views' projections over a training, ``figures/cross_correlation.npz``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import UserError, why
from common.files import MOST_NUMBER, read_arrays, write_arrays
from rundir.paths import correlation_file


@dataclass(frozen=True)
class Correlations:
    """The cross-correlations of E epochs: ``matrices [E, d, d]`` in [-1, 1] of evenly spaced features; ``on_diagonal [E]``, the
    mean of the diagonal over all features; ``off_diagonal [E]``, the root mean square of the rest."""

    epochs: np.ndarray
    matrices: np.ndarray
    on_diagonal: np.ndarray
    off_diagonal: np.ndarray


def save_correlation(run: Path, epoch: int, matrix: np.ndarray, on_diagonal: float, off_diagonal: float) -> None:
    """Add an epoch to the file, which keeps matrices as float16 and the newest also as ``cross_correlation [d, d]``. Replaces this
    epoch and later ones, which an interrupted run left. Raises UserError if the file is damaged."""
    file = correlation_file(run)
    arrays = {
        "epochs": np.array([epoch]),
        "matrices": matrix[None].astype(np.float16),
        "on_diagonal": np.array([on_diagonal]),
        "off_diagonal": np.array([off_diagonal]),
    }
    if file.exists():
        try:
            old = read_arrays(file)
            earlier = old["epochs"] < epoch
            arrays = {name: np.concatenate([old[name][earlier], value]) for name, value in arrays.items()}
        except (ValueError, KeyError, IndexError) as error:
            raise UserError(
                f"{file}: damaged ({why(error)}); delete it, and the same command continues without it"
            ) from error
    write_arrays(file, cross_correlation=matrix, **arrays)


def read_correlations(run: Path) -> Correlations:
    """Read the file, with matrices as float32. Raises OSError, or ValueError with one line if the file is damaged."""
    arrays = read_arrays(correlation_file(run))
    try:
        kept = Correlations(*(arrays[name] for name in ("epochs", "matrices", "on_diagonal", "off_diagonal")))
    except KeyError as error:
        raise ValueError(f"holds no {error.args[0]}") from error
    count, side = kept.epochs.size, kept.matrices.shape[-1:]
    by_epoch = (kept.epochs, kept.on_diagonal, kept.off_diagonal)
    if not count or kept.matrices.shape != (count, *side, *side) or any(a.shape != (count,) for a in by_epoch):
        raise ValueError(f"matrices of shape {kept.matrices.shape} for {count} epochs")
    if not all(a.dtype.kind in "iuf" and np.all(np.abs(a) <= MOST_NUMBER) for a in by_epoch):
        raise ValueError("epochs or means that are no finite numbers")
    if kept.matrices.dtype.kind != "f":
        raise ValueError(f"matrices of {kept.matrices.dtype}")
    return replace(kept, matrices=kept.matrices.astype("float32"))
