"""Make tables, statistics, figures and one HTML page from run directories, without torch; begin in ``page.page``. ``over_training``
is apart: it draws networks while they train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def build_report(
    run_dirs: Sequence[Path | str],
    out: Path | str,
    title: str = "Comparison",
    generated: str | None = None,
    palette: str = "diverging",
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    class_names: Path | str | None = None,
) -> Path:
    """Write the report of run directories: ``index.html``, ``tables/*.csv|md|tex`` and ``figures/*.png|pdf``.

    The same directories give the same bytes, since the page's only date is that of the newest run.

    Args:
        run_dirs: runs, or folders of runs and of ``bench.json`` files from ``python -m benchmarks.run``. The report lists
            unreadable files as problems.
        out: folder; files of an earlier report are replaced.
        generated: a date to print instead of the newest run's.
        columns, rows: what the tables for papers show, in this order (``reports.page.paper.Choice``); default: the tested columns
            and all rows.
        class_names: file of names for the classes (``common.class_names.readable``).
        palette: colours of cross-correlations: ``diverging`` (white at 0), or ``study`` (cyan at 0, red at 1).

    Returns:
        the page's path.

    Raises:
        UserError: no directory is a run, or ``out`` cannot be written.
        UsageError: unknown ``palette``, column or row.
    """
    from common.progress import working

    with working("writing the report"):
        from reports.page.page import write_report
        from reports.page.paper import Choice

        choice = Choice(columns, rows)
        return write_report(
            [Path(path) for path in run_dirs], Path(out), title, generated, palette, choice, class_names
        )
