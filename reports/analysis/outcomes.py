"""Read per-image outcomes of measurements (``predictions/*.npz``) for paired tests and bootstraps.

A file holds ``names_hash`` (of the test images' names, in order), and one of
- per-image scores ``[n]`` under the metric's name; their mean is the measurement;
- ``confusion`` ``[n, C, C]``, per-image confusion matrices, for the metrics of ``common.statistics.confusion``;
- ``scores`` ``[n, C]`` and ``label_sets`` ``[n, C]`` (bool), for mean average precision over classes;
and ``groups`` ``[n]`` where samples are drawn in groups (older files of DAVIS: ``video``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.errors import unreadable
from common.files import read_arrays
from common.statistics.average_precision import mean_average_precision, mean_interpolated_precision
from common.statistics.confusion import scores as confusion_scores
from rundir.results import GROUPS, Measurement, names_hash

#: Metrics of interpolated precision, with the number of recalls.
INTERPOLATED = {"map_interpolated": None, "map_11_point": 11}


class NoOutcomes(Exception):
    """A measurement has no usable per-image outcomes; the text is the reason."""


@dataclass(frozen=True)
class Outcomes:
    """Per-image outcomes of one measurement.

    Attributes:
        names: hash of the test images' names; only equal ones are paired.
        values: ``[n]`` in the measurement's unit, for a metric that is a mean over images.
        binary: an image is either right or wrong.
        matrices: ``[n, C, C]`` for metrics of summed confusion matrices.
        ranking: scores and targets, each ``[n, C]``, for mean average precision; ``ignored`` ``[n, C]``: count nowhere (VOC's).
        groups: int ``[n]`` from 0, what each image is drawn with; None: by itself.
    """

    names: str
    n: int
    metric: str
    values: np.ndarray | None = None
    binary: bool = False
    matrices: np.ndarray | None = None
    ranking: tuple[np.ndarray, np.ndarray] | None = None
    groups: np.ndarray | None = None
    ignored: np.ndarray | None = None

    def resampled(self, counts: Iterator[np.ndarray]) -> np.ndarray:
        """The measurement on bootstrap resamples: ``[resamples]`` for draws ``[chunk, n]``."""
        return np.concatenate([self._weighted(chunk) for chunk in counts])

    def _weighted(self, counts: np.ndarray) -> np.ndarray:
        if self.values is not None:
            return counts @ self.values / counts.sum(axis=1)
        if self.matrices is not None:
            classes = self.matrices.shape[-1]
            total = counts.astype(np.float64) @ self.matrices.reshape(self.n, -1).astype(np.float64)
            return confusion_scores(total.reshape(-1, classes, classes))[self.metric]
        if self.metric in INTERPOLATED:
            return 100 * mean_interpolated_precision(*self.ranking, self.ignored, INTERPOLATED[self.metric])(counts)
        return 100 * mean_average_precision(*self.ranking)(counts)


def outcomes_of(result: Measurement) -> Outcomes:
    """Read the outcomes of a measurement and check that they give its value. Raises NoOutcomes where they do not."""
    file = result.predictions_file
    if file is None:
        raise NoOutcomes("it has no per-image outcomes")
    outcomes = _read(file, result.metric)
    if outcomes.groups is not None and len(outcomes.groups) != outcomes.n:
        raise NoOutcomes(f"{file.name} has groups of {len(outcomes.groups)} of its {outcomes.n} images")
    if outcomes.n != result.n:
        raise NoOutcomes(f"{file.name} has {outcomes.n} images, the measurement {result.n}")
    value = float(outcomes.resampled(iter([np.ones((1, outcomes.n), np.float32)]))[0])
    allowed = 0.01 + 1e-4 * abs(result.value)
    if outcomes.values is not None and abs(100 * value - result.value) < allowed:
        return replace(outcomes, values=outcomes.values * np.float32(100))  # stored as fractions, measured in percent
    if abs(value - result.value) > allowed:
        raise NoOutcomes(f"{file.name} gives {value:.4g} where the measurement says {result.value:.4g}")
    return outcomes


def _read(file: Path, metric: str) -> Outcomes:
    try:
        arrays = read_arrays(file)
        names, groups = _names(arrays, file), _groups(arrays, file)
        if metric in arrays:
            values = arrays[metric]
            if values.ndim != 1 or not len(values) or not np.all(np.isfinite(values)):
                raise NoOutcomes(f"{file.name} holds no vector of finite numbers for {metric}")
            binary = bool(np.all((values == 0) | (values == 1)))
            return Outcomes(names, len(values), metric, values.astype(np.float32), binary, groups=groups)
        if "confusion" in arrays and arrays["confusion"].ndim == 3:
            matrices = arrays["confusion"]
            outcomes = Outcomes(names, len(matrices), metric, matrices=matrices, groups=groups)
            if metric in confusion_scores(matrices.sum(0)):
                return outcomes
        ignored = arrays["ignored"].astype(bool) if "ignored" in arrays else None
        ranked = metric in INTERPOLATED if ignored is not None else metric == "map"
        if "scores" in arrays and "label_sets" in arrays and ranked:
            scores, targets = arrays["scores"], arrays["label_sets"].astype(bool)
            fits = scores.shape == targets.shape and (ignored is None or ignored.shape == scores.shape)
            if fits and scores.ndim == 2 and len(scores):
                return Outcomes(names, len(scores), metric, ranking=(scores, targets), groups=groups, ignored=ignored)
        raise NoOutcomes(f"{file.name} holds nothing for {metric}")
    except FileNotFoundError:
        raise NoOutcomes(f"{file.name} is missing") from None
    except (OSError, ValueError, KeyError) as error:
        raise NoOutcomes(f"{file.name} {unreadable(error)}") from error


def _names(arrays, file: Path) -> str:
    if "names_hash" in arrays:
        return str(arrays["names_hash"])
    if "names" in arrays:
        return names_hash(arrays["names"].tolist())
    raise NoOutcomes(f"{file.name} does not say which images it is about")


def _groups(arrays, file: Path) -> np.ndarray | None:
    """Each sample's group, numbered from 0."""
    name = next((name for name in (GROUPS, "video") if name in arrays), None)
    if name is None:
        return None
    if arrays[name].ndim != 1:
        raise NoOutcomes(f"{file.name} holds no vector of groups")
    return np.unique(arrays[name], return_inverse=True)[1]
