"""What all pictures share: heading and caption, panels of images, and files that are whole or absent."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from common.files import atomic_file
from reports.visual.style import INK, RULE, style, without_formulas

#: Dots per inch of the PNG files.
DPI = 200
#: Characters of a caption's line for each inch of the figure's width.
CHARACTERS_PER_INCH = 15.5


def headed(figure: Figure, title: str, caption: str) -> Figure:
    """Put a title (first line bold: what; the rest: of which weights and data) above, and a caption below."""
    width = figure.get_figwidth()
    first, _, rest = title.partition("\n")
    figure.suptitle(
        "\n".join(textwrap.wrap(first, int(width * 11))), x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK
    )
    below = "\n".join(
        line for part in (rest, caption) if part for line in textwrap.wrap(part, int(width * CHARACTERS_PER_INCH))
    )
    if below:
        figure.supxlabel(below, x=0.01, ha="left", fontsize=7.5, color=INK, linespacing=1.35)
    return figure


def grid(lines: int, columns: int, width: float, height: float, **more: Any) -> tuple[Figure, np.ndarray]:
    """A figure of ``lines × columns`` panels of ``width × height`` inches each. Returns it and the axes ``[lines, columns]``."""
    size = (max(columns * width, 4.2), lines * height + 0.75)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", **more)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    return figure, axes


def show(
    axis: Axes, image: np.ndarray | None, title: str = "", colour: str = RULE, width: float = 0.7, **more: Any
) -> Any:
    """Draw an image (or none) without ticks in a thin frame of ``colour``; returns matplotlib's image."""
    axis.grid(visible=False)
    if image is None:
        axis.set_axis_off()
        return None
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)
    if title:
        axis.set_title(title, loc="center", fontsize=7.5, fontweight="normal", color=INK, pad=2.5)
    return axis.imshow(image, **{"interpolation": "nearest", **more})


def short(name: str, most: int = 24) -> str:
    """A name cut in its middle."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def file_stem(name: str) -> str:
    """A name as (part of) a file's name."""
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "_", name).strip("_.") or "picture"


def save_figure(figure: Figure, folder: Path, stem: str, vector: bool = False) -> list[Path]:
    """Write ``stem.png``, and ``stem.pdf`` too where lines and text are most of it; close the figure."""
    written = []
    with style():
        without_formulas(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # solved once, for both files
        for suffix in ("png", "pdf") if vector else ("png",):
            content = io.BytesIO()
            metadata = {"CreationDate": None} if suffix == "pdf" else {}
            figure.savefig(content, format=suffix, dpi=DPI, facecolor="white", metadata=metadata)
            path = Path(folder) / f"{stem}.{suffix}"
            with atomic_file(path) as file:
                file.write(content.getvalue())
            written.append(path)
    plt.close(figure)
    return written


def save_gif(frames: Iterable[np.ndarray], path: Path, seconds: float) -> Path:
    """Write frames (uint8 ``[H, W, 3]``, of one size) as an animation that repeats; each is shown for ``seconds``."""
    images = [
        Image.fromarray(frame).quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE) for frame in frames
    ]
    with atomic_file(path) as file:
        images[0].save(
            file, "GIF", save_all=True, append_images=images[1:], duration=max(20, round(1000 * seconds)), loop=0
        )
    return path


def rendered(figure: Figure, dpi: int = 110) -> np.ndarray:
    """The figure's pixels on white, uint8 ``[H, W, 3]``."""
    without_formulas(figure)
    figure.set_facecolor("white")
    figure.set_dpi(dpi)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def even(count: int, most: int) -> list[int]:
    """At most ``most`` places, evenly spaced in ``range(count)``, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def sentence(words: str) -> str:
    """Words with a capital first letter."""
    return words[:1].upper() + words[1:]
