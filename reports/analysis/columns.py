"""Sort measurements into the columns of a comparison."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.statistics.intervals import Scale
from reports.analysis.facts import column_facts
from reports.analysis.rows import plain
from reports.analysis.statistics import Summary
from rundir.results import Measurement, is_outcome

#: The entry of a protocol with the input's size. Where a run was measured at several, the first table shows each.
SIZE = "image_size"
#: What images are known by in a measurement's data.
HASHES = ("fingerprint", "source")


@dataclass(frozen=True)
class Column:
    """An evaluation's metric in one variant of its protocol ("k 20"). ``facts`` comes from ``eval.core.base.facts_of``; ``variant``
    begins with what sets the quantity apart ("backbone fine-tuned")."""

    evaluation: str
    metric: str
    variant: tuple[tuple[str, str], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def evaluation_name(self) -> str:
        return self.facts["evaluation"]

    @property
    def metric_name(self) -> str:
        variant = ", ".join(f"{key} {value}" for key, value in self.variant)
        return f"{self.facts['metric']} ({variant})" if variant else self.facts["metric"]

    @property
    def name(self) -> str:
        return f"{self.evaluation_name} {self.metric_name}"

    @property
    def quantity(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """The evaluation, and what sets it apart from others of its name."""
        return self.evaluation, tuple(entry for entry in self.variant if entry[0] in self.facts["apart"])

    @property
    def scale(self) -> Scale:
        return self.facts["scale"]

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return -1 if self.facts["lower_is_better"] else 1


@dataclass
class Cell:
    """A row's measurements in a column.

    Attributes:
        results: one per seed, in the order of the row's runs.
        images: 95% bootstrap interval of the mean over seeds, over test images.
        bold: significantly better than every other row of its backbone.
        unequal: bold, but a row it was compared with differs in a setting.
    """

    results: list[Measurement]
    over_seeds: Summary
    images: tuple[float, float] | None = None
    bold: bool = False
    unequal: bool = False


def columns_of(measured: Sequence[Sequence[Sequence[Measurement]]]) -> dict[Column, dict[int, list[Measurement]]]:
    """Sort measurements (by row and run) into columns: for each column, in table order, the measurements by row."""
    split = _splitting_conditions(itertools.chain.from_iterable(measured))
    columns: dict[Column, dict[int, list[Measurement]]] = {}
    for row, runs in enumerate(measured):
        for result in itertools.chain.from_iterable(runs):
            columns.setdefault(_column(result, split), {}).setdefault(row, []).append(result)
    return {column: columns[column] for column in _ordered(columns)}


def headline_of(columns: Sequence[Column]) -> list[int]:
    """Positions of the first table's columns: of each quantity the headline metrics, in the variant that the evaluation declares
    (k = 20, DINO's, for k-NN), never the variant with the best result, and in every one where it declares none (parts of the
    labels, the input's size). Without a headline metric, the first one."""
    by_quantity: dict[Any, list[int]] = {}
    for position, column in enumerate(columns):
        by_quantity.setdefault(column.quantity, []).append(position)
    chosen: dict[Any, int] = {}
    for positions in by_quantity.values():
        first = columns[positions[0]].metric
        headlines = [p for p in positions if columns[p].facts["headline"]]
        for position in headlines or [p for p in positions if columns[p].metric == first]:
            column = columns[position]
            variants = {SIZE: None, **column.facts["variants"]}
            each = tuple(entry for entry in column.variant if entry[0] in variants and variants[entry[0]] is None)
            key = column.quantity, column.metric, each
            if key not in chosen or _in_headline_variant(column):
                chosen[key] = position
    return sorted(chosen.values())


def _in_headline_variant(column: Column) -> bool:
    variants = column.facts["variants"]
    of_column = [(key, value) for key, value in column.variant if variants.get(key) is not None]
    return bool(of_column) and all(value == plain(variants[key]) for key, value in of_column)


def conditions_of(result: Measurement) -> dict[str, str]:
    """Flatten a measurement's protocol and training data to text by name."""
    flat: dict[str, str] = {}

    def add(prefix: str, mapping: dict[str, Any]) -> None:
        for key, value in mapping.items():
            if isinstance(value, dict):
                add(f"{prefix}{key} ", value)
            elif not is_outcome(key):
                # Which seed drew the labelled images is the run's seed, no condition of its own.
                words = re.sub(r"drawn by seed \d+", "drawn by seed", plain(value))
                flat[f"{prefix}{key}"] = words[:12] if key in HASHES else words

    add("", result.protocol)
    add("data ", {key: value for key, value in result.data.items() if not key.startswith("test") and key != "name"})
    return flat


def differing_conditions(results: Iterable[Measurement]) -> list[str]:
    """Name the conditions in which measurements differ."""
    conditions = [conditions_of(result) for result in results]
    names = dict.fromkeys(itertools.chain.from_iterable(conditions))
    # Images are known by their files; fingerprints are of their pixels, which differ where only the input's size does.
    fingerprint, source = (f"data train {name}" for name in HASHES)
    names.pop(fingerprint if all(source in one for one in conditions) else source, None)
    return [name for name in names if len({one.get(name) for one in conditions}) > 1]


def _apart(result: Measurement) -> tuple[tuple[str, str], ...]:
    """What sets a measurement apart from others of its evaluation."""
    usual = column_facts(result)["apart"]
    values = {key: plain(result.protocol[key]) for key in usual if key in result.protocol}
    return tuple((key, value) for key, value in values.items() if value != plain(usual[key]))


def _splitting_conditions(runs: Iterable[Sequence[Measurement]]) -> dict[tuple, list[str]]:
    """For each evaluation, metric and what sets it apart, name the conditions that vary within one run (k of k-NN), which are no
    seeds."""
    split: dict[tuple, dict[str, None]] = {}
    for results in runs:
        kinds: dict[tuple, list[Measurement]] = {}
        for result in results:
            kinds.setdefault((result.evaluation, result.metric, _apart(result)), []).append(result)
        for kind, several in kinds.items():
            if len(several) > 1:
                split.setdefault(kind, {}).update(dict.fromkeys(differing_conditions(several)))
    return {kind: list(names) for kind, names in split.items()}


def _column(result: Measurement, split: dict[tuple, list[str]]) -> Column:
    apart = _apart(result)
    names = split.get((result.evaluation, result.metric, apart), [])
    conditions = conditions_of(result) if names else {}
    variant = tuple((name, conditions[name]) for name in names if name in conditions)
    return Column(result.evaluation, result.metric, apart + variant, column_facts(result))


def _ordered(columns: Iterable[Column]) -> list[Column]:
    """Sort by evaluation, then by the metrics' order in the runs, then by the variant's value."""
    columns = list(columns)
    metrics = list(dict.fromkeys((column.evaluation, column.metric) for column in columns))

    def value(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), "")
        except ValueError:
            return (1, 0.0, text)

    def place(column: Column) -> tuple[Any, ...]:
        variant = [(key, value(text)) for key, text in column.variant]
        return column.quantity, metrics.index((column.evaluation, column.metric)), variant

    return sorted(columns, key=place)
