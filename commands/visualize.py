"""Look inside networks: one picture a file in ``reports/visual``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.cli import load_plugins, read_command
from common.errors import UsageError, UserError
from common.progress import say, working
from reports.visual.core.base import VISUALIZATIONS, Visualization
from rundir.paths import pictures_of


def main(words: Sequence[str]) -> int:
    load_plugins(words)
    names = VISUALIZATIONS.names()
    if not words:
        raise UsageError(f"visualize: what? Give one of {', '.join(names)}")
    what, *words = words
    if what in ("-h", "--help"):
        pictures = "\n".join(f"  {name:<18} {VISUALIZATIONS.get(name).help()}" for name in names)
        say(f"usage: run.py visualize WHAT --option value …\n\n{pictures}\n\n  python run.py visualize WHAT --help")
        return 0
    kind = VISUALIZATIONS.get(what)
    for path in visualize(read_command(f"visualize {what}", kind.help(), kind, words)):
        say(path)
    return 0


def visualize(options: Visualization) -> list[Path]:
    """Draw the pictures of one kind, and return their files. Raises UserError if weights, data or images do not allow it."""
    try:
        name = type(options).__module__.rpartition(".")[2].replace("_", " ")
        with working(f"drawing {name}"):
            return options.draw()
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(f"{error.filename}: {error.strerror.lower()}; give another --out") from error


def draw_for_run(run: Path, kinds: Sequence[str]) -> None:
    """Draw the kinds of pictures that a run's ``figures/`` lacks, for a report. Prints why a kind cannot be drawn (a ResNet has no
    attention)."""
    for what in kinds:
        if pictures_of(run, what):
            continue
        try:
            visualize(VISUALIZATIONS.get(what).of_run(str(run)))
            say(f"{run.name}: {what} drawn")
        except UserError as error:
            say(f"{run.name}: no {what}: {error}")
