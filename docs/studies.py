"""Fill in the tables, numbers and figures of pages from the results of studies, ``docs/studies/results/STUDY``.

    python docs/studies.py        writes the pages that have changed, and their figures

A page is prose with marks; what stands between a mark and its end is written by this script, and a test sees that it is up to date:

    <!-- table: labels/paper | Method | Variant | k-NN top-1 (k 20) -->     a table of the report, with all or the named columns
    <!-- end -->
    The best is <!-- number: labels/results | Weak DINO | Variant=means 10 | {k-NN top-1 (k 20):.1f} --><!-- end -->%.
    <!-- figure: labels/intervals | What the picture shows, in words -->     a figure of the report
    <!-- end -->

``labels/results`` is the table ``results`` of ``run.py report docs/studies/results/labels``; ``lightly/accuracy`` is the file
``accuracy.csv`` of ``docs/studies/results/lightly``, where a program of ``benchmarks/`` has written one. A number names cells of
its row in the table's CSV file, as CELL or HEADING=CELL, and a text in which {HEADING:FORMAT} is the row's value, in Python's
format.
"""

from __future__ import annotations

import csv
import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import UserError, unknown_name  # noqa: E402
from common.names import first_names  # noqa: E402
from reports import build_report  # noqa: E402

STUDIES = ROOT / "docs" / "studies"
FIGURES = STUDIES / "images"
MARK = re.compile(r"<!-- (table|number|figure): (.+?) -->(.*?)<!-- end -->", re.DOTALL)
BEGIN = re.compile(r"<!-- (?:table|number|figure):")

Report = Callable[[str], Path]


def pages() -> list[Path]:
    """Pages that may have marks."""
    return [
        *(ROOT / name for name in ("README.md", "docs/performance.md", "docs/results.md")),
        *sorted(STUDIES.glob("*.md")),
    ]


def studies_in(text: str) -> list[str]:
    """The studies whose results a page shows."""
    return sorted({about.partition("/")[0] for _, about, _ in MARK.findall(text)})


def filled(page: Path, text: str, report: Report) -> str:
    """The text of a page, filled in from the folders of reports that ``report(STUDY)`` makes. Raises UserError for a mark that
    names nothing, or has no end."""
    marks = MARK.findall(text)
    if len(marks) < len(BEGIN.findall(text)) or any(BEGIN.search(content) for _, _, content in marks):
        raise UserError(f"{page}: a mark has no <!-- end -->")

    def fill(mark: re.Match[str]) -> str:
        kind, about, _ = mark.groups()
        (place, *words) = [word.strip() for word in about.split("|")]
        study, slash, name = place.partition("/")
        try:
            if not (slash and name):
                raise UserError(f"{place!r} is no STUDY/NAME")
            if kind == "figure":
                path = Path(os.path.relpath(FIGURES / f"{study}-{name}.png", page.parent))
                made = f"\n![{_figure(report(study), name, words)}]({path.as_posix()})\n"
            else:
                measured = STUDIES / "results" / study / f"{name}.csv"
                made = {"table": _table, "number": _number}[kind](report(study), name, words, measured)
        except UserError as error:
            raise UserError(f"{page}: <!-- {kind}: {about} -->: {error}") from error
        return f"<!-- {kind}: {about} -->{made}<!-- end -->"

    return MARK.sub(fill, text)


def figures_in(text: str) -> list[tuple[str, str]]:
    """Study and name of each figure of a page."""
    places = [about.split("|")[0].strip() for kind, about, _ in MARK.findall(text) if kind == "figure"]
    return [(study, name) for study, _, name in (place.partition("/") for place in places)]


def _require(report: Path, kind: str, name: str, ending: str) -> Path:
    file = report / f"{kind}s" / f"{name}.{ending}"
    if not file.is_file():
        raise unknown_name(kind, name, [other.stem for other in file.parent.glob(f"*.{ending}")])
    return file


def _table(report: Path, name: str, columns: list[str], measured: Path) -> str:
    """A table in Markdown, with the named columns in their order."""
    if measured.is_file():
        with measured.open(encoding="utf-8", newline="") as file:
            heading, *rows = csv.reader(file)
        lines = [heading, ["---"] * len(heading), *rows]
    else:
        text = _require(report, "table", name, "md").read_text(encoding="utf-8")
        lines = [_cells(line) for line in text.splitlines() if line.startswith("|")]
    places = []
    for column in columns:
        if column not in lines[0]:
            raise unknown_name("column", column, lines[0])
        places.append(lines[0].index(column))
    chosen = [[line[place] for place in places] if columns else line for line in lines]
    return "\n" + "".join(f"| {' | '.join(line)} |\n" for line in chosen)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _number(report: Path, name: str, words: list[str], measured: Path) -> str:
    """A text with the values of the one row that has the given cells."""
    table = measured if measured.is_file() else _require(report, "table", name, "csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not words:
        raise UserError("gives no text, such as {Seeds}")
    *given, form = words
    rows_left = rows
    for cell in given:
        heading, equals, value = cell.partition("=")
        if equals and rows and heading in rows[0]:
            rows_left = [row for row in rows_left if row[heading] == value]
        else:
            rows_left = [row for row in rows_left if cell in row.values()]
    if len(rows_left) != 1:
        which = first_names([first_names(list(row.values()), 3) for row in rows_left or rows], 12, "; ")
        raise UserError(f"{len(rows_left)} rows of the table have these cells, not one ({which})")

    def value(field: re.Match[str]) -> str:
        heading, form = field.groups()
        if heading not in rows_left[0]:
            raise unknown_name("column", heading, rows_left[0])
        content = rows_left[0][heading]
        if not form:
            return content
        try:
            return format(float(content), form)
        except ValueError as error:
            raise UserError(f"{heading!r} is {content!r}, which has no format {form!r}") from error

    return re.sub(r"\{([^{}:]+)(?::([^{}]+))?\}", value, form)


def _figure(report: Path, name: str, words: list[str]) -> str:
    _require(report, "figure", name, "png")
    if len(words) != 1:
        raise UserError("give one text that says what the picture shows")
    return words[0]


def main() -> int:
    """Write the pages that have changed, and all figures. Returns 1 if a mark names nothing."""
    with tempfile.TemporaryDirectory() as folder:

        @functools.cache
        def report(study: str) -> Path:
            results = STUDIES / "results" / study
            if not results.is_dir():
                raise UserError(f"{results.relative_to(ROOT)}: no such folder; python docs/studies/collect.py makes it")
            return build_report([results], Path(folder) / study).parent

        try:
            for page in pages():
                before = page.read_text(encoding="utf-8")
                after = filled(page, before, report)
                for study, name in figures_in(after):
                    FIGURES.mkdir(exist_ok=True)
                    shutil.copyfile(report(study) / "figures" / f"{name}.png", FIGURES / f"{study}-{name}.png")
                if after != before:
                    page.write_text(after, encoding="utf-8")
                    print(page.relative_to(ROOT))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
