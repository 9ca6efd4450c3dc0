"""The reference implementations' values, and how far ours are from them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor


@pytest.fixture(scope="session")
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given as ``--golden``."""
    return request.config.getoption("--golden")


@pytest.fixture(scope="session")
def golden(golden_dir: Path) -> Callable[[str], Mapping[str, np.ndarray]]:
    """``golden("knn")``: the arrays of ``knn.npz``, by name."""

    def load(name: str) -> Mapping[str, np.ndarray]:
        with np.load(golden_dir / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(scope="session")
def golden_error() -> Callable[[Tensor | np.ndarray, np.ndarray], float]:
    """``golden_error(ours, reference)``: the error as tests/golden/README.md defines it: the largest absolute difference,
    divided by the larger of 0.1 and the reference's largest magnitude. Shapes must be equal, and NaN is an infinite error."""

    def error(ours: Tensor | np.ndarray, reference: np.ndarray) -> float:
        ours = ours.detach().cpu().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
        assert ours.shape == reference.shape, f"shape {ours.shape}, reference {reference.shape}"
        ours, reference = ours.astype(np.float64), reference.astype(np.float64)
        difference = np.abs(ours - reference).max() / max(0.1, np.abs(reference).max())
        return float(difference) if np.isfinite(difference) else float("inf")

    return error


@pytest.fixture(scope="session")
def warmup_of() -> Callable[[np.ndarray], int]:
    """``warmup_of(rates)``: steps of warm-up of DINO's learning rates; the step after them is the last one at the peak."""
    return lambda rates: int(np.flatnonzero(np.isclose(rates, rates.max(), rtol=1e-12))[-1])


@pytest.fixture(scope="session")
def end_of() -> Callable[..., float]:
    """``end_of(schedule, warmup=0)``: the value that a cosine goes to, and that the step after its last would have."""

    def end(schedule: np.ndarray, warmup: int = 0) -> float:
        start, steps = schedule[warmup], len(schedule) - warmup
        part = 0.5 * (1 + np.cos(np.pi * (steps - 1) / steps))
        return float((schedule[-1] - start * part) / (1 - part))

    return end
