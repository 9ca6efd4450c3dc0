"""Write the page and the files beside it from run directories."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from common.errors import UserError
from common.files import atomic_file, write_text
from reports.analysis.comparison import Comparison, compare
from reports.analysis.identity import without_duplicates
from reports.analysis.reproduction import tables_of
from reports.analysis.rows import rows_of
from reports.analysis.tables import Table, headings_of, text, to_csv, to_latex, to_markdown
from reports.figures import segmentation, training
from reports.figures.comparison import cost_and_accuracy, intervals
from reports.figures.look import Look
from reports.page import comparison_tables, row_tables, summary
from reports.page.inside import pictures as pictures_of_runs
from reports.page.provenance import command, provenance
from reports.page.speed import speed_tables
from reports.visual.core.base import for_reports
from reports.visual.core.style import Picture
from reports.visual.cross_correlation import colour_map
from rundir.read import Problem, read_runs

TEMPLATES = Path(__file__).parent / "templates"
#: Tables of at most this many rows are open when the page loads.
OPEN_ROWS = 40
#: Names of a report's tables and figures, or their beginnings; pictures of runs have their kinds' names.
OUR_NAMES = (
    *("results", "differences", "measurements", "cost", "options", "protocols", "provenance", "problems"),
    *("published", "speed", "intervals", "cost-and-accuracy", "segmentation", "class-iou", "confusion"),
    *("training-loss", "knn-over-epochs", "cross-correlation", "collapse"),
)


@dataclass(frozen=True)
class Part:
    """The section of one test set."""

    comparison: Comparison
    findings: list[summary.Finding]
    results: Table
    tests: Table
    measurements: Table
    pictures: list[Picture]


def write_report(paths: Sequence[Path], out: Path, title: str, generated: str | None, palette: str) -> Path:
    """See ``reports.build_report``."""
    colour_map(palette)  # refuse an unknown palette before reading
    directories = [path for path in paths if not path.is_file()]
    if not directories:
        raise UserError("report: no run directory was given; name at least one")
    every_run, problems = read_runs(directories)
    if not every_run:
        first = f"{problems[0].where}: {problems[0].what}" if problems else "nothing there"
        raise UserError(f"report: none of the {len(directories)} directories given is a readable run ({first})")
    runs, notes = without_duplicates(every_run)
    problems += notes
    problems += [
        Problem(str(run.path), f"warning during training: {warning}") for run in runs for warning in run.warnings
    ]
    rows = rows_of(runs)
    # Rows are made once, so their names are the same all over the page.
    measured = [replace(row, runs=finished) for row in rows if (finished := [run for run in row.runs if run.finished])]
    comparisons = compare(measured)

    look = Look(rows)
    parts = [
        _part(part, f"-{_slug(part.data)}-{number}" if len(comparisons) > 1 else "", look, problems)
        for number, part in enumerate(comparisons, 1)
    ]
    during = [training.training_curves(rows, look), training.knn_curves(rows, look)]
    inside = [training.cross_correlation(rows, problems, palette), training.collapse(rows, look)]
    inside += pictures_of_runs(rows, problems)
    published = tables_of(every_run, problems)
    speed = speed_tables([path for path in paths if path.is_file()], problems)
    tables = {
        "cost": row_tables.costs(measured) if measured else None,
        "options": row_tables.options(rows),
        "protocols": row_tables.protocols(comparisons),
        "provenance": provenance(rows),
        "problems": _problems(problems),
    }
    during, inside = ([picture for picture in made if picture] for made in (during, inside))
    page = _render(
        title=title,
        date=generated if generated is not None else max((run.newest for run in runs), default="")[:10],
        overview=summary.overview(runs, rows, comparisons),
        limits=summary.limits(measured, comparisons, problems),
        parts=parts,
        published=published,
        speed=speed,
        training=during,
        inside=inside,
        tables=tables,
        commands=[(row, [(str(run.path), command(run)) for run in row.runs]) for row in rows],
        problems=problems,
    )
    every_table = [table for part in parts for table in (part.results, part.tests, part.measurements)]
    every_table += published + speed + [table for table in tables.values() if table]
    try:
        _write_files(out, every_table, [picture for part in parts for picture in part.pictures] + during + inside)
        write_text(out / "index.html", page)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error
    return out / "index.html"


def _part(comparison: Comparison, suffix: str, look: Look, problems: list[Problem]) -> Part:
    results = comparison_tables.results(comparison, f"results{suffix}")
    made = (
        intervals(comparison, look, f"intervals{suffix}"),
        cost_and_accuracy(comparison, look, f"cost-and-accuracy{suffix}"),
        *segmentation.pictures(comparison, suffix, problems),
    )
    return Part(
        comparison,
        summary.findings(comparison),
        results,
        comparison_tables.differences(comparison, f"differences{suffix}"),
        comparison_tables.measurements(comparison, f"measurements{suffix}"),
        [picture for picture in made if picture],
    )


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"


def _problems(problems: Sequence[Problem]) -> Table:
    return Table(
        "problems",
        "Problems",
        "Directories and files that could not be used as they are, copies that were left out, and warnings of the runs themselves.",
        headings_of(("Where", "What")),
        [[text(problem.where), text(problem.what)] for problem in problems],
    )


def _write_files(out: Path, tables: Sequence[Table], pictures: Sequence[Picture]) -> None:
    """Write tables and figures, and remove the other ones of an earlier report."""
    files: dict[Path, bytes] = {}
    for table in tables:
        for ending, form in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
            files[out / "tables" / f"{table.name}.{ending}"] = form(table).encode()
    for picture in pictures:
        files[out / "figures" / f"{picture.name}.png"] = picture.png
        files[out / "figures" / f"{picture.name}.pdf"] = picture.pdf
    for path, content in files.items():
        with atomic_file(path) as file:
            file.write(content)
    # Files with names that reports do not use stay.
    names = [*OUR_NAMES, *(kind.replace("_", "-") for kind in for_reports())]
    for folder, endings in (("tables", (".csv", ".md", ".tex")), ("figures", (".png", ".pdf"))):
        for path in (out / folder).glob("*"):
            ours = path.suffix in endings and any(f"{path.stem}-".startswith(f"{name}-") for name in names)
            if ours and path not in files:
                path.unlink()


def _render(**values: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    # A second lock beside escaping: only this script may run, and nothing may be loaded.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=digest,
        open_rows=OPEN_ROWS,
        **values,
    )
