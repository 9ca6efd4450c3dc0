"""Published numbers beside those that runs here measured. A run's ``reproduces.json`` names the row that it reproduces
(``rundir.provenance``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.analysis.published import Column, PublishedRow, PublishedTable, read_published
from reports.analysis.statistics import over_seeds
from reports.analysis.tables import Entry, Heading, Table, number, text
from rundir.paths import REPRODUCES
from rundir.read import Problem, Run
from rundir.results import Measurement


@dataclass(frozen=True)
class Measured:
    """What runs measured for one published number, in its unit.

    Attributes:
        value: mean over runs (seeds).
        low, high: 95% interval: of the mean over seeds, or with one run over test images; None where there is none.
        seeds: number of runs.
        images: numbers of test images.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    images: tuple[int, ...]


def measured(table: PublishedTable, row: PublishedRow, column: Column, runs: Sequence[Run]) -> Measured | None:
    """What ``runs`` measured of a row's column; None where they have not."""
    by_seed: dict[str, Measurement] = {}  # of copies of a run the newest counts, once
    for run in sorted(runs, key=lambda run: run.newest):
        if run.finished and _is_of(run, table, row, column):
            for result in filter(lambda result: _fits(result, column), run.results):
                by_seed[str(run.seed)] = result
    if not by_seed:
        return None
    found = list(by_seed.values())
    summary = over_seeds([column.scale * result.value for result in found])
    low, high = summary.low, summary.high
    if len(found) == 1 and found[0].low is not None:
        low, high = column.scale * found[0].low, column.scale * found[0].high
    return Measured(summary.mean, low, high, len(found), tuple(sorted({result.n for result in found})))


def _is_of(run: Run, table: PublishedTable, row: PublishedRow, column: Column) -> bool:
    mark = run.reproduces or {}
    return (mark.get("table"), mark.get("row"), mark.get("part")) == (table.name, row.name, column.part)


def _fits(result: Measurement, column: Column) -> bool:
    """True for the measurement that a column is compared with. Words of a protocol are compared by their beginning."""
    if (result.evaluation, result.metric) != (column.evaluation, column.metric):
        return False
    for key, value in column.protocol.items():
        there = result.protocol.get(key)
        if not (str(there).startswith(value) if isinstance(value, str) else there == value):
            return False
    return True


def side_by_side(
    table: PublishedTable, runs: Sequence[Run], missing: Mapping[tuple[str, str], str] | None = None
) -> Table:
    """A line a published number: what was published, what was measured, the difference, and what has to be known of it.

    Args:
        runs: any runs; those that reproduce rows of this table are used.
        missing: by row and part, why it could not be measured.
    """
    headings = [Heading("Row"), Heading("What")]
    headings += [Heading(name, numeric=True) for name in ("Published", "Measured", "Difference")] + [Heading("Remark")]
    lines, breaks = [], set()
    for row in table.rows:
        breaks.add(len(lines))
        for name, column in table.columns.items():
            published = row.published.get(name)
            found = measured(table, row, column, runs) if column.evaluation else None
            if published is None and (row.published or not column.evaluation or column.part not in table.parts_of(row)):
                continue
            of_column = [run for run in runs if _is_of(run, table, row, column)]
            remarks = _remarks(table, row, column, found, of_column, (missing or {}).get((row.name, column.part), ""))
            lines.append(_line(row.name, column, published, found, remarks))
    return Table(
        f"published-{table.name.replace('/', '-')}",
        f"{table.name}: {table.title}",
        _caption(table),
        headings,
        lines,
        frozenset(breaks - {0}),
    )


def _line(row: str, column: Column, published: float | None, found: Measured | None, remarks: list[str]) -> list[Entry]:
    places = 3 if column.scale < 1 else 2

    def signed(value: float) -> str:
        return f"{value:+.{places}f}".replace("-", "−")

    difference = found.value - published if found and published is not None else None
    interval = f"[{found.low:.{places}f}, {found.high:.{places}f}]" if found and found.low is not None else ""
    numbers = {"": found.value, "low": found.low, "high": found.high, "seeds": found.seeds} if found else {}
    return [
        text(row),
        text(column.title),
        number(published, str),
        number(found.value if found else None, lambda value: f"{value:.{places}f}", note=interval, numbers=numbers),
        number(difference, signed),
        text("; ".join(remarks)),
    ]


def _remarks(
    table: PublishedTable, row: PublishedRow, column: Column, found: Measured | None, runs: Sequence[Run], missing: str
) -> list[str]:
    remarks = []
    if not column.evaluation:
        return ["published only"]
    changed: dict[str, Any] = {}
    for run in runs:
        changed |= run.reproduces.get("changed") or {}
    options = ", ".join(f"{name}={value}" for name, value in changed.items())
    if found is None:
        if row.not_run or missing:
            return [f"not run: {row.not_run or missing}"]
        if changed and any(run.finished and run.results for run in runs):
            return [f"not among what was measured with other options than the table's: {options}"]
        return []
    if options:
        remarks.append(f"other options than the table's: {options}")
    if table.test_images and found.images != (table.test_images,):
        counts = " and ".join(f"{n:,}" for n in found.images)
        remarks.append(f"on {counts} test images or objects, published on {table.test_images:,}")
    if found.seeds > 1:
        remarks.append(f"mean over {found.seeds} seeds")
    if row.differs:
        remarks.append(row.differs)
    return remarks


def _caption(table: PublishedTable) -> str:
    said = f"{table.paper}, {table.where}. Published: {table.protocol}."
    if table.differs:
        said += f" Here otherwise: {'; '.join(table.differs)}."
    return f"{said} Difference: measured less published. Intervals: 95%, over test images, or over seeds where there are several."


def tables_of(runs: Sequence[Run], problems: list[Problem]) -> list[Table]:
    """Of every published table that some of the runs reproduce; a run that names an unknown one is added to ``problems``."""
    marked = [run for run in runs if run.reproduces]
    if not marked:
        return []
    known = read_published()
    found = {}
    for run in marked:
        name = str(run.reproduces.get("table"))
        if name not in known or run.reproduces.get("row") not in [row.name for row in known[name].rows]:
            problems.append(Problem(str(run.path / REPRODUCES), f"reproduces a row of {name} that is not known here"))
        else:
            found[name] = known[name]
    return [side_by_side(table, marked) for _, table in sorted(found.items())]
