"""Compare rows on each test set: cells, tests corrected over the table, and bold numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from common.statistics.intervals import Scale
from reports.analysis.columns import Cell, Column, columns_of, differing_conditions, headline_of
from reports.analysis.paired import Components, corrected
from reports.analysis.power import Needed, needed
from reports.analysis.rows import SETTINGS, Row, unequal_settings
from reports.analysis.statistics import over_seeds
from reports.analysis.tests import comparable, tests_of_column
from rundir.results import Measurement, test_data_of, test_source_of

#: A difference holds where its Holm-adjusted p-value is smaller.
ALPHA = 0.05
#: Differences of which the report says what would have shown them.
POINTS = (1, 2, 5)
#: With more tested pairs, only pairs with the best row of a column, or with the only row of a reference, are kept and listed.
LISTED_PAIRS = 2000


@dataclass
class Comparison:
    """All rows that were evaluated on one test set.

    Attributes:
        data, fingerprint: name of the test set, and the hash that it is known by.
        headline: positions of the tested columns, which the first table shows.
        cells: by (row, column) position; absent where not measured.
        unequal_settings: keys of ``SETTINGS`` in which trained rows differ, or any in their input.
        unequal_protocols: by column, the conditions in which rows that are compared differ.
        tests: a line per pair and column (see ``tests.ColumnTests.pairs``), with ``p_holm`` and ``holds``.
        untested: number of untested pairs by reason.
        tested: number of tested pairs, all corrected for.
        needed: by tested column in percent with a pair that does not hold, what would have shown ``POINTS``.
    """

    data: str
    fingerprint: str
    rows: list[Row]
    columns: list[Column]
    headline: list[int]
    cells: dict[tuple[int, int], Cell]
    unequal_settings: list[str]
    unequal_protocols: dict[int, list[str]] = field(default_factory=dict)
    tests: pd.DataFrame = field(default_factory=pd.DataFrame)
    untested: Counter[str] = field(default_factory=Counter)
    tested: int = 0
    needed: dict[int, list[Needed]] = field(default_factory=dict)

    @property
    def blocks(self) -> list[list[int]]:
        """Positions of the rows of each backbone and training data, within which methods are compared."""
        blocks: dict[tuple[str, str], list[int]] = {}
        for position, row in enumerate(self.rows):
            blocks.setdefault((row.data, row.backbone), []).append(position)
        return list(blocks.values())

    @property
    def ranked(self) -> list[list[int]]:
        """The rows of each block that are ranked together: those without labels and the untrained backbone, and those that used
        labels; supervised training is a reference for both."""
        groups = []
        for block in self.blocks:
            with_labels = [row for row in block if self.rows[row].used_labels]
            groups.append([row for row in block if row not in with_labels])
            groups.append([row for row in with_labels if not self.rows[row].facts["reference"]])
        return [group for group in groups if group]

    def unequal_conditions(self, column: int, a: int, b: int) -> list[str]:
        """The conditions of the protocol in which two rows differ. What follows from the backbone (its features, its output stride)
        is none where the backbones differ."""
        names = differing_conditions([self.cells[row, column].results[0] for row in (a, b)])
        if self.rows[a].backbone == self.rows[b].backbone:
            return names
        return [name for name in names if name not in self.columns[column].facts["of_backbone"]]

    def column(self, column: int) -> dict[int, Cell]:
        """The cells of a column by row."""
        return {row: self.cells[row, column] for row in range(len(self.rows)) if (row, column) in self.cells}

    def test_of(self, column: int, a: int, b: int) -> Any:
        """The line of ``tests`` for two rows, or None."""
        if not len(self.tests):
            return None
        pair = self.tests["a"].isin([a, b]) & self.tests["b"].isin([a, b])
        return next(self.tests[(self.tests["column"] == column) & pair].itertuples(), None)

    def untrained_of(self, row: int) -> int | None:
        """The untrained backbone of a row's block that has images of its size."""

        def wanted(place: int) -> tuple[Any, ...]:
            one = self.rows[place]
            return one.data, one.backbone, one.runs[0].config.get("image_size")

        untrained = (p for p, one in enumerate(self.rows) if one.facts["needs_backbone"] and not one.facts["trains"])
        return next((place for place in untrained if wanted(place) == wanted(row)), None)

    def best(self, column: int, rows: Iterable[int]) -> int | None:
        """The row with the best mean in a column."""
        means = {row: self.cells[row, column].over_seeds.mean for row in rows if (row, column) in self.cells}
        return max(means, key=lambda row: self.columns[column].sign * means[row]) if means else None


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """Compare rows on each test set, the one with most rows first."""
    sources = _sources(rows)
    sets: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for test_set in {_test_set(result, sources): None for run in row.runs for result in run.results}:
            sets.setdefault(test_set, []).append(row)
    return [
        _compare_on(
            test_set,
            measured,
            [[[m for m in run.results if _test_set(m, sources) == test_set] for run in row.runs] for row in measured],
        )
        for test_set, measured in sorted(sets.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _sources(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """The source of the test data by their name and fingerprint, as far as measurements tell."""
    results = (result for row in rows for run in row.runs for result in run.results)
    return {test_data_of(result): source for result in results if (source := test_source_of(result))}


def _test_set(result: Measurement, sources: Mapping[tuple[str, str], str]) -> tuple[str, str]:
    """The name of a measurement's test data, and what they are known by: their source, at whatever size they were read. Where older
    measurements have none, the source of others with the same pixels, else the fingerprint of those."""
    name, fingerprint = test_data_of(result)
    return name, test_source_of(result) or sources.get((name, fingerprint), fingerprint)


def _compare_on(test_set: tuple[str, str], rows: list[Row], measured: list[list[list[Measurement]]]) -> Comparison:
    columns = columns_of(measured)
    comparison = Comparison(
        data=test_set[0],
        fingerprint=test_set[1],
        rows=rows,
        columns=list(columns),
        headline=headline_of(list(columns)),
        cells={
            (row, column): Cell(results, over_seeds([result.value for result in results], kind.scale))
            for column, (kind, by_row) in enumerate(columns.items())
            for row, results in by_row.items()
        },
        unequal_settings=[name for name in SETTINGS if _differs(name, rows)],
    )
    for column in range(len(comparison.columns)):
        rows_measured = list(comparison.column(column))
        pairs = [
            (rows_measured[i], rows_measured[j])
            for i, j in zip(*comparable([rows[r] for r in rows_measured]), strict=True)
        ]
        names = dict.fromkeys(name for a, b in _spanning(pairs) for name in comparison.unequal_conditions(column, a, b))
        if names:
            comparison.unequal_protocols[column] = list(names)
    _test(comparison)
    return comparison


def _differs(setting: str, rows: Sequence[Row]) -> bool:
    """Whether rows differ in a setting: trained ones, and in the input also untrained backbones."""
    rows = [row for row in rows if row.trained or (setting == "input" and row.facts["needs_backbone"])]
    return len({row.settings[setting] for row in rows}) > 1


def _spanning(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs that link all rows that ``pairs`` link: equality along them is equality of all, at the cost of one pair a row."""
    linked: dict[int, int] = {}

    def first_of(row: int) -> int:
        while linked.setdefault(row, row) != row:
            row = linked[row]
        return row

    kept = []
    for a, b in pairs:
        if (x := first_of(a)) != (y := first_of(b)):
            linked[max(x, y)] = min(x, y)
            kept.append((a, b))
    return kept


def _test(table: Comparison) -> None:
    """Test pairs in the headline columns, correct over the whole table, and set ``bold``."""
    frames, parts = [], {}
    for column, kind in enumerate(table.columns):
        tests = tests_of_column(
            table.rows, table.column(column), paired=column in table.headline, grouped_by=kind.facts["grouped_by"]
        )
        if column in table.headline:
            parts[column] = tests.parts
            frames += [_on_scale(pairs.assign(column=column), kind.scale) for pairs in tests.pairs]
            table.untested += Counter({f"{kind.name}: {reason}": n for reason, n in tests.untested.items()})
    if not frames:
        return
    tests = pd.concat(frames, ignore_index=True)
    # A lone pair's p may be the larger one: it does not share the other rows' seeds.
    together = corrected(tests["p_rows"].to_numpy(), tests["p_own"].to_numpy(), tests["column"].nunique())
    tests["p_holm"] = np.maximum(together, tests["p"])
    tests["holds"] = tests["p_holm"] < ALPHA
    table.tested = len(tests)
    for column, groups in parts.items():
        if table.columns[column].facts["unit"] == "%":
            _set_needed(table, column, groups, tests)
    best = {
        (column, table.best(column, block)) for column in table.headline for block in table.ranked if len(block) > 1
    }
    for column, row in best:
        if row is not None:
            _embolden(table, column, row, tests)
    if len(tests) > LISTED_PAIRS:
        references = [place for place, row in enumerate(table.rows) if row.facts["reference"] and not row.variant]
        kept = best.union(itertools.product(table.headline, references))
        pairs = tests[["column", "a", "b"]].itertuples(index=False)
        listed = [(column, a) in kept or (column, b) in kept for column, a, b in pairs]
        tests = tests[listed].reset_index(drop=True)
    table.tests = tests


def _set_needed(
    table: Comparison, column: int, groups: Sequence[tuple[np.ndarray, Components]], tests: pd.DataFrame
) -> None:
    """Say what would have shown a difference, for the largest group of rows measured on the same images."""
    positions, parts = max(groups, key=lambda group: len(group[0]), default=(np.zeros(0, int), None))
    open_pairs = tests[(tests["column"] == column) & ~tests["holds"]]
    open_pairs = open_pairs[open_pairs["a"].isin(positions) & open_pairs["b"].isin(positions)]
    if len(open_pairs):
        place = {position: number for number, position in enumerate(positions)}
        first, second = (open_pairs[name].map(place).to_numpy() for name in ("a", "b"))
        about = len(tests), tests["column"].nunique(), ALPHA
        table.needed[column] = [needed(parts, first, second, points, *about) for points in POINTS]


def _on_scale(pairs: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Cut intervals of differences off where no difference can lie, which keeps their agreement with p."""
    if not scale or scale[1] is None:
        return pairs
    most = scale[1] - scale[0]
    return pairs.assign(low=pairs["low"].clip(lower=-most), high=pairs["high"].clip(upper=most))


def _embolden(table: Comparison, column: int, best: int, tests: pd.DataFrame) -> None:
    """Make the best cell bold where its difference to every other row that it is ranked with holds."""
    block = next(block for block in table.ranked if best in block)
    others = [row for row in block if row != best and (row, column) in table.cells]
    here = tests[(tests["column"] == column) & tests["holds"]]
    beaten = {*here.loc[here["a"] == best, "b"], *here.loc[here["b"] == best, "a"]}
    if others and beaten.issuperset(others):
        cell = table.cells[best, column]
        cell.bold = True
        unequal = any(unequal_settings(table.rows[best], table.rows[row]) for row in others)
        cell.unequal = unequal or any(table.unequal_conditions(column, best, row) for row in others)
