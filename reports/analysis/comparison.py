"""Rows against each other on one test set: cells, paired tests, and what is in bold."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from common.statistics.bootstrap import RESAMPLES, resample_counts
from reports.analysis.outcomes import NoOutcomes, Outcomes, outcomes_of
from reports.analysis.rows import REFERENCES, SETTINGS, Row, plain
from reports.analysis.statistics import (
    Summary,
    bootstrap_means,
    difference_test,
    holm,
    mcnemar,
    over_seeds,
    percentile_interval,
)
from rundir.read import Problem
from rundir.results import Measurement, is_outcome, test_data_of

#: A difference holds if its Holm-adjusted p-value is below this.
ALPHA = 0.05
#: Pairs of rows listed one by one; beyond, those with the best row of each column are (all are tested and corrected for).
LISTED_PAIRS = 2000

EVALUATION_NAMES = {
    "knn": "k-NN",
    "linear_authors": "Linear (authors’)",
    "attention_jaccard": "Attention",
    "knn_low_shot": "k-NN, few labels",
    "svm": "SVM",
    "finetune": "Fine-tuning",
    "davis": "DAVIS",
    "revisited": "Revisited Oxford/Paris",
    "copydays": "Copydays",
    "segmentation_linear_pixels": "Segmentation linear, pixels",
    "segmentation_setr_naive": "Segmentation SETR-naive",
    "segmentation_setr_pup": "Segmentation SETR-PUP",
    "segmentation_setr_mla": "Segmentation SETR-MLA",
    "segmentation_deeplabv3": "Segmentation DeepLabV3",
}
METRIC_NAMES = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "map": "mAP",
    "jaccard": "Jaccard",
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "f1": "F1",
    "map_interpolated": "mAP (VOC)",
    "map_11_point": "mAP (VOC 2007)",
    "map_medium": "mAP medium",
    "map_hard": "mAP hard",
    "map_strong": "mAP strong",
    "jf_mean": "J&F",
    "j_mean": "J",
    "j_recall": "J recall",
    "j_decay": "J decay",
    "f_mean": "F",
    "f_recall": "F recall",
    "f_decay": "F decay",
    "seconds_per_frame": "s/frame",
}
#: Metrics of which less is better.
LOWER_IS_BETTER = ("loss", "error", "fid", "decay", "seconds")


@dataclass(frozen=True)
class Column:
    """One kind of measurement: an evaluation's metric, and which of several variants of its protocol ("k 20")."""

    evaluation: str
    metric: str
    variant: tuple[tuple[str, str], ...] = ()

    @property
    def evaluation_name(self) -> str:
        words = self.evaluation.replace("_", " ")
        return EVALUATION_NAMES.get(self.evaluation, words[:1].upper() + words[1:])

    @property
    def metric_name(self) -> str:
        metric = METRIC_NAMES.get(self.metric, self.metric.replace("_", " "))
        variant = ", ".join(f"{key} {value}" for key, value in self.variant)
        return f"{metric} ({variant})" if variant else metric

    @property
    def name(self) -> str:
        return f"{self.evaluation_name} {self.metric_name}"

    @property
    def sign(self) -> int:
        return -1 if any(word in self.metric for word in LOWER_IS_BETTER) else 1


@dataclass
class Cell:
    """A row's measurements in a column.

    Attributes:
        results: one a seed, in the order of the row's runs that have it.
        over_seeds: their mean, spread and t interval.
        images: 95% bootstrap interval over the test images, of the mean over seeds; None where there is none.
        bold: the best of its backbone's rows in its column, and the difference to each of them holds.
        unequal: bold, but some row it was compared with differs in a setting.
    """

    results: list[Measurement]
    over_seeds: Summary
    images: tuple[float, float] | None = None
    bold: bool = False
    unequal: bool = False


@dataclass
class Comparison:
    """All rows that were evaluated on one test set.

    Attributes:
        data, fingerprint: of the test set.
        rows, columns: of the table; columns in the order of evaluations' names.
        headline: positions of the columns that stand in the first table and are tested, one an evaluation.
        cells: by (row, column) position; absent where it was not measured.
        tests: one line a tested pair and column; see ``_Tests``.
        untested: why pairs could not be tested, with how many.
        unequal_settings: keys of ``SETTINGS`` in which the trained rows differ.
        unequal_protocols: for each column, the conditions in which its rows differ.
        tested: number of pairs that were tested and corrected for.
    """

    data: str
    fingerprint: str
    rows: list[Row]
    columns: list[Column]
    headline: list[int]
    cells: dict[tuple[int, int], Cell]
    tests: pd.DataFrame
    untested: dict[str, int]
    unequal_settings: list[str]
    unequal_protocols: dict[int, list[str]] = field(default_factory=dict)
    tested: int = 0

    @property
    def one_seed(self) -> bool:
        """True where some row stands on a single training."""
        return any(cell.over_seeds.n == 1 for cell in self.cells.values())

    @property
    def blocks(self) -> list[list[int]]:
        """Positions of the rows of each backbone and training data: what a method is compared within."""
        blocks: dict[tuple[str, str], list[int]] = {}
        for position, row in enumerate(self.rows):
            blocks.setdefault((row.data, row.backbone), []).append(position)
        return list(blocks.values())

    def best(self, column: int, rows: Iterable[int]) -> int | None:
        """Of these rows, the one with the best mean in a column."""
        found = {row: self.cells[row, column].over_seeds.mean for row in rows if (row, column) in self.cells}
        return max(found, key=lambda row: self.columns[column].sign * found[row]) if found else None


def compare(rows: Sequence[Row]) -> tuple[list[Comparison], list[Problem]]:
    """Compare rows, test set by test set (the one with most rows first)."""
    sets: dict[tuple[str, str], list[int]] = {}
    for position, row in enumerate(rows):
        for key in {test_data_of(result): None for run in row.runs for result in run.results}:
            sets.setdefault(key, []).append(position)
    problems: list[Problem] = []
    comparisons = [
        _compare_on(key, [rows[position] for position in positions], problems)
        for key, positions in sorted(sets.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    return comparisons, problems


def conditions_of(result: Measurement) -> dict[str, str]:
    """Under what a measurement was made, flat and as text: its protocol and its training data."""
    flat: dict[str, str] = {}

    def add(prefix: str, mapping: dict[str, Any]) -> None:
        for key, value in mapping.items():
            if isinstance(value, dict):
                add(f"{prefix}{key} ", value)
            elif not is_outcome(key):
                flat[f"{prefix}{key}"] = plain(value)[:12] if key == "fingerprint" else plain(value)

    add("", result.protocol)
    add("data ", {key: value for key, value in result.data.items() if not key.startswith("test") and key != "name"})
    return flat


def _compare_on(key: tuple[str, str], rows: list[Row], problems: list[Problem]) -> Comparison:
    found: list[list[list[Measurement]]] = [
        [[result for result in run.results if test_data_of(result) == key] for run in row.runs] for row in rows
    ]
    split = _splitting_conditions(itertools.chain.from_iterable(found))
    placed: dict[tuple[int, Column], list[Measurement]] = {}
    for position, runs in enumerate(found):
        for results in runs:
            for result in results:
                placed.setdefault((position, _column(result, split)), []).append(result)
    columns = _ordered({column: None for _, column in placed})
    number = {column: position for position, column in enumerate(columns)}
    cells = {
        (row, number[column]): Cell(results, over_seeds([result.value for result in results]))
        for (row, column), results in placed.items()
    }
    trained = [row for row in rows if row.trained]
    comparison = Comparison(
        data=key[0],
        fingerprint=key[1],
        rows=rows,
        columns=columns,
        headline=_headline(columns),
        cells=cells,
        tests=pd.DataFrame(),
        untested={},
        unequal_settings=[name for name in SETTINGS if len({row.settings[name] for row in trained}) > 1],
    )
    for position in range(len(columns)):
        here = [conditions_of(cells[row, position].results[0]) for row in range(len(rows)) if (row, position) in cells]
        names = dict.fromkeys(itertools.chain.from_iterable(here))
        differing = [name for name in names if len({conditions.get(name) for conditions in here}) > 1]
        if differing:
            comparison.unequal_protocols[position] = differing
    _Tests(comparison, problems).run()
    return comparison


def _splitting_conditions(runs: Iterable[Sequence[Measurement]]) -> dict[tuple[str, str], list[str]]:
    """For each evaluation and metric, the conditions under which one run was measured several times (k of k-NN)."""
    split: dict[tuple[str, str], dict[str, None]] = {}
    for results in runs:
        kinds: dict[tuple[str, str], list[dict[str, str]]] = {}
        for result in results:
            kinds.setdefault((result.evaluation, result.metric), []).append(conditions_of(result))
        for kind, several in kinds.items():
            if len(several) > 1:
                names = dict.fromkeys(itertools.chain.from_iterable(several))
                differing = [name for name in names if len({conditions.get(name) for conditions in several}) > 1]
                split.setdefault(kind, {}).update(dict.fromkeys(differing))
    return {kind: list(names) for kind, names in split.items()}


def _column(result: Measurement, split: dict[tuple[str, str], list[str]]) -> Column:
    names = split.get((result.evaluation, result.metric), [])
    conditions = conditions_of(result) if names else {}
    return Column(
        result.evaluation, result.metric, tuple((name, conditions[name]) for name in names if name in conditions)
    )


def _ordered(columns: Iterable[Column]) -> list[Column]:
    """By evaluation; within, as the runs list metrics, variants by value."""
    columns = list(columns)
    metrics = {key: i for i, key in enumerate(dict.fromkeys((c.evaluation, c.metric) for c in columns))}

    def value(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), "")
        except ValueError:
            return (1, 0.0, text)

    return sorted(
        columns,
        key=lambda c: (c.evaluation, metrics[c.evaluation, c.metric], [(k, value(v)) for k, v in c.variant]),
    )


def _headline(columns: Sequence[Column]) -> list[int]:
    """The first metric of each evaluation; of several k, 20 (DINO's; never the one that came out best)."""
    chosen: dict[str, int] = {}
    for position, column in enumerate(columns):
        first = chosen.setdefault(column.evaluation, position)
        if column.metric == columns[first].metric and ("k", "20") in column.variant:
            chosen[column.evaluation] = position
    return sorted(chosen.values())


class _Tests:
    """Tests pairs of rows in the headline columns, corrects over the whole table, and sets what is bold.

    A pair is two methods (or variants) on one backbone, one method on two backbones, or a row and raw pixels; where method and
    backbone differ, a difference could not be put down to either.

    Two single trainings with outcomes of right and wrong: McNemar's exact test. Otherwise the difference of means over seeds is
    referred to its paired bootstrap variance over images and, where both rows have several seeds, to their variances over
    seeds as well (``statistics.difference_test``). A row with one seed says nothing about other seeds, so a pair with
    such a row is tested over images only, and the claim is about these trained networks.
    """

    def __init__(self, comparison: Comparison, problems: list[Problem]):
        self.comparison = comparison
        self.problems = problems

    def run(self) -> None:
        table = self.comparison
        frames = []
        for column in range(len(table.columns)):
            frames.extend(self._column(column))
        if not frames:
            return
        tests = pd.concat(frames, ignore_index=True)
        tests["p_holm"] = holm(tests["p"].to_numpy())
        tests["holds"] = tests["p_holm"] < ALPHA
        table.tested = len(tests)
        best = {
            (column, table.best(column, block)) for column in table.headline for block in table.blocks if len(block) > 1
        }
        for column, row in best:
            if row is not None:
                self._embolden(column, row, tests)
        if len(tests) > LISTED_PAIRS:
            pairs = tests[["column", "a", "b"]].itertuples(index=False)
            listed = [(column, a) in best or (column, b) in best for column, a, b in pairs]
            tests = tests[listed].reset_index(drop=True)
        table.tests = tests

    def _column(self, column: int) -> Iterable[pd.DataFrame]:
        """Test the pairs of one column; fill in the cells' intervals over images."""
        table = self.comparison
        kept: list[int] = []
        outcomes: dict[int, _RowOutcomes] = {}
        rows = [row for row in range(len(table.rows)) if (row, column) in table.cells]
        reasons: list[str] = []
        for row in rows:
            cell = table.cells[row, column]
            single = cell.results[0]
            if len(cell.results) == 1 and single.low is not None and single.high is not None:
                cell.images = (single.low, single.high)
            try:
                outcomes[row] = _RowOutcomes.read(cell.results)
                kept.append(row)
            except NoOutcomes as error:
                reasons.append(f"{table.columns[column].name}: {table.rows[row].label}: {error}")
        for reason in reasons if column in table.headline else []:
            self._untested(f"{reason} (not comparable with the other rows)", len(rows) - 1)
        by_names: dict[tuple[str, int], list[int]] = {}
        for row in kept:
            by_names.setdefault((outcomes[row].names, outcomes[row].n), []).append(row)
        groups = list(by_names.values())
        across = sum(len(a) * len(b) for a, b in itertools.combinations(groups, 2))
        if across and column in table.headline:
            self._untested(
                f"{table.columns[column].name}: not comparable, for the rows were evaluated on different images", across
            )
        for group in groups:
            yield from self._group(column, group, [outcomes[row] for row in group])

    def _untested(self, reason: str, pairs: int) -> None:
        if pairs:
            self.comparison.untested[reason] = self.comparison.untested.get(reason, 0) + pairs

    def _group(self, column: int, rows: list[int], outcomes: list[_RowOutcomes]) -> Iterable[pd.DataFrame]:
        table = self.comparison
        images = outcomes[0].n
        resampled, covariance = _resampled(outcomes)
        low, high = percentile_interval(resampled)
        for position, row in enumerate(rows):
            cell = table.cells[row, column]
            if cell.images is None:
                cell.images = (float(low[position]), float(high[position]))
        if column not in table.headline:
            return
        first, second = np.triu_indices(len(rows), 1)
        of = [table.rows[row] for row in rows]
        block = _numbers([(row.data, row.backbone) for row in of])
        kind = _numbers([(row.data, row.method, row.variant) for row in of])
        reference = np.array([row.method in REFERENCES for row in of])
        comparable = (
            (block[first] == block[second]) | (kind[first] == kind[second]) | (reference[first] ^ reference[second])
        )
        first, second = first[comparable], second[comparable]
        if not len(first):
            return
        summaries = [table.cells[row, column].over_seeds for row in rows]
        mean = np.array([summary.mean for summary in summaries])
        seeds = np.array([summary.n for summary in summaries])
        spread = np.array([summary.std or 0.0 for summary in summaries]) ** 2
        difference = mean[first] - mean[second]
        variance = np.diag(covariance)
        image_variance = np.maximum(variance[first] + variance[second] - 2 * covariance[first, second], 0)

        p, half = difference_test(difference, image_variance, images)
        test = np.full(len(first), "paired, over images", dtype=object)
        both = (seeds[first] > 1) & (seeds[second] > 1)
        if both.any():
            a, b = first[both], second[both]
            p[both], half[both] = difference_test(
                difference[both], image_variance[both], images, [(spread[a], seeds[a]), (spread[b], seeds[b])]
            )
            test[both] = "paired, over seeds and images"
        binary = np.array([outcome.binary for outcome in outcomes])
        exact = binary[first] & binary[second]
        if exact.any():
            right = np.stack([outcome.values if outcome.binary else np.zeros(images) for outcome in outcomes]) > 0
            right = right.astype(np.float32)
            only = right @ (1 - right).T
            a, b = first[exact], second[exact]
            p[exact] = mcnemar(only[a, b].astype(np.int64), only[b, a].astype(np.int64))
            test[exact] = "McNemar, exact"
        rows_array = np.array(rows)
        yield pd.DataFrame(
            {
                "column": column,
                "a": rows_array[first],
                "b": rows_array[second],
                "difference": difference,
                "low": difference - half,
                "high": difference + half,
                "p": p,
                "test": test,
            }
        )

    def _embolden(self, column: int, best: int, tests: pd.DataFrame) -> None:
        """Bold: the best row of a block, where its difference to every other row of the block was tested and holds."""
        table = self.comparison
        block = next(block for block in table.blocks if best in block)
        others = [row for row in block if row != best and (row, column) in table.cells]
        here = tests[(tests["column"] == column) & tests["holds"]]
        beaten = {*here.loc[here["a"] == best, "b"], *here.loc[here["b"] == best, "a"]}
        if others and beaten.issuperset(others):
            cell = table.cells[best, column]
            cell.bold = True
            unequal = any(unequal_settings(table.rows[best], table.rows[row]) for row in others)
            cell.unequal = unequal or column in table.unequal_protocols


def _numbers(keys: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Equal numbers for equal keys."""
    return pd.factorize(pd.MultiIndex.from_tuples(keys))[0]


def unequal_settings(a: Row, b: Row) -> list[str]:
    """Settings in which two rows differ. An untrained backbone is a reference: its lack of budget, data and labels is what
    it is there for."""
    names = SETTINGS if a.trained and b.trained else ("patch", "input")
    return [name for name in names if a.settings[name] != b.settings[name]]


@dataclass(frozen=True)
class _RowOutcomes:
    """A row's outcomes, averaged over its seeds where the metric is a mean over images."""

    names: str
    n: int
    values: np.ndarray | None
    binary: bool
    others: list[Outcomes]

    @classmethod
    def read(cls, results: Sequence[Measurement]) -> _RowOutcomes:
        several = []
        for result in results:
            several.append(outcomes_of(result))
            if (several[-1].names, several[-1].n) != (several[0].names, several[0].n):
                raise NoOutcomes("its seeds were evaluated on different images")
        first = several[0]
        if all(outcomes.values is not None for outcomes in several):
            values = np.mean([outcomes.values for outcomes in several], axis=0, dtype=np.float32)
            return cls(first.names, first.n, values, first.binary and len(several) == 1, [])
        return cls(first.names, first.n, None, False, several)


def _resampled(outcomes: Sequence[_RowOutcomes]) -> tuple[np.ndarray, np.ndarray]:
    """The rows' measurements on the same bootstrap resamples ``[resamples, rows]``, and their covariance over samples of
    images ``[rows, rows]`` (for means the exact one, which the bootstrap's would approach)."""
    n = outcomes[0].n
    if all(outcome.values is not None for outcome in outcomes):
        values = np.stack([outcome.values for outcome in outcomes], axis=1)
        covariance = np.cov(values, rowvar=False, dtype=np.float64).reshape(len(outcomes), -1) / n if n > 1 else None
        resampled = bootstrap_means(values)
        return resampled, np.zeros((len(outcomes), len(outcomes))) if covariance is None else covariance
    resampled = np.stack(
        [
            np.mean(
                [
                    one.resampled(resample_counts(n, RESAMPLES, seed=0))
                    for one in (outcome.others or [Outcomes(outcome.names, n, "", values=outcome.values)])
                ],
                axis=0,
            )
            for outcome in outcomes
        ],
        axis=1,
    )
    return resampled, np.cov(resampled, rowvar=False).reshape(len(outcomes), -1)
