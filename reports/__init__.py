"""Run directories in; tables, statistics, figures and one HTML page out. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def build_report(
    run_dirs: Sequence[Path | str],
    out: Path | str,
    title: str = "Comparison",
    generated: str | None = None,
    palette: str = "diverging",
) -> Path:
    """Write the report of some run directories: ``index.html``, ``tables/*.csv|md|tex`` and ``figures/*.png|pdf``.

    The same directories give the same bytes: the only date on the page is the newest one that the runs carry.

    Args:
        run_dirs: run directories, or folders of them; also copies from other machines; beside them any ``bench.json`` of
            ``python -m benchmarks.run``. What cannot be read is listed in the
            report's problems and does not stop it.
        out: folder to write into; files of an earlier report there are replaced.
        title: heading of the page.
        generated: a date to print instead of the newest of the runs.
        palette: of cross-correlations: ``diverging`` (white at 0), or ``study`` (cyan at 0, red at 1).

    Returns:
        the page's path.

    Raises:
        UserError: no directory was given, none of them is a run, or ``out`` cannot be written.
        UsageError: unknown ``palette``.
    """
    from reports.page.page import write_report

    return write_report([Path(path) for path in run_dirs], Path(out), title, generated, palette)
