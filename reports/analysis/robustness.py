"""How a method does over its settings: the distribution of each headline measurement over the settings that a grid varies, and
how two methods differ in it.

A family holds the rows of one method (and variant), backbone, training data and use of labels; each row is a setting. Settings are
taken as a sample of those that a user might try, so medians and spreads have bootstrap intervals over settings. Two families are
compared on the settings that both have, which are drawn together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reports.analysis.comparison import Comparison
from reports.analysis.identity import IMAGES, as_text, trained_options
from reports.analysis.rows import Row, differing_options, variant_in_grid
from reports.analysis.statistics import percentile_interval
from rundir.collapse import collapse_at_end
from rundir.options import as_number
from rundir.read import Run

#: Fewer settings have no distribution.
FEWEST_SETTINGS = 4
#: Fewer settings have no interval of their spread: resamples of two distinct values leave a standard deviation without an upper
#: end, and that of the interquartile range of 4 settings holds the truth in 71% of samples.
FEWEST_FOR_SPREAD = 8
#: Bootstrap resamples of settings.
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A statistic over settings with its 95% interval, if any."""

    value: float
    low: float | None
    high: float | None


@dataclass
class Family:
    """A method's settings. ``runs`` have a measurement or have failed; ``failed`` counts those without a measurement, and
    ``collapsed`` are the paths of measured runs with signs of collapse."""

    name: str
    rows: list[Row]
    runs: list[Run]
    failed: int
    collapsed: set[Path]


@dataclass
class Distribution:
    """A family's measurements in a column.

    Attributes:
        means: of each measured setting over seeds.
        values: of each measured run.
        collapsed: for each of ``values``, whether that run has collapsed.
        untrained: the mean of the untrained backbone, if it was measured: one for each size of images.
        not_above: runs at or below theirs that have not collapsed; None without any.
        rows: of ``means``.
    """

    family: Family
    column: int
    rows: list[Row]
    means: np.ndarray
    values: np.ndarray
    collapsed: np.ndarray
    untrained: list[float]
    not_above: int | None
    best: float
    worst: float
    median: Estimate
    std: Estimate
    iqr: Estimate


@dataclass(frozen=True)
class Difference:
    """First minus second family, over the ``shared`` settings."""

    first: Distribution
    second: Distribution
    shared: int
    median: Estimate
    std: Estimate
    iqr: Estimate


def distributions(comparison: Comparison, rows: Sequence[Row]) -> list[Distribution]:
    """The distributions of families with ``FEWEST_SETTINGS`` or more measured settings, by column. ``rows``: all of the report, of
    which the comparison's are those with a measurement on its test set."""
    places = {id(run): place for place, row in enumerate(comparison.rows) for run in row.runs}
    made = []
    for family in families_of(rows):
        for column in comparison.headline:
            if distribution := _distribution(comparison, column, family, places):
                made.append(distribution)
    return sorted(made, key=lambda one: comparison.headline.index(one.column))


def without_distribution(rows: Sequence[Row], made: Sequence[Distribution]) -> list[Family]:
    """Families whose options a grid varies, or with ``FEWEST_SETTINGS`` or more, that have no distribution in any column."""
    have = {one.family.name for one in made}
    return [
        family
        for family in families_of(rows)
        if family.name not in have
        and (len(family.rows) >= FEWEST_SETTINGS or (len(family.rows) > 1 and variant_in_grid(family.rows[0])[1]))
    ]


def families_of(rows: Sequence[Row]) -> list[Family]:
    """Sort the trained rows into families, each with a name of its own."""
    varied = {_method_of(row) for row in rows if variant_in_grid(row)[1]}
    groups: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
        if row.facts["trains"]:
            # Where a grid varies nothing, its variants are the settings.
            variant = variant_in_grid(row)[0] if _method_of(row) in varied else ""
            config = row.runs[0].config
            key = (*_method_of(row), variant, as_text([config.get("pairing"), config.get("label_fraction")]))
            groups.setdefault(key, {}).setdefault(_labels_of(row), []).append(row)
    several = [len({key[place] for key in groups}) > 1 for place in (0, 1)]
    families = []
    for key, by_labels in groups.items():
        # What a loss reads of labels is recorded at the end: a failed run has only its options.
        unknown = by_labels.pop("", []) if len(by_labels) > 1 else []
        next(iter(by_labels.values())).extend(unknown)
        families += [_family(group, key[3], several) for group in by_labels.values()]
    names = [family.name for family in families]
    for family in families:
        if names.count(family.name) > 1:
            family.name += f", labels: {family.rows[0].settings['labels']}"
    return families


def _method_of(row: Row) -> tuple[str, str, str]:
    return row.data, row.backbone, row.method


def _labels_of(row: Row) -> str:
    """The use of labels of a row that has an ended run, else ""."""
    return row.settings["labels"] if any(run.end for run in row.runs) else ""


def _family(rows: list[Row], variant: str, several: Sequence[bool]) -> Family:
    runs = [run for row in rows for run in row.runs if run.failure or (run.finished and run.results)]
    measured = [run for run in runs if run.finished and run.results]
    collapsed = {
        run.path
        for run in measured
        if collapse_at_end(run.steps, _of_features(run), as_number(run.config.get("out_dim")))
    }
    parts = [rows[0].method_name, rows[0].backbone if several[1] else "", variant, rows[0].data if several[0] else ""]
    name = ", ".join(filter(None, parts))
    return Family(name, rows, runs, len(runs) - len(measured), collapsed)


def _of_features(run: Run) -> list[dict]:
    """Diagnostics of features; the effective rank of a step record is of projections."""
    return [record for record in run.diagnostics if record.get("kind") != "step"]


def _distribution(
    comparison: Comparison, column: int, family: Family, places: Mapping[int, int]
) -> Distribution | None:
    means, values, collapsed, begun_at, rows = [], [], [], [], []
    for row in family.rows:
        place = next((places[id(run)] for run in row.runs if id(run) in places), None)
        cell = comparison.cells.get((place, column))
        if cell is None:
            continue
        rows.append(row)
        means.append(cell.over_seeds.mean)
        values += [result.value for result in cell.results]
        collapsed += [result.run in family.collapsed for result in cell.results]
        untrained = comparison.cells.get((comparison.untrained_of(place), column))
        begun_at += [untrained.over_seeds.mean if untrained else np.nan] * len(cell.results)
    if len(means) < FEWEST_SETTINGS:
        return None
    means, values, collapsed, begun_at = map(np.array, (means, values, collapsed, begun_at))
    sign, known = comparison.columns[column].sign, ~np.isnan(begun_at)
    not_above = int(np.sum((sign * (values - begun_at) <= 0) & ~collapsed)) if known.any() else None
    median, std, iqr = estimates(means)
    scale = comparison.columns[column].scale
    if std.high is not None and scale and scale[1] is not None:  # half of the values at either end vary most
        std = replace(std, high=min(std.high, (scale[1] - scale[0]) / 2 * (len(means) / (len(means) - 1)) ** 0.5))
    best, worst = sorted((means.min(), means.max()), key=lambda value: -sign * value)
    return Distribution(
        family,
        column,
        rows,
        means,
        values,
        collapsed,
        list(dict.fromkeys(begun_at[known].tolist())),
        not_above,
        float(best),
        float(worst),
        median,
        std,
        iqr,
    )


def differences(made: Sequence[Distribution]) -> list[Difference]:
    """Compare the families of a column on one backbone and training data, where they share ``FEWEST_SETTINGS`` settings or more."""
    found = []
    for first, second in itertools.combinations(made, 2):
        a, b = first.rows[0], second.rows[0]
        if first.column != second.column or (a.data, a.backbone) != (b.data, b.backbone):
            continue
        keys = dict.fromkeys([*differing_options(first.rows), *differing_options(second.rows)])
        keys = [key for key in keys if key not in ("method", IMAGES)]
        settings = [_settings(one, keys) for one in (first, second)]
        shared = [setting for setting in settings[0] if setting in settings[1]]
        if len(shared) < FEWEST_SETTINGS or any(
            len(one) < len(d.rows) for one, d in zip(settings, (first, second), strict=True)
        ):
            continue
        means = [np.array([one[setting] for setting in shared]) for one in settings]
        found.append(Difference(first, second, len(shared), *estimates(*means)))
    return found


def _settings(distribution: Distribution, keys: Sequence[str]) -> dict[str, float]:
    """Each setting's mean, by its values of the varied options; a setting with an option that its method lacks is none."""
    settings = {}
    for row, mean in zip(distribution.rows, distribution.means, strict=True):
        options = trained_options(row.runs[0])
        if all(key in options for key in keys):
            settings[as_text([options[key] for key in keys])] = float(mean)
    return settings


def estimates(means: np.ndarray, others: np.ndarray | None = None) -> tuple[Estimate, Estimate, Estimate]:
    """Median, standard deviation (n - 1 in the denominator) and interquartile range of settings ``[n]``, or with ``others`` of the
    same settings the differences of these. 95% bootstrap intervals over settings: percentile ones, but for the standard deviation
    a bootstrap-t interval of its logarithm, since its percentile interval is too short (docs/statistics.md)."""
    n = len(means)
    drawn = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    results = []
    for statistic in (_median, _std, _iqr):
        value, samples = statistic(means[None])[0], statistic(means[drawn])
        if others is not None:
            value, samples = value - statistic(others[None])[0], samples - statistic(others[drawn])
        if others is None and statistic is not _median and n < FEWEST_FOR_SPREAD:
            low, high = None, None
        elif statistic is _std and others is None:
            low, high = _interval_of_std(means, means[drawn])
        else:
            low, high = map(float, percentile_interval(samples))
        results.append(Estimate(float(value), low, high))
    return tuple(results)


def _interval_of_std(means: np.ndarray, resamples: np.ndarray) -> tuple[float | None, float | None]:
    """Bootstrap-t interval of the logarithm of the standard deviation of ``means [n]`` from ``resamples [r, n]``, with the delta
    method's standard error (Efron & Tibshirani 1993, section 12.5). None for equal means."""
    if not (std := _std(means[None])[0]):
        return None, None
    stds = _std(resamples)
    kept = stds > 1e-9 * std
    t = (np.log(stds[kept]) - np.log(std)) / _error_of_log_std(resamples[kept])
    low, high = percentile_interval(t)
    error = _error_of_log_std(means[None])[0]
    return float(std * np.exp(-high * error)), float(std * np.exp(-low * error))


def _error_of_log_std(values: np.ndarray) -> np.ndarray:
    """Standard error of the logarithm of the standard deviation of each row ``[r, n]``, from its kurtosis."""
    squares = (values - values.mean(axis=1, keepdims=True)) ** 2
    kurtosis = (squares**2).mean(axis=1) / squares.mean(axis=1) ** 2
    return np.sqrt(np.maximum(kurtosis - 1, 1e-3) / (4 * values.shape[1]))


def _median(values: np.ndarray) -> np.ndarray:
    return np.median(values, axis=1)


def _std(values: np.ndarray) -> np.ndarray:
    return values.std(axis=1, ddof=1)


def _iqr(values: np.ndarray) -> np.ndarray:
    low, high = np.quantile(values, [0.25, 0.75], axis=1)
    return high - low
