"""Tables as the page shows them, and the same as CSV, Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One cell.

    Attributes:
        text: what is shown.
        value: what is sorted by (and, without ``numbers``, written to the CSV file); None: nothing there, sorted last.
        note: a second, smaller line (an interval).
        bold, mark: emphasis, and a sign after the text (≠).
        numbers: further CSV columns by suffix of the heading ("std"); the plain number has the suffix "".
    """

    text: str
    value: Any = None
    note: str = ""
    bold: bool = False
    mark: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Heading:
    """A column's heading, its ``mark`` (≠), and whether it holds numbers; ``group`` stands above it."""

    text: str
    numeric: bool = False
    mark: str = ""
    group: str = ""

    @property
    def full(self) -> str:
        return f"{self.group} {self.text}".strip()


@dataclass
class Table:
    """A table. ``name`` is the stem of its files; ``caption`` is plain text and says what has to be known to read it.
    ``breaks`` holds positions of rows that begin a new block (a rule is drawn above them until it is sorted)."""

    name: str
    title: str
    caption: str
    headings: list[Heading]
    rows: list[list[Entry]]
    breaks: frozenset[int] = frozenset()

    @property
    def places(self) -> range:
        """Positions of the columns."""
        return range(len(self.headings))

    @property
    def grouped(self) -> list[tuple[str, int]]:
        """The headings' groups, from left to right, with how many columns each spans; [] without any."""
        spans: list[tuple[str, int]] = []
        for heading in self.headings:
            if spans and heading.group and spans[-1][0] == heading.group:
                spans[-1] = (heading.group, spans[-1][1] + 1)
            else:
                spans.append((heading.group, 1))
        return spans if any(group for group, _ in spans) else []


def text(value: Any) -> Entry:
    """A cell of words."""
    return Entry(str(value), str(value))


def number(value: float | None, form: Callable[[float], str], **more: Any) -> Entry:
    """A cell with a number, or a dash."""
    return Entry("–" if value is None else form(value), value, **more)


def to_csv(table: Table) -> str:
    """Comma-separated, numbers in full; a cell with an interval takes several columns."""
    names = [list(dict.fromkeys(name for row in table.rows for name in row[i].numbers)) or [""] for i in table.places]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(f"{table.headings[i].full} {name}".strip() for i in table.places for name in names[i])
    for row in table.rows:
        values = [(row[i].numbers or {"": row[i].value}).get(name) for i in table.places for name in names[i]]
        writer.writerow(f"{v:.10g}" if isinstance(v, float) else "" if v is None else v for v in values)
    return out.getvalue()


def to_markdown(table: Table) -> str:
    """A GitHub table under its title, the caption below."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(entry: Entry) -> str:
        shown = markdown(entry.text)
        parts = (f"**{shown}**" if entry.bold else shown, entry.mark, markdown(entry.note))
        return " ".join(filter(None, parts))

    return "\n".join(
        [
            f"### {markdown(table.title)}",
            "",
            line(markdown(f"{heading.full} {heading.mark}".strip()) for heading in table.headings),
            line("---:" if heading.numeric else "---" for heading in table.headings),
            *(line(map(cell, row)) for row in table.rows),
            "",
            markdown(table.caption),
            "",
        ]
    )


def to_latex(table: Table) -> str:
    """A ``table`` with a booktabs ``tabular``, to be read in with ``\\input``. One that is wider than the text is scaled down to
    it."""
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
        lines.append(
            "{} " + " & ".join(map(_latex_cell, row)) + r" \\"
        )  # {}: a leading [ would be read as \\'s argument
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def _latex_cell(entry: Entry) -> str:
    shown = latex(entry.text)
    shown = rf"\textbf{{{shown}}}" if entry.bold else shown
    note = rf"{{\scriptsize {latex(entry.note)}}}" if entry.note else ""
    return " ".join(filter(None, (shown + latex(entry.mark), note)))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
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
    """Escape for LaTeX text. What pdfLaTeX has no letter for becomes its code point; two hyphens stay two hyphens."""

    def one(letter: str) -> str:
        if letter in _LATEX:
            return _LATEX[letter]
        if letter.isascii():
            return letter if letter.isprintable() or letter == "\0" else " "
        if re.match(r"[À-ÖØ-öø-ÿ]", letter):
            return letter
        return f"[U+{ord(letter):04X}]"

    return re.sub("-(?=-)", "-{}", "".join(map(one, words.replace("\0", " ").replace("–", "\0")))).replace("\0", "--")


def markdown(words: str) -> str:
    """Escape for Markdown text in a table."""
    words = re.sub(r"([\\`*_|<>\[\]#~])", r"\\\1", words)
    return re.sub(r"[\x00-\x1f\x7f]", " ", words)
