"""Tables of the page, and their CSV and Markdown files; ``latex`` writes them for papers."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        value: the key for sorting (None is last), and without ``numbers`` the CSV file's value.
        note: a second, smaller line (an interval).
        mark: a sign after the text (≠).
        second: second best, which papers underline.
        paper: the text as papers write it, where that is another ("ViT-S/16").
        numbers: values of CSV columns by suffix of the heading ("std", or "" for the plain number).
    """

    text: str
    value: Any = None
    note: str = ""
    bold: bool = False
    mark: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    second: bool = False
    paper: str = ""


@dataclass(frozen=True)
class Heading:
    """A column's heading, under its ``group``."""

    text: str
    numeric: bool = False
    mark: str = ""
    group: str = ""

    @property
    def full(self) -> str:
        return f"{self.group} {self.text}".strip()


@dataclass
class Table:
    """A table; ``name`` is the stem of its files, and ``breaks`` the positions of rows with a rule above them."""

    name: str
    title: str
    caption: str
    headings: list[Heading]
    rows: list[list[Entry]]
    breaks: frozenset[int] = frozenset()
    #: Endings of its files.
    files: tuple[str, ...] = ("csv", "md", "tex")

    @property
    def places(self) -> range:
        return range(len(self.headings))

    @property
    def grouped(self) -> list[tuple[str, int]]:
        """Groups of headings, from left to right, with the number of their columns."""
        if not any(heading.group for heading in self.headings):
            return []
        keys = [heading.group or place for place, heading in enumerate(self.headings)]
        return [("" if isinstance(key, int) else key, len(list(same))) for key, same in itertools.groupby(keys)]


def text(value: Any, paper: str = "") -> Entry:
    """Make a cell of words."""
    return Entry(str(value), str(value), paper=paper)


def number(value: float | None, form: Callable[[float], str], **more: Any) -> Entry:
    """Make a cell with a number, or a dash for None."""
    return Entry("–" if value is None else form(in_file(value)), value, **more)


def in_file(value: float) -> float:
    """The number that the CSV file has. Words are made from it, too, so that 48.4499999 is 48.5 wherever it is rounded."""
    return value if isinstance(value, Integral) else float(_csv_value(value))


def fixed(value: float, places: int, sign: str = "") -> str:
    """Round to decimal places; with ``sign`` "+" positive numbers have one."""
    return f"{in_file(value):{sign}.{places}f}"


def headings_of(names: Iterable[str], numeric: Collection[str] = ()) -> list[Heading]:
    """Make headings without groups."""
    return [Heading(name, numeric=name in numeric) for name in names]


def to_csv(table: Table) -> str:
    """Write comma-separated values, numbers to 7 digits; a cell with an interval takes several columns. No text is a formula to
    spreadsheets."""
    names = [list(dict.fromkeys(name for row in table.rows for name in row[i].numbers)) or [""] for i in table.places]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_csv_text(f"{table.headings[i].full} {name}".strip()) for i in table.places for name in names[i])
    for row in table.rows:
        values = [(row[i].numbers or {"": row[i].value}).get(name) for i in table.places for name in names[i]]
        writer.writerow(map(_csv_value, values))
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    """Write 7 digits, as many as float32 holds, in which most values were computed, and whole numbers in full."""
    if isinstance(value, Integral) or not isinstance(value, Real):
        return "" if value is None else _csv_text(value) if isinstance(value, str) else value
    value = float(value) + 0.0  # no -0
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.7g}"


def _csv_text(words: str) -> str:
    """Put an apostrophe before what a spreadsheet would compute, also behind spaces, and after a mark where others split cells."""
    return re.sub(r"(^|[;\t\r\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1'", words)


def to_markdown(table: Table) -> str:
    """Write a GitHub table with title and caption."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(entry: Entry) -> str:
        shown = markdown(entry.text)
        parts = (f"**{shown}**" if entry.bold else shown, entry.mark, markdown(entry.note))
        return " ".join(filter(None, parts))

    head = line(markdown(f"{heading.full} {heading.mark}".strip()) for heading in table.headings)
    rule = line("---:" if heading.numeric else "---" for heading in table.headings)
    lines = [head, rule, *(line(map(cell, row)) for row in table.rows)]
    return "\n".join([f"### {markdown(table.title)}", "", *lines, "", markdown(table.caption), ""])


def markdown(words: str) -> str:
    """Escape for a Markdown table."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", re.sub(r"([\\`*_|<>\[\]#~])", r"\\\1", words))
