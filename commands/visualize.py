"""Look inside networks: one picture a file in ``reports/visual``, whose options stand in ``reports.visual.options``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from common.cli import read_command
from common.errors import UsageError, UserError, unknown_name
from reports.visual.options import VISUALIZATIONS, VisualOptions, options_for_run
from rundir.paths import pictures_of


def main(words: Sequence[str]) -> int:
    if not words:
        raise UsageError(f"visualize: what? Give one of {', '.join(VISUALIZATIONS)}")
    what, *words = words
    if what in ("-h", "--help"):
        pictures = "\n".join(f"  {name:<18} {kind.__doc__.splitlines()[0]}" for name, kind in VISUALIZATIONS.items())
        print(f"usage: run.py visualize WHAT --option value …\n\n{pictures}\n\n  python run.py visualize WHAT --help")
        return 0
    if what not in VISUALIZATIONS:
        raise unknown_name("picture", what, VISUALIZATIONS)
    options = read_command(f"visualize {what}", VISUALIZATIONS[what].__doc__, VISUALIZATIONS[what], words)
    for path in visualize(what, options):
        print(path)
    return 0


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
