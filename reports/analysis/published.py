"""Read published numbers: the tables of papers in ``published/*.yaml``, with the options that reproduce each row.

A file holds the tables of one paper:

    paper: who, what, where
    source: the authors' code, and its commit
    tables:
      NAME:                       # known as FILE/NAME, such as dino/table2
        title: heading of the table
        where: table 2            # in the paper
        protocol: how the numbers were measured there
        cost: time and hardware for a run, in words
        differs: [WORDS]          # differences between our runs and the paper's, in every row
        test_images: 50000        # where published; measurements on another number of images are marked
        grid: experiments/…yaml   # a table of trainings: its rows are cells of that grid
        parts: {PART: {OPTION: VALUE}}   # else: a row's commands, run.py evaluate with these options
        columns:
          NAME: {title, evaluation, metric, protocol: {KEY: VALUE}, part, scale, expected: {KEY: VALUE}}
        rows:
          - name: the paper's name for it
            published: {COLUMN: NUMBER}   # may be empty
            run: {OPTION: VALUE}  # options of the row: weights, backbone; or
            cell: NAME            # of the grid, without its seed; or
            not_run: why it cannot be run here
            only: [PART]          # the row's parts; default: all
            differs: WORDS        # a further difference, in this row

A column without an evaluation is not measured here. Measured values are multiplied by ``scale``. ``protocol`` chooses among a run's
measurements; one whose protocol has another value than ``expected`` is compared all the same, and the difference stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UsageError, unknown_name
from common.files import read_yaml

FOLDER = Path(__file__).with_suffix("")


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a published table and its measurement: ``protocol`` entries (such as k) must agree, ``expected`` ones are those
    of the published number, ``part`` measures it."""

    title: str
    evaluation: str = ""
    metric: str = ""
    protocol: dict[str, Any] = field(default_factory=dict)
    part: str = ""
    scale: float = 1.0
    expected: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row, with exactly one of ``run``, ``cell`` and ``not_run``."""

    name: str
    published: dict[str, float]
    run: dict[str, Any] | None = None
    cell: str = ""
    not_run: str = ""
    only: list[str] = field(default_factory=list)
    differs: str = ""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A table, called ``FILE/NAME``."""

    name: str
    paper: str
    source: str
    title: str
    where: str
    protocol: str
    cost: str
    differs: list[str] = field(default_factory=list)
    test_images: int | None = None
    grid: str = ""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, Column]
    rows: list[PublishedRow]

    def row(self, name: str) -> PublishedRow:
        """Look up a row. Raises UsageError for an unknown name, naming the nearest."""
        rows = {row.name: row for row in self.rows}
        if name not in rows:
            raise unknown_name(f"row of {self.name}", name, rows)
        return rows[name]

    def parts_of(self, row: PublishedRow) -> list[str]:
        """Names of a row's commands; a training has one, called ""."""
        return row.only or list(self.parts) or [""]

    @property
    def data(self) -> list[str]:
        """Names of the rows' data sets; empty for a grid."""
        return list(dict.fromkeys(str(options["data"]) for options in self.parts.values()))

    @property
    def weights(self) -> list[str]:
        """Names of the rows' released weights."""
        return list(dict.fromkeys(row.run["weights"] for row in self.rows if row.run and row.run.get("weights")))


def read_published(folder: Path | None = None) -> dict[str, PublishedTable]:
    """Read all tables of a folder (default: ``FOLDER``) by name. Raises UsageError for a wrong file."""
    tables: dict[str, PublishedTable] = {}
    for file in sorted((folder or FOLDER).glob("*.yaml")):
        try:
            content = read_yaml(file)
            for key, entry in content["tables"].items():
                name = f"{file.stem}/{key}"
                tables[name] = _table(name, {"paper": content["paper"], "source": content["source"], **entry})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            missing = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError(f"{file}: no table of published numbers ({missing})") from error
    return tables


def _table(name: str, entry: dict[str, Any]) -> PublishedTable:
    """Raises ValueError or TypeError for a wrong form."""
    parts = entry.get("parts", {})
    columns = {}
    for key, value in entry["columns"].items():
        column = Column(**{"part": next(iter(parts), ""), **value})
        if column.evaluation and column.part not in (parts or {"": None}):
            raise ValueError(f"{name}: column {key} is of the part {column.part!r}, which is none of the table's")
        if bool(column.evaluation) != bool(column.metric):
            raise ValueError(f"{name}: column {key} needs both an evaluation and a metric, or neither")
        columns[key] = column
    rows = [PublishedRow(**row) for row in entry["rows"]]
    table = PublishedTable(**{**entry, "name": name, "columns": columns, "rows": rows})
    if bool(table.grid) == bool(parts):
        raise ValueError(f"{name}: give either a grid or parts")
    if len({row.name for row in rows}) < len(rows):
        raise ValueError(f"{name}: two rows of the same name")
    for row in rows:
        if wrong := _wrong_in(row, table):
            raise ValueError(f"{name}, {row.name}: {wrong}")
    for part, options in parts.items():
        if "data" not in options or not options.get("evals"):
            raise ValueError(f"{name}: part {part} names no data or no evals")
    return table


def _wrong_in(row: PublishedRow, table: PublishedTable) -> str:
    """The error in a row, or ""."""
    if not set(row.published) <= set(table.columns):
        return f"publishes {', '.join(row.published)}, and the columns are {', '.join(table.columns)}"
    if others := [value for value in row.published.values() if type(value) not in (int, float)]:
        return f"{others[0]!r} is no number"
    if [row.run is not None, bool(row.cell), bool(row.not_run)].count(True) != 1:
        return "give one of run, cell and not_run"
    if (row.cell and not table.grid) or (row.run is not None and table.grid):
        return "a row of a grid has a cell, any other one has run"
    if not set(row.only) <= set(table.parts):
        return f"only {row.only}, but the parts are {', '.join(table.parts)}"
    return ""
