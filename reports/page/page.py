"""From run directories to the page and the files beside it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jinja2

from common.errors import UserError
from common.files import atomic_file, write_text
from reports.analysis.comparison import Comparison, compare
from reports.analysis.identity import without_duplicates
from reports.analysis.reproduction import tables_of
from reports.analysis.rows import rows_of
from reports.analysis.tables import Heading, Table, text, to_csv, to_latex, to_markdown
from reports.figures import figures, segmentation
from reports.page import comparison_tables, row_tables, summary
from reports.page.inside import pictures as pictures_of_runs
from reports.page.provenance import commands, provenance
from reports.page.speed import speed_tables
from reports.visual.core.base import for_reports
from reports.visual.core.style import Picture
from reports.visual.cross_correlation import colour_map
from rundir.read import Problem, read_runs

TEMPLATES = Path(__file__).parent / "templates"
#: Tables of at most this many rows are open when the page loads.
OPEN_ROWS = 40


@dataclass
class Part:
    """What is shown of one test set."""

    comparison: Comparison
    findings: list[summary.Finding]
    results: Table
    tests: Table
    measurements: Table
    pictures: list[Picture] = field(default_factory=list)


def write_report(paths: Sequence[Path], out: Path, title: str, generated: str | None, palette: str) -> Path:
    """See ``reports.build_report``."""
    colour_map(palette)  # raises for an unknown one
    directories = [path for path in paths if not path.is_file()]
    if not directories:
        raise UserError("report: no run directory was given; name at least one")
    found, problems = read_runs(directories)
    if not found:
        first = f"{problems[0].where}: {problems[0].what}" if problems else "nothing there"
        raise UserError(f"report: none of the {len(directories)} directories given is a readable run ({first})")
    runs, notes = without_duplicates(found)
    problems += notes
    problems += [
        Problem(str(run.path), f"warning during training: {warning}") for run in runs for warning in run.warnings
    ]
    rows = rows_of(runs)
    # The same rows, so that their names are the same everywhere on the page.
    measured = [replace(row, runs=finished) for row in rows if (finished := [run for run in row.runs if run.finished])]
    comparisons = compare(measured)

    look = figures.Look(rows)
    parts = []
    for number, comparison in enumerate(comparisons):
        suffix = f"-{_slug(comparison.data)}-{number + 1}" if len(comparisons) > 1 else ""
        part = Part(
            comparison,
            summary.findings(comparison),
            comparison_tables.results(comparison, f"results{suffix}"),
            comparison_tables.differences(comparison, f"differences{suffix}"),
            comparison_tables.measurements(comparison, f"measurements{suffix}"),
        )
        made = (
            figures.intervals(comparison, look, f"intervals{suffix}"),
            figures.cost_and_accuracy(comparison, look, f"cost-and-accuracy{suffix}"),
            *segmentation.pictures(comparison, suffix, problems),
        )
        part.pictures = [picture for picture in made if picture]
        parts.append(part)
    training = [p for p in (figures.training_curves(rows, look), figures.knn_curves(rows, look)) if p]
    inside = [p for p in (figures.cross_correlation(rows, problems, palette), figures.collapse_signs(rows, look)) if p]
    looked = pictures_of_runs(rows, problems)
    published = tables_of(found, problems)
    speed = speed_tables([path for path in paths if path.is_file()], problems)
    tables = {
        "cost": row_tables.costs(measured) if measured else None,
        "options": row_tables.options(rows),
        "protocols": row_tables.protocols(comparisons),
        "provenance": provenance(rows),
        "problems": _problems(problems),
    }
    every = [table for part in parts for table in (part.results, part.tests, part.measurements)]
    every += published + speed + [table for table in tables.values() if table]
    pictures = [picture for part in parts for picture in part.pictures] + training + inside + looked
    page = _render(
        title=title,
        date=generated if generated is not None else max((run.newest for run in runs), default="")[:10],
        overview=summary.overview(runs, rows, comparisons),
        limits=summary.limits(measured, comparisons, problems),
        parts=parts,
        published=published,
        speed=speed,
        training=training,
        inside=inside + looked,
        tables=tables,
        commands=[(row, commands(row)) for row in rows],
        problems=problems,
    )
    try:
        _write_files(out, every, pictures)
        write_text(out / "index.html", page)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); give another folder") from error
    return out / "index.html"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"


def _problems(problems: Sequence[Problem]) -> Table:
    return Table(
        "problems",
        "Problems",
        "Directories and files that could not be used as they are, copies that were left out, and warnings of the runs themselves.",
        [Heading("Where"), Heading("What")],
        [[text(problem.where), text(problem.what)] for problem in problems],
    )


def _write_files(out: Path, tables: Sequence[Table], pictures: Sequence[Picture]) -> None:
    """Write tables and figures; those of an earlier report that this one does not have are removed."""
    kept: set[Path] = set()
    for table in tables:
        for ending, form in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
            path = out / "tables" / f"{table.name}.{ending}"
            write_text(path, form(table))
            kept.add(path)
    for picture in pictures:
        for ending, content in (("png", picture.png), ("pdf", picture.pdf)):
            path = out / "figures" / f"{picture.name}.{ending}"
            with atomic_file(path) as file:
                file.write(content)
            kept.add(path)
    for folder, endings in (("tables", (".csv", ".md", ".tex")), ("figures", (".png", ".pdf"))):
        for path in sorted((out / folder).glob("*")):
            if path not in kept and path.suffix in endings and _is_ours(path.stem):
                path.unlink()


def _is_ours(stem: str) -> bool:
    """A name that reports give; other files in the folder are left alone."""
    names = "results differences measurements cost options protocols provenance problems intervals cost-and-accuracy "
    names += (
        "published speed training-loss knn-over-epochs cross-correlation collapse segmentation class-iou confusion "
    )
    names += " ".join(kind.replace("_", "-") for kind in for_reports())
    return any(stem == name or stem.startswith(f"{name}-") for name in names.split())


def _render(**values: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    # Only this script may run, and nothing may be loaded: what came from outside is escaped, and this is a second lock.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=digest,
        open_rows=OPEN_ROWS,
        **values,
    )
