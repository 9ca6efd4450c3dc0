"""Where a run comes from: ``environment.json`` (code, packages, hardware, command), and for a row of a published table
``reproduces.json``:

    {"table": "dino/table2", "row": "DINO ViT-S", "part": "imagenet", "changed": {"epochs": 2}}

``changed`` holds the options that differ from the table's own and change what is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError, why
from common.files import read_json, write_json
from rundir.paths import ENVIRONMENT, REPRODUCES


def write_environment(run: Path, environment: dict[str, Any], resumed_after: int | None = None) -> None:
    """Write ``environment.json``. If a training continues after the step ``resumed_after``, keep what the first process wrote and
    list this one under ``resumed``. Raises UserError if the file is damaged."""
    file = run / ENVIRONMENT
    if resumed_after is not None and file.exists():
        try:
            first = read_json(file)
            first.setdefault("resumed", []).append({"step": resumed_after, **environment})
        except (ValueError, AttributeError) as error:
            raise UserError(f"{file}: damaged ({why(error)}); delete it, and the same command continues") from error
        environment = first
    write_json(file, environment)


def read_environment(run: Path) -> dict[str, Any]:
    """Read ``environment.json``, {} if it is missing. Raises OSError or ValueError if it is damaged."""
    return _read_mapping(run / ENVIRONMENT)


def write_mark(run: Path, mark: dict[str, Any]) -> None:
    """Write ``reproduces.json``."""
    write_json(run / REPRODUCES, mark)


def read_mark(run: Path) -> dict[str, Any]:
    """Read ``reproduces.json``, {} if it is missing. Raises OSError or ValueError if it is damaged."""
    mark = _read_mapping(run / REPRODUCES)
    names = [mark.get(name) or "" for name in ("table", "row", "part")]
    if not isinstance(mark.get("changed", {}), dict) or not all(isinstance(name, str) for name in names):
        raise ValueError("it does not say which published row this reproduces")
    return mark


def _read_mapping(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    return content
