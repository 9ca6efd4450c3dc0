"""Write the page and the files beside it from run directories."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from common.errors import UserError, why
from common.files import atomic_file, write_text
from common.names import slug
from reports.analysis.comparison import Comparison, compare
from reports.analysis.identity import fill_in_defaults, without_duplicates
from reports.analysis.latex import to_latex
from reports.analysis.published import PublishedTable
from reports.analysis.reproduction import reproduced, side_by_side
from reports.analysis.robustness import Distribution, differences, distributions
from reports.analysis.rows import Row, rows_of
from reports.analysis.tables import Table, headings_of, text, to_csv, to_markdown
from reports.figures import segmentation, training
from reports.figures.ablation import ablations
from reports.figures.comparison import cost_and_accuracy, intervals
from reports.figures.look import Look
from reports.figures.robustness import over_settings
from reports.page import comparison_tables, paper, robustness, row_tables, summary
from reports.page.classes import of_classes
from reports.page.inside import pictures as pictures_of_runs
from reports.page.protocol import protocol
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
    *(
        "published",
        "paper",
        "effects",
        "evaluation-protocol",
        "references",
        "classes",
        "seeds",
        "speed",
        "intervals",
        "ablation",
        "cost-and-accuracy",
        "segmentation",
        "class-iou",
        "confusion",
        "robustness",
    ),
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
    for_papers: list[Table]
    robustness: list[Table]
    spreads: list[Distribution]


def write_report(
    paths: Sequence[Path],
    out: Path,
    title: str,
    generated: str | None,
    palette: str,
    choice: paper.Choice,
    class_names: Path | str | None = None,
) -> Path:
    """See ``reports.build_report``."""
    colour_map(palette)  # refuse an unknown palette before reading
    directories = [path for path in paths if not path.is_file()]
    if not directories:
        raise UserError("report: no run directory was given; name at least one")
    every_run, problems = read_runs(directories)
    if not every_run:
        first = f"{problems[0].where}: {problems[0].what}" if problems else "nothing there"
        raise UserError(f"report: none of the {len(directories)} directories given is a readable run ({first})")
    fill_in_defaults(every_run)
    runs, notes = without_duplicates(every_run)
    problems += notes
    problems += [
        Problem(str(run.path), f"warning during training: {warning}") for run in runs for warning in run.warnings
    ]
    rows = rows_of(runs)
    # Rows are made once, so their names are the same all over the page.
    measured = [replace(row, runs=finished) for row in rows if (finished := [run for run in row.runs if run.finished])]
    comparisons = compare(measured)
    shown = {id(run) for comparison in comparisons for row in comparison.rows for run in row.runs}
    failed = [
        row for row in rows if any(run.failure for run in row.runs) and not any(id(run) in shown for run in row.runs)
    ]
    failures = comparison_tables.failures(rows)
    choice.check(comparisons)
    reproduces = reproduced(every_run, problems)
    published = [side_by_side(table, [run for run in every_run if run.reproduces]) for table in reproduces]

    look = Look(rows)
    parts = [
        _part(part, suffix, look, problems, choice, reproduces, failed, failures, class_names, rows)
        for number, part in enumerate(comparisons, 1)
        for suffix in [f"-{slug(part.data) or 'data'}-{number}" if len(comparisons) > 1 else ""]
    ]
    during = [training.training_curves(rows, look), training.knn_curves(rows, look)]
    inside = [training.cross_correlation(rows, problems, palette), training.collapse(rows, look)]
    inside += pictures_of_runs(rows, problems)
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
        limits=summary.limits(measured, comparisons, problems)
        + robustness.left_out(rows, [one for part in parts for one in part.spreads]),
        parts=parts,
        published=published,
        speed=speed,
        training=during,
        inside=inside,
        tables=tables,
        commands=[(row, [(str(run.path), command(run)) for run in row.runs]) for row in rows],
        problems=problems,
    )
    every_table = [
        table
        for part in parts
        for table in (part.results, *part.robustness, part.tests, part.measurements, *part.for_papers)
    ]
    every_table += [paper.seeds(comparisons)] if comparisons else []
    every_table += published + speed + [table for table in tables.values() if table]
    texts: dict[str, str] = {}
    if comparisons:
        texts["evaluation-protocol.tex"], texts["references.bib"] = protocol(measured, comparisons)
    try:
        _write_files(
            out, texts, every_table, [picture for part in parts for picture in part.pictures] + during + inside
        )
        write_text(out / "index.html", _as_bytes(page).decode())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({why(error)}); give another folder") from error
    return out / "index.html"


def _part(
    comparison: Comparison,
    suffix: str,
    look: Look,
    problems: list[Problem],
    choice: paper.Choice,
    reproduces: Sequence[PublishedTable],
    failed: Sequence[Row],
    failures: Sequence[str],
    class_names: Path | str | None,
    rows: Sequence[Row],
) -> Part:
    results = comparison_tables.results(comparison, f"results{suffix}", failed, failures)
    spreads = distributions(comparison, rows)
    of_spreads = (
        robustness.over_settings(comparison, spreads, f"robustness{suffix}"),
        robustness.differences(comparison, differences(spreads), f"robustness-differences{suffix}"),
    )
    made = (
        intervals(comparison, look, f"intervals{suffix}"),
        *ablations(comparison, look, suffix),
        over_settings(comparison, spreads, look, f"robustness{suffix}"),
        cost_and_accuracy(comparison, look, f"cost-and-accuracy{suffix}"),
        *segmentation.pictures(comparison, suffix, problems),
    )
    for_papers = (
        paper.results(comparison, f"paper{suffix}", choice, reproduces),
        paper.effects(comparison, f"effects{suffix}"),
        *of_classes(comparison, suffix, problems, class_names),
    )
    return Part(
        comparison,
        summary.findings(comparison),
        results,
        comparison_tables.differences(comparison, f"differences{suffix}"),
        comparison_tables.measurements(comparison, f"measurements{suffix}"),
        [picture for picture in made if picture],
        [table for table in for_papers if table],
        [table for table in of_spreads if table],
        spreads,
    )


def _problems(problems: Sequence[Problem]) -> Table:
    return Table(
        "problems",
        "Problems",
        "Directories and files that could not be used as they are, copies that were left out, and warnings of the runs themselves.",
        headings_of(("Where", "What")),
        [[text(problem.where), text(problem.what)] for problem in problems],
    )


def _write_files(out: Path, texts: Mapping[str, str], tables: Sequence[Table], pictures: Sequence[Picture]) -> None:
    """Write texts and tables, and figures, and remove the other ones of an earlier report."""
    files = {out / "tables" / name: _as_bytes(content) for name, content in texts.items()}
    for table in tables:
        for ending, form in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
            if ending in table.files:
                files[out / "tables" / f"{table.name}.{ending}"] = _as_bytes(form(table))
    for picture in pictures:
        files[out / "figures" / f"{picture.name}.png"] = picture.png
        files[out / "figures" / f"{picture.name}.pdf"] = picture.pdf
    for path, content in files.items():
        with atomic_file(path) as file:
            file.write(content)
    # Files with names that reports do not use stay.
    names = [*OUR_NAMES, *(kind.replace("_", "-") for kind in for_reports())]
    for folder, endings in (("tables", (".csv", ".md", ".tex", ".bib")), ("figures", (".png", ".pdf"))):
        for path in (out / folder).glob("*"):
            ours = path.suffix in endings and any(f"{path.stem}-".startswith(f"{name}-") for name in names)
            if ours and path not in files:
                path.unlink()


def _as_bytes(text: str) -> bytes:
    """Encode text, and write out what UTF-8 lacks: bytes of names that are none, halves of characters in others' files."""
    return text.encode(errors="backslashreplace")


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
