"""Show the pictures that ``run.py visualize`` left in run directories."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from common.errors import first_line
from common.files import size_in_words
from common.names import short
from reports.analysis.rows import Row
from reports.visual.core.base import for_reports
from reports.visual.core.style import Picture
from rundir.paths import pictures_of
from rundir.read import Problem

#: Limits of rows for each kind, and of pixels and bytes of a picture, since the page embeds all.
MOST_ROWS, MOST_PIXELS, MOST_BYTES = 6, 50_000_000, 2**22


def pictures(rows: Sequence[Row], problems: list[Problem]) -> list[Picture]:
    """Collect for each kind a picture of each row's first run that has one; unusable files and omitted rows become problems."""
    made = []
    for kind, about in for_reports().items():
        by_row = [(row, next((file for run in row.runs for file in pictures_of(run.path, kind)), None)) for row in rows]
        drawn = [(row, file) for row, file in by_row if file]
        for place, (row, file) in enumerate(drawn[:MOST_ROWS], 1):
            try:
                name = f"{kind.replace('_', '-')}-{place}"
                made.append(_picture(file, name, f"{about['title']}: {row.label}", about["caption"]))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                why = (
                    str(error) if isinstance(error, _Unusable) else f"no readable PNG ({short(first_line(error), 100)})"
                )
                problems.append(Problem(str(file), f"{why}; not shown"))
        if left := ", ".join(row.label for row, _ in drawn[MOST_ROWS:]):
            problem = f"pictures of the first {MOST_ROWS} rows are shown; those of {left} are not"
            problems.append(Problem(about["title"], problem))
    return made


def _vector(file: Path) -> bytes:
    """The PDF beside a picture; nothing where an older run has none, or no usable one."""
    pdf = file.with_suffix(".pdf")
    if not pdf.is_file() or pdf.stat().st_size > MOST_BYTES:
        return b""
    content = pdf.read_bytes()
    return content if content.startswith(b"%PDF-") else b""


class _Unusable(ValueError):
    """The reason why a file is not shown."""


def _picture(file: Path, name: str, title: str, caption: str) -> Picture:
    """Read a PNG file (other formats are refused whatever the file’s name) and the PDF beside it."""
    content = file.read_bytes() if file.stat().st_size <= MOST_BYTES else b""
    if not content:
        raise _Unusable(f"empty or larger than {size_in_words(MOST_BYTES)}")
    pdf = io.BytesIO(_vector(file))
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if image.width * image.height > MOST_PIXELS:
            raise _Unusable(f"{image.width} × {image.height} pixels are too many")
        width = image.width // 2  # pictures have twice a screen's resolution, for printing
        if not pdf.getbuffer():
            image.convert("RGB").save(pdf, "PDF", resolution=200.0, creationDate=None, modDate=None)
    element = Markup('<img alt="{}" src="data:image/png;base64,{}" width="{}" style="--wide:{}px">').format(
        title, base64.b64encode(content).decode(), width, width
    )
    return Picture(name, title, caption, title, str(element), content, pdf.getvalue())
