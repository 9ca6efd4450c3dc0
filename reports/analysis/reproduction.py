"""Put published and measured numbers side by side; a run names the row that it reproduces in ``reproduces.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.analysis.facts import column_facts
from reports.analysis.published import Column, PublishedRow, PublishedTable, read_published
from reports.analysis.statistics import over_seeds
from reports.analysis.tables import Entry, Table, fixed, headings_of, number, text
from rundir.paths import REPRODUCES
from rundir.read import Problem, Run
from rundir.results import Measurement


@dataclass(frozen=True)
class Measured:
    """The measurement of one published number, in its unit: mean and 95% interval over seeds (with one seed, over test images),
    the numbers of test images, and the protocols' entries that the published number has otherwise, in words."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    images: tuple[int, ...]
    otherwise: tuple[str, ...] = ()


def measured(table: PublishedTable, row: PublishedRow, column: Column, runs: Sequence[Run]) -> Measured | None:
    """Average the runs' measurements of a row's column; None without any."""
    by_seed: dict[str, Measurement] = {}  # the newest copy of a run wins
    for run in sorted(runs, key=lambda run: run.newest):
        if run.finished and _is_of(run, table, row, column):
            by_seed |= {str(run.seed): result for result in run.results if fits(result, column)}
    if not by_seed:
        return None
    results = list(by_seed.values())
    summary = over_seeds(
        [column.scale * result.value for result in results],
        [end and column.scale * end for end in column_facts(results[0])["scale"]],
    )
    low, high = summary.low, summary.high
    if len(results) == 1 and results[0].low is not None:
        low, high = column.scale * results[0].low, column.scale * results[0].high
    images = tuple(sorted({result.n for result in results}))
    return Measured(summary.mean, low, high, len(results), images, _otherwise(results, column))


def _otherwise(results: Sequence[Measurement], column: Column) -> tuple[str, ...]:
    """Name what measurements have otherwise than the published number."""
    words: dict[str, None] = {}
    for key, expected in column.expected.items():
        for result in results:
            if (value := result.protocol.get(key)) != expected:
                words[f"{key}: {'not told' if value is None else value}; published: {expected}"] = None
    return tuple(words)


def _is_of(run: Run, table: PublishedTable, row: PublishedRow, column: Column) -> bool:
    mark = run.reproduces or {}
    return (mark.get("table"), mark.get("row"), mark.get("part")) == (table.name, row.name, column.part)


def fits(result: Measurement, column: Column) -> bool:
    """Whether a measurement is one of a published column: its evaluation, metric and protocol (words by their beginning)."""
    for key, wanted in column.protocol.items():
        value = result.protocol.get(key)
        if not (str(value).startswith(wanted) if isinstance(wanted, str) else value == wanted):
            return False
    return (result.evaluation, result.metric) == (column.evaluation, column.metric)


def side_by_side(
    table: PublishedTable, runs: Sequence[Run], missing: Mapping[tuple[str, str], str] | None = None
) -> Table:
    """Make a table of published and measured numbers, their differences, and remarks.

    Args:
        runs: any runs; runs of other tables are ignored.
        missing: by row and part, the reason why it was not measured.
    """
    lines, breaks = [], set()
    for row in table.rows:
        breaks.add(len(lines))
        for name, column in table.columns.items():
            published = row.published.get(name)
            result = measured(table, row, column, runs) if column.evaluation else None
            if published is None and (row.published or not column.evaluation or column.part not in table.parts_of(row)):
                continue
            of_column = [run for run in runs if _is_of(run, table, row, column)]
            why_not = row.not_run or (missing or {}).get((row.name, column.part), "")
            remarks = _remarks(table, row, column, result, of_column, why_not)
            lines.append([text(row.name), *_entries(column, published, result), text("; ".join(remarks))])
    differs = f" Here otherwise: {'; '.join(table.differs)}." if table.differs else ""
    numeric = ("Published", "Measured", "Difference")
    return Table(
        f"published-{table.name.replace('/', '-')}",
        f"{table.name}: {table.title}",
        f"{table.paper}, {table.where}. Published: {table.protocol}.{differs} Difference: measured less published. "
        "Intervals: 95%, over test images, or over seeds where there are several.",
        headings_of(("Row", "What", *numeric, "Remark"), numeric),
        lines,
        frozenset(breaks - {0}),
    )


def _entries(column: Column, published: float | None, result: Measured | None) -> list[Entry]:
    places = 3 if column.scale < 1 else 2

    def signed(value: float) -> str:
        return fixed(value, places, "+").replace("-", "−")

    if result is None:
        return [text(column.title), number(published, str), Entry("–"), Entry("–")]
    interval = f"[{fixed(result.low, places)}, {fixed(result.high, places)}]" if result.low is not None else ""
    numbers = {"": result.value, "low": result.low, "high": result.high, "seeds": result.seeds}
    return [
        text(column.title),
        number(published, str),
        Entry(fixed(result.value, places), result.value, note=interval, numbers=numbers),
        number(None if published is None else result.value - published, signed),
    ]


def _remarks(
    table: PublishedTable,
    row: PublishedRow,
    column: Column,
    result: Measured | None,
    runs: Sequence[Run],
    why_not: str,
) -> list[str]:
    if not column.evaluation:
        return ["published only"]
    changed: dict[str, Any] = {}
    for run in runs:
        changed |= run.reproduces.get("changed") or {}
    options = ", ".join(f"{name}={value}" for name, value in changed.items())
    if result is None:
        if why_not:
            return [f"not run: {why_not}"]
        if changed and any(run.finished and run.results for run in runs):
            return [f"not among what was measured with other options than the table's: {options}"]
        return []
    remarks = [f"other options than the table's: {options}"] if options else []
    if table.test_images and result.images != (table.test_images,):
        counts = " and ".join(f"{n:,}" for n in result.images)
        remarks.append(f"on {counts} test images or objects, published on {table.test_images:,}")
    remarks += result.otherwise
    for trained, held_out in sorted({(run.images, run.held_out) for run in runs if run.finished and run.held_out}):
        remarks.append(
            f"trained on {trained:,} of {trained + held_out:,} images, the others held out for the online k-NN"
        )
    if result.seeds > 1:
        remarks.append(f"mean over {result.seeds} seeds")
    return [*remarks, *filter(None, [row.differs])]


def reproduced(runs: Sequence[Run], problems: list[Problem]) -> list[PublishedTable]:
    """Look up the published tables that some runs reproduce; a run that names an unknown row is added to ``problems``."""
    marked = [run for run in runs if run.reproduces]
    if not marked:
        return []
    published, names = read_published(), set()
    for run in marked:
        name = str(run.reproduces.get("table"))
        if name in published and run.reproduces.get("row") in [row.name for row in published[name].rows]:
            names.add(name)
        else:
            problems.append(Problem(str(run.path / REPRODUCES), f"reproduces a row of {name} that is not known here"))
    return [published[name] for name in sorted(names)]
