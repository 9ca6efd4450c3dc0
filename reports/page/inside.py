"""Pictures that ``run.py visualize`` has left in run directories, side by side on the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from common.errors import first_line
from reports.analysis.rows import Row
from reports.visual.core.base import for_reports
from reports.visual.core.style import Picture
from rundir.paths import pictures_of
from rundir.read import Problem

#: Rows shown of each kind, and pixels and bytes of a picture, at most: the page holds them all.
MOST_ROWS, MOST_PIXELS, MOST_BYTES = 6, 50_000_000, 4_000_000


def pictures(rows: Sequence[Row], problems: list[Problem]) -> list[Picture]:
    """For each kind the first picture of each row's first run that has one.

    Args:
        rows: of the report.
        problems: gets files that are no pictures or too large, and what was left out.
    """
    made = []
    for kind, about in for_reports().items():
        found = [(row, file) for row in rows if (file := _first(row, kind)) is not None]
        for place, (row, file) in enumerate(found[:MOST_ROWS]):
            name = f"{kind.replace('_', '-')}-{place + 1}"
            picture = _read(file, name, f"{about.title}: {row.label}", about.caption, problems)
            if picture is not None:
                made.append(picture)
        if len(found) > MOST_ROWS:
            left = ", ".join(row.label for row, _ in found[MOST_ROWS:])
            problems.append(
                Problem(about.title, f"pictures of the first {MOST_ROWS} rows are shown; those of {left} are not")
            )
    return made


def _first(row: Row, kind: str) -> Path | None:
    for run in row.runs:
        if found := pictures_of(run.path, kind):
            return found[0]
    return None


def _read(file: Path, name: str, title: str, caption: str, problems: list[Problem]) -> Picture | None:
    """A PNG file as a picture of the page. What is no PNG does not get there, whatever its name."""
    try:
        content = file.read_bytes() if file.stat().st_size <= MOST_BYTES else b""
        if not content:
            problems.append(Problem(str(file), f"empty or larger than {MOST_BYTES // 10**6} MB; not shown"))
            return None
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                problems.append(Problem(str(file), f"{image.width} × {image.height} pixels are too many; not shown"))
                return None
            width = image.width // 2  # drawn for printing, at twice a screen's resolution
            pdf = io.BytesIO()
            image.convert("RGB").save(pdf, "PDF", resolution=200.0, creationDate=None, modDate=None)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        problems.append(Problem(str(file), f"no readable PNG ({first_line(error)[:100]}); not shown"))
        return None
    element = Markup('<img alt="{}" src="data:image/png;base64,{}" width="{}" style="--wide:{}px">').format(
        title, base64.b64encode(content).decode(), width, width
    )
    return Picture(name, title, caption, title, str(element), content, pdf.getvalue())
