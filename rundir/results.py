"""What evaluations leave in a run directory: ``results/EVALUATION.json`` and ``predictions/*.npz``. Imports no torch.

A results file is a JSON list with one ``Measurement`` a line. A predictions file holds ``names_hash`` (of the test images'
names, in order) and per-sample outcomes: a metric that is a mean over images as a vector ``[n]`` under the metric's own name
(so that two runs' vectors can be paired), mean average precision as ``scores`` and ``label_sets`` ``[n, classes]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from common.errors import UserError
from common.files import atomic_file, write_text


def results_file(run_dir: Path, evaluation: str) -> Path:
    return run_dir / "results" / f"{evaluation}.json"


def write_results(path: Path, measurements: Sequence[Measurement]) -> None:
    """Replace a results file, atomically. NaN is refused with ValueError: it is never a result."""
    lines = [json.dumps(dataclasses.asdict(m), allow_nan=False) for m in measurements]
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_results(path: Path) -> list[Measurement]:
    """The measurements of a results file; none where there is no file. Raises UserError where it is damaged."""
    if not path.exists():
        return []
    try:
        measurements = [Measurement(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
        for m in measurements:
            numbers = [m.value, m.n, *(bound for bound in (m.low, m.high) if bound is not None)]
            if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
                raise ValueError(f"{numbers} are no finite numbers")
            if not isinstance(m.data, dict) or not isinstance(m.protocol, dict) or "name" not in m.data:
                raise ValueError(f"the data or the protocol of {m.metric} is not told")
        return measurements
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: no list of measurements ({error}); delete the file and evaluate again") from error


def save_predictions(run_dir: Path, name: str, test_names: Sequence[str], **outcomes: np.ndarray) -> str:
    """Write ``predictions/NAME.npz`` and return its path relative to the run directory, for ``Measurement.predictions``.

    Args:
        test_names: of the samples, in the order of the arrays.
        outcomes: arrays whose first axis is the samples.
    """
    lengths = {key: len(value) for key, value in outcomes.items()}
    if set(lengths.values()) != {len(test_names)}:
        raise ValueError(f"outcomes of {lengths} for {len(test_names)} samples")
    path = run_dir / "predictions" / f"{name}.npz"
    with atomic_file(path) as file:
        np.savez_compressed(file, names_hash=np.array(names_hash(test_names)), **outcomes)
    return f"predictions/{path.name}"


def names_hash(names: Sequence[str]) -> str:
    """Hash of sample names in their order: outcomes may be paired where it is equal."""
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


def print_measurements(measurements: Sequence[Measurement], run_dir: Path) -> None:
    """Show measurements of one data set as a table on standard output."""
    table = Table(title=f"test images of {measurements[0].data['name']}", title_justify="left")
    for column in ("evaluation", "metric"):
        table.add_column(column)
    for column in ("value", "95% interval", "n"):
        table.add_column(column, justify="right")
    for m in measurements:
        setting = f" (k = {m.protocol['k']})" if "k" in m.protocol else ""
        interval = "–" if m.low is None else f"{m.low:.2f} to {m.high:.2f}"
        table.add_row(m.evaluation + setting, m.metric, f"{m.value:.2f}", interval, str(m.n))
    console = Console()
    console.print(table)
    console.print(f"results: {run_dir / 'results'}", markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Measurement:
    """One number with what it takes to trust it.

    Attributes:
        evaluation: "knn", "linear", "segmentation", …
        metric: "top1", "top5", "miou", …
        value: in the metric's own unit (accuracies in percent).
        low, high: 95% bootstrap interval over test samples; None only where none can be had, with ``interval`` saying why.
        n: number of test samples.
        protocol: everything that fixes the number (k, temperature, input size, resize, …), JSON-able.
        data: name, train and test split, fingerprints, counts.
        predictions: file under the run's ``predictions/`` with the per-sample outcomes, or None.
        interval: how the interval was made.
        weights, request: digests of the weights that were measured, and of everything that was asked for (weights, data,
            options), which tell whether a measurement still holds; ``run_evaluations`` fills them in.
    """

    evaluation: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    protocol: dict[str, Any]
    data: dict[str, Any]
    predictions: str | None = None
    interval: str = "95% percentile bootstrap over test images"
    weights: str = ""
    request: str = ""
