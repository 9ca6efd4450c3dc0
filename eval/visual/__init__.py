"""Looking inside networks: ``run.py visualize WHAT``. Importing this package imports no torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from common.errors import UserError
from eval.visual.config import VisualOptions


def visualize(what: str, options: VisualOptions) -> list[Path]:
    """Make the pictures of one kind.

    Args:
        what: a name in ``eval.visual.config.VISUALIZATIONS``.
        options: of its class there.

    Returns:
        the files written.

    Raises:
        UserError: weights, data or images cannot be used, or cannot be looked at so.
    """
    try:
        return import_module(f"eval.visual.{what}").draw(options)
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise UserError(f"{error.filename}: {error.strerror.lower()}; give another --out") from error
