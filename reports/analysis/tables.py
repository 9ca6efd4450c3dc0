"""Tables of the page, and their CSV, Markdown and LaTeX (booktabs) files."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        value: the key for sorting (None is last), and without ``numbers`` the CSV file's value.
        note: a second, smaller line (an interval).
        mark: a sign after the text (≠).
        numbers: values of CSV columns by suffix of the heading ("std", or "" for the plain number).
    """

    text: str
    value: Any = None
    note: str = ""
    bold: bool = False
    mark: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


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


def text(value: Any) -> Entry:
    """Make a cell of words."""
    return Entry(str(value), str(value))


def number(value: float | None, form: Callable[[float], str], **more: Any) -> Entry:
    """Make a cell with a number, or a dash for None."""
    return Entry("–" if value is None else form(value), value, **more)


def headings_of(names: Iterable[str], numeric: Collection[str] = ()) -> list[Heading]:
    """Make headings without groups."""
    return [Heading(name, numeric=name in numeric) for name in names]


def to_csv(table: Table) -> str:
    """Write comma-separated values, numbers in full; a cell with an interval takes several columns."""
    names = [list(dict.fromkeys(name for row in table.rows for name in row[i].numbers)) or [""] for i in table.places]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(f"{table.headings[i].full} {name}".strip() for i in table.places for name in names[i])
    for row in table.rows:
        values = [(row[i].numbers or {"": row[i].value}).get(name) for i in table.places for name in names[i]]
        writer.writerow(f"{v:.10g}" if isinstance(v, float) else "" if v is None else v for v in values)
    return out.getvalue()


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


def to_latex(table: Table) -> str:
    """Write a ``table`` with a booktabs ``tabular``, for ``\\input``, no wider than the text."""
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{latex(table.caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if heading.numeric else 'l' for heading in table.headings)}}}",
        r"\toprule",
    ]
    if spans := table.grouped:
        groups = [rf"\multicolumn{{{n}}}{{c}}{{{latex(group)}}}" if group else "" for group, n in spans]
        ends = itertools.accumulate(n for _, n in spans)
        rules = [rf"\cmidrule(lr){{{end - n + 1}-{end}}}" for (group, n), end in zip(spans, ends, strict=True) if group]
        lines += [" & ".join(groups) + r" \\", "".join(rules)]
    lines.append(" & ".join(latex(f"{h.text} {h.mark}".strip()) for h in table.headings) + r" \\")
    lines.append(r"\midrule")
    for position, row in enumerate(table.rows):
        if position in table.breaks:
            lines.append(r"\midrule")
        # Without {}, a [ would begin an argument of the \\ before it.
        lines.append("{} " + " & ".join(map(_latex_cell, row)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def _latex_cell(entry: Entry) -> str:
    shown = latex(entry.text)
    shown = rf"\textbf{{{shown}}}" if entry.bold else shown
    note = rf"{{\scriptsize {latex(entry.note)}}}" if entry.note else ""
    return " ".join(filter(None, (shown + latex(entry.mark), note)))


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{letter: f"${letter}$" for letter in "<>|"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    '"': "''",
    "`": "{`}",  # ?` and !` would become other letters
    "±": r"$\pm$",
    "≠": r"$\neq$",
    "≥": r"$\geq$",
    "×": r"$\times$",
    "−": r"$-$",
    "·": r"$\cdot$",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
    "…": r"\dots{}",
    "\u00a0": "~",
    "\u202f": r"\,",
}


def latex(words: str) -> str:
    """Escape for LaTeX text; letters that pdfLaTeX lacks become their code point, and two hyphens stay two hyphens."""

    def one(letter: str) -> str:
        if letter in _LATEX:
            return _LATEX[letter]
        if letter.isascii():
            return letter if letter.isprintable() else " "
        return letter if re.match(r"[À-ÖØ-öø-ÿ]", letter) else f"[U+{ord(letter):04X}]"

    return "--".join(re.sub("-(?=-)", "-{}", "".join(map(one, part))) for part in words.split("–"))


def markdown(words: str) -> str:
    """Escape for a Markdown table."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", re.sub(r"([\\`*_|<>\[\]#~])", r"\\\1", words))
