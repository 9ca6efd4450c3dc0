"""Looking inside networks: ``run.py visualize WHAT``. Importing this package imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from common.errors import UserError
from reports.visual.options import VisualOptions, options_for_run
from rundir.paths import pictures_of


def visualize(what: str, options: VisualOptions) -> list[Path]:
    """Make the pictures of one kind.

    Args:
        what: a name in ``reports.visual.options.VISUALIZATIONS``.
        options: of its class there.

    Returns:
        the files written.

    Raises:
        UserError: weights, data or images cannot be used, or cannot be looked at so.
    """
    try:
        return import_module(f"reports.visual.{what}").draw(options)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(f"{error.filename}: {error.strerror.lower()}; give another --out") from error


def draw_for_run(run: Path, kinds: Sequence[str]) -> None:
    """Draw what a report shows of a run, into its ``figures/``; what is there already is not drawn again. A network that cannot
    be looked at so (a ResNet has no attention) is told, and no reason to stop."""
    for what in kinds:
        if pictures_of(run, what):
            continue
        try:
            visualize(what, options_for_run(what, str(run)))
            print(f"{run.name}: {what} drawn")
        except UserError as error:
            print(f"{run.name}: no {what}: {error}")
