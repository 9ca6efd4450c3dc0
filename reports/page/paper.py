"""Tables for papers: results in a compact form with published numbers, effects of training, and the values of every seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import unknown_name
from reports.analysis.columns import Cell, Column, headline_of
from reports.analysis.comparison import ALPHA, Comparison
from reports.analysis.published import PublishedTable
from reports.analysis.reproduction import fits
from reports.analysis.rows import Row
from reports.analysis.tables import Entry, Heading, Table, fixed, in_file, number, text
from reports.page.comparison_tables import (
    RANKED_APART,
    column_decimals,
    left_out_words,
    mean_entry,
    row_names,
    seeds_words,
    shown_difference,
    shown_interval,
)


@dataclass(frozen=True)
class Choice:
    """What ``--columns`` and ``--rows`` name, in the order of the tables; empty: the tested columns, and all rows.

    A column is named by its evaluation ("knn"), with its metric ("knn:top5") or by its heading; a row by its method, backbone,
    variant or label.
    """

    columns: Sequence[str] = ()
    rows: Sequence[str] = ()

    def check(self, comparisons: Sequence[Comparison]) -> None:
        """Raise UsageError, naming the nearest, for a word that names nothing in any comparison."""
        for kind, words, names_of in (
            ("column", self.columns, lambda c: [name for column in c.columns for name in _names_of_column(column)]),
            ("row", self.rows, lambda c: [name for row in c.rows for name in _names_of_row(row)]),
        ):
            names = dict.fromkeys(name for comparison in comparisons for name in names_of(comparison))
            for word in words:
                if word not in names:
                    raise unknown_name(f"{kind} of the report", word, names)

    def columns_of(self, comparison: Comparison) -> list[int]:
        """Positions of the columns, those of the evaluation's headline where a name fits several."""
        if not self.columns:
            return comparison.headline
        chosen = []
        for word in self.columns:
            fitting = [i for i, column in enumerate(comparison.columns) if word in _names_of_column(column)]
            best = headline_of([comparison.columns[i] for i in fitting])
            chosen += [fitting[place] for place in best]
        return list(dict.fromkeys(chosen))

    def rows_of(self, comparison: Comparison) -> list[int]:
        """Positions of the rows."""
        if not self.rows:
            return list(range(len(comparison.rows)))
        fitting = [i for word in self.rows for i, row in enumerate(comparison.rows) if word in _names_of_row(row)]
        return list(dict.fromkeys(fitting))


def _names_of_column(column: Column) -> list[str]:
    return [column.evaluation, f"{column.evaluation}:{column.metric}", column.name]


def _names_of_row(row: Row) -> list[str]:
    return list(filter(None, (row.method, row.method_name, row.backbone, row.variant, row.label)))


def results(comparison: Comparison, name: str, choice: Choice, published: Sequence[PublishedTable]) -> Table | None:
    """Make the table of a paper: mean ± standard deviation, references apart, second best marked, and published numbers below the
    rows that reproduce them. None if nothing chosen was measured here."""
    columns, chosen = choice.columns_of(comparison), choice.rows_of(comparison)
    chosen = [row for row in chosen if any((row, column) in comparison.cells for column in columns)]
    if not columns or not chosen:
        return None
    headings, names = row_names([comparison.rows[row] for row in chosen])
    headings += _column_headings(comparison, columns)
    identities = dict(zip(chosen, names, strict=True))
    methods = [[row for row in group if row in chosen] for group in _ranked_methods(comparison)]
    second = {(_second(comparison, column, group), column) for column in columns for group in methods}
    places = {column: column_decimals(comparison, column) for column in columns}
    lines, breaks = [], set()
    for block in comparison.blocks:
        of_block = [row for row in chosen if row in block]
        references = [row for row in of_block if comparison.rows[row].facts["reference"]]
        for group in ([row for row in of_block if row not in references], references):
            if group:
                breaks.add(len(lines))
            for row in group:
                identity = identities[row]
                lines.append([*identity])
                for column in columns:
                    cell, is_second = comparison.cells.get((row, column)), (row, column) in second
                    lines[-1].append(_compact(cell, places[column], is_second) if cell else Entry("–"))
                if numbers := _published(comparison, row, columns, published):
                    lines.append([text(f"{identity[0].text} (published)"), *identity[1:], *numbers])
    seeds = seeds_words([comparison.rows[row] for row in chosen])
    several = "" if seeds == "1" else f"Mean ± standard deviation over {seeds} seeds. "
    caption = (
        f"{several}Bold: best, and its difference to every other row of its backbone holds (p < {ALPHA} after Holm’s "
        "correction over all tests of the report). Underlined: second best mean. References stand below the rule."
    )
    if any(comparison.rows[row].used_labels for row in chosen):
        caption += f" {RANKED_APART}"
    if any("(published)" in line[0].text for line in lines):
        caption += " Published: as the papers have it, with their protocols."
    if words := left_out_words(comparison, columns):
        caption += f" {words}"
    return Table(name, f"Results on {comparison.data}", caption, headings, lines, frozenset(breaks - {0}))


def _ranked_methods(comparison: Comparison) -> list[list[int]]:
    """The rows that are ranked together, without references."""
    return [[row for row in group if not comparison.rows[row].facts["reference"]] for group in comparison.ranked]


def _column_headings(comparison: Comparison, columns: Iterable[int]) -> list[Heading]:
    kinds = [comparison.columns[column] for column in columns]
    return [Heading(kind.metric_name, numeric=True, group=kind.evaluation_name) for kind in kinds]


def _second(comparison: Comparison, column: int, rows: Iterable[int]) -> int | None:
    """The row with the second best mean, where three or more are measured and no two of the first three tie."""
    rows = [row for row in rows if (row, column) in comparison.cells]
    places, sign = column_decimals(comparison, column), comparison.columns[column].sign
    shown = {row: round(in_file(comparison.cells[row, column].over_seeds.mean), places) for row in rows}
    means = sorted(((sign * mean, row) for row, mean in shown.items()), reverse=True)
    if len(means) < 3 or len({mean for mean, _ in means[:3]}) < 3:
        return None
    return means[1][1]


def _compact(cell: Cell, places: int, second: bool) -> Entry:
    return mean_entry(cell.over_seeds, places, bold=cell.bold, second=second and not cell.bold)


def _published(
    comparison: Comparison, row: int, columns: Sequence[int], published: Sequence[PublishedTable]
) -> list[Entry] | None:
    """The published numbers of a row's columns; None if none of its runs reproduces a published row of these columns."""
    marks = [run.reproduces for run in comparison.rows[row].runs if run.reproduces]
    numbers: dict[int, float] = {}
    for table in published:
        for mark in marks:
            line = next(
                (line for line in table.rows if (table.name, line.name) == (mark.get("table"), mark.get("row"))), None
            )
            for key, value in line.published.items() if line else ():
                kind = table.columns[key]
                if kind.part not in ("", mark.get("part")):
                    continue
                for column in columns:
                    cell = comparison.cells.get((row, column))
                    if cell and kind.evaluation and fits(cell.results[0], kind):
                        numbers[column] = value / kind.scale
    if not numbers:
        return None
    return [number(numbers.get(column), lambda value: f"{value:.4g}") for column in columns]


def effects(comparison: Comparison, name: str) -> Table | None:
    """Make the table of what training adds: each row less the untrained backbone, and its mean rank; None without either."""
    lines, breaks = [], set()
    headings, identities = row_names(comparison.rows)
    headings += [*_column_headings(comparison, comparison.headline), Heading("Mean rank", numeric=True)]
    ranks: dict[int, float] = {}
    for group in _ranked_methods(comparison):
        ranks |= _mean_ranks(comparison, group)
    places = {column: column_decimals(comparison, column) for column in comparison.headline}
    compared = False
    for block in comparison.blocks:
        breaks.add(len(lines))
        for row in block:
            if comparison.rows[row].facts["reference"]:
                continue
            untrained = comparison.untrained_of(row)
            entries = [_effect(comparison, row, untrained, column, places[column]) for column in comparison.headline]
            compared |= row in ranks or any(entry.value is not None for entry in entries)
            lines.append([*identities[row], *entries, number(ranks.get(row), lambda rank: f"{rank:.1f}")])
    if not compared:
        return None
    caption = (
        "Value less that of the untrained backbone, and its 95% interval (not corrected). Mean rank: 1 is best, over the "
        "evaluations in which all methods of the backbone were measured; ties share the mean of their ranks."
    )
    if any(row.used_labels for row in comparison.rows):
        caption += f" {RANKED_APART}"
    return Table(name, f"Effect of training on {comparison.data}", caption, headings, lines, frozenset(breaks - {0}))


def _effect(comparison: Comparison, row: int, untrained: int | None, column: int, places: int) -> Entry:
    cell, base = (comparison.cells.get((place, column)) for place in (row, untrained))
    if cell is None or base is None:
        return Entry("–")
    difference = cell.over_seeds.mean - base.over_seeds.mean
    note, numbers = "", {"": difference, "low": None, "high": None}
    if pair := comparison.test_of(column, row, untrained):
        low, high = (pair.low, pair.high) if pair.a == row else (-pair.high, -pair.low)
        numbers |= {"low": low, "high": high}
        note = shown_interval(low, high, places)
    return Entry(shown_difference(difference, places, "+"), difference, note=note, numbers=numbers)


def _mean_ranks(comparison: Comparison, rows: Sequence[int]) -> dict[int, float]:
    """Mean rank of each row over the headline columns in which all were measured; {} for a single row, or without such a column."""
    ranks = []
    for column in comparison.headline if len(rows) > 1 else ():
        cells = comparison.column(column)
        if all(row in cells for row in rows):
            values = np.array([comparison.columns[column].sign * cells[row].over_seeds.mean for row in rows])
            above, equal = values[None] > values[:, None], values[None] == values[:, None]
            ranks.append(above.sum(1) + (equal.sum(1) + 1) / 2)
    return dict(zip(rows, np.mean(ranks, axis=0).tolist(), strict=True)) if ranks else {}


def seeds(comparisons: Sequence[Comparison]) -> Table:
    """Make the table of every seed's value of every measurement."""
    headings, names = row_names([row for comparison in comparisons for row in comparison.rows])
    names = iter(names)
    headings += [Heading(name) for name in ("Data", "Evaluation", "Metric")]
    headings += [Heading("Seed", numeric=True), Heading("Value", numeric=True), Heading("Images", numeric=True)]
    lines = []
    for comparison in comparisons:
        identities = [next(names) for _ in comparison.rows]
        places = [column_decimals(comparison, column) for column in range(len(comparison.columns))]
        for (row, column), cell in sorted(comparison.cells.items(), key=lambda item: item[0]):
            of_row, kind = comparison.rows[row], comparison.columns[column]
            by_run = {run.path: run.seed for run in of_row.runs}
            for result in cell.results:
                numbers = {"": result.value, "low": result.low, "high": result.high}
                value = Entry(fixed(result.value, places[column]), result.value, numbers=numbers)
                words = (comparison.data, kind.evaluation_name, kind.metric_name)
                seed = by_run.get(result.run)
                lines.append(
                    [
                        *identities[row],
                        *map(text, words),
                        text("–" if seed is None else seed),
                        value,
                        number(result.n, str),
                    ]
                )
    caption = "A line for each training and measurement, with the 95% bootstrap interval over test images."
    return Table("seeds", "Values of every seed", caption, headings, lines, files=("csv",))
