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
