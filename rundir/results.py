"""What evaluations leave in a run directory: ``results/EVALUATION.json`` and ``predictions/*.npz``.

A results file is a JSON list with one ``Measurement`` a line. A predictions file holds ``names_hash`` (of the test images'
names, in order) and per-sample outcomes: a metric that is a mean over images as a vector ``[n]`` under the metric's own name
(so that two runs' vectors can be paired), mean average precision as ``scores`` and ``label_sets`` ``[n, classes]``. Where samples
are drawn in groups (objects with their video), ``groups`` has each sample's, int ``[n]`` from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, why
from common.files import read_json, require_plain, write_arrays, write_text
from common.names import first_names, hash_of
from rundir.options import as_number
from rundir.paths import PREDICTIONS, predictions_file

#: Name of the array of a predictions file with each sample's group.
GROUPS = "groups"


@dataclass(frozen=True)
class Measurement:
    """One number with everything that a reader needs to trust it.

    Attributes:
        evaluation, metric: such as "knn" and "top1".
        value: in the metric's own unit (accuracies in percent).
        low, high: 95% bootstrap interval over test samples; None if it cannot be computed, and ``interval`` gives the reason.
        n: number of test samples.
        protocol: everything that fixes the number (k, temperature, input size, …), JSON-able.
        data: name, and for the train and test split counts, the ``fingerprint`` of the pixels, and the ``source`` (of names, files
            and labels; older files have none), which is equal for every input size; of training images also their ``split``, where
            that is another than "train".
        predictions: file under the run's ``predictions/`` with the per-sample outcomes, or None.
        interval: how the interval was made.
        weights, request: digests of the weights, and of weights, data and options together. ``run_evaluations`` fills them in
            and compares them to tell whether a measurement still holds.
        facts: how to show the number (``eval.core.base.facts_of``), so that a report needs no evaluation; {} in older files.
        seconds: time that its evaluation took, all metrics together, with its share of the extraction of features; None in older
            files.
        run: the directory that the measurement was read from; not written.
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
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = field(default=None, compare=False)
    run: Path | None = field(default=None, compare=False, repr=False)

    @property
    def predictions_file(self) -> Path | None:
        """The predictions of a measurement that was read, always in its own run's ``predictions/``."""
        return None if self.predictions is None else self.run / PREDICTIONS / Path(self.predictions).name


#: Types of the fields in a results file. Older files lack fields that are not ``REQUIRED``.
TYPES = {
    **dict.fromkeys(("evaluation", "metric"), str),
    **dict.fromkeys(("value", "low", "high"), float),
    "n": int,
    **dict.fromkeys(("protocol", "data"), dict),
    **dict.fromkeys(("predictions", "interval", "weights", "request"), str),
    "facts": dict,
    "seconds": float,
}
REQUIRED = ("evaluation", "metric", "value", "n")


def write_results(path: Path, measurements: Sequence[Measurement]) -> None:
    """Replace a results file, atomically. Raises ValueError for NaN, which is never a result."""
    entries = [{name: getattr(m, name) for name in TYPES} for m in measurements]
    lines = [json.dumps(entry, allow_nan=False) for entry in entries]
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")


def read_results(path: Path) -> list[Measurement]:
    """Read a results file; a missing one gives no measurements. Raises UserError if anything in it is damaged."""
    if not path.exists():
        return []
    try:
        entries = read_json(path)
        measurements = [parse_measurement(entry, path.parent.parent) for entry in entries]
        for m, entry in zip(measurements, entries, strict=True):
            if entry.get("protocol") is None or "name" not in m.data:
                raise ValueError(f"the data or the protocol of {m.metric} is missing")
            if unknown := entry.keys() - TYPES:
                raise ValueError(f"the unknown field {min(unknown)}")
        return measurements
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: no list of measurements ({why(error)}); delete the file and evaluate again"
        ) from error


def parse_measurement(entry: Any, run: Path) -> Measurement:
    """Parse one entry of a results file in ``run``. Raises ValueError naming the damaged field."""
    if not isinstance(entry, dict):
        raise ValueError("no mapping")
    values: dict[str, Any] = {"low": None, "high": None, "protocol": {}, "data": {}, "interval": "", "run": run}
    for name, kind in TYPES.items():
        value = entry.get(name)
        if name not in REQUIRED and value in (None, ""):
            continue
        if name not in entry:
            raise ValueError(f"no {name!r}")
        if kind in (int, float):
            if as_number(value) is None:
                raise ValueError(f"{name} is {value!r}, no finite number")
            value = kind(value)
        require_plain(value)
        if not isinstance(value, kind) or value == "" or (name == "n" and value < 1):
            raise ValueError(f"{name} is {value!r}")
        values[name] = value
    return Measurement(**values)


def is_outcome(key: str) -> bool:
    """True if the run chose this entry of its protocol on training data (such as a learning rate)."""
    return key.startswith("chosen")


def test_data_of(measurement: Measurement) -> tuple[str, str]:
    """Name and fingerprint of the test data, as they were measured."""
    data = measurement.data
    test = data["test"] if isinstance(data.get("test"), dict) else {}
    fingerprint = data.get("test_fingerprint") or test.get("fingerprint") or data.get("fingerprint") or ""
    return str(data.get("name") or test.get("name") or "unnamed data"), str(fingerprint)


def test_source_of(measurement: Measurement) -> str:
    """What the test data come from (``ImageStore.source``); "" for older measurements, and for files that are their own source."""
    test = measurement.data.get("test")
    return str(test.get("source") or "") if isinstance(test, dict) else ""


def untrained_words(data: Mapping[str, Any]) -> str:
    """Say which test images are of classes without training images, as a measurement's ``data`` has it; "" for none."""
    test = data.get("test")
    without = test.get("without_training") if isinstance(test, Mapping) else None
    if not isinstance(without, Mapping) or not isinstance(names := without.get("classes"), list):
        return ""
    count = "a class" if len(names) == 1 else f"{len(names)} classes"
    images, of = without.get("images"), test.get("images")
    return f"{images} of {of} test images are of {count} without training images: {first_names(names)}"


def measured_key(measurement: Measurement) -> str:
    """A key that is equal for two measurements of the same quantity, whatever their values."""
    protocol = {key: value for key, value in measurement.protocol.items() if not is_outcome(key)}
    key = [measurement.evaluation, measurement.metric, protocol, test_data_of(measurement)]
    return json.dumps(key, sort_keys=True, default=str)


def save_predictions(
    run: Path, name: str, test_names: Sequence[str], classes: Sequence[str] = (), **outcomes: np.ndarray
) -> str:
    """Write ``predictions/NAME.npz`` with arrays whose first axis is the samples, in the order of ``test_names``, and names of
    ``classes``, where outcomes have an axis of them. Returns its path relative to the run directory, for
    ``Measurement.predictions``."""
    lengths = {key: len(value) for key, value in outcomes.items()}
    if set(lengths.values()) != {len(test_names)}:
        raise ValueError(f"outcomes of {lengths} for {len(test_names)} samples")
    path = predictions_file(run, name)
    named = {"classes": np.array(classes)} if classes else {}
    write_arrays(path, names_hash=np.array(names_hash(test_names)), **named, **outcomes)
    return path.relative_to(run).as_posix()


def names_hash(names: Iterable[str]) -> str:
    """Hash sample names in their order. Outcomes with equal hashes may be paired."""
    return hash_of(names, "\n").hexdigest()
