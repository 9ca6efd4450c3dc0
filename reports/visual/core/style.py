"""The look of figures: colours, sizes, and SVGs in the page's ink, readable on light and dark."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from common.files import atomic_file

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

#: SVGs replace these colours by the page's variables.
INK, FAINT, RULE = "#23211f", "#75716b", "#dad6ce"
#: Okabe and Ito's palette (2008; for common colour deficiencies) without black and yellow, with a contrast of at least 3 to 1
#: against both page colours.
COLOURS = ("#2a7fbf", "#d1660f", "#159a73", "#bb5f97", "#7d6fc4", "#a0752b", "#3f93a8", "#c04a52")
#: Dots per inch of PNG files, and a caption's characters per inch of width.
DPI, CHARACTERS_PER_INCH = 200, 15.5
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
#: Line styles of matplotlib.
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so is the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    **dict.fromkeys(("axes.labelcolor", "axes.titlecolor", "text.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    **dict.fromkeys(("xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 3),
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Picture:
    """A finished figure: ``name`` is its files' stem, ``alt`` describes it for screen readers, ``element`` is an ``<svg>`` or
    ``<img>`` for the page, ``png`` and ``pdf`` are files' bytes, on white."""

    name: str
    title: str
    caption: str
    alt: str
    element: str
    png: bytes
    pdf: bytes


def style() -> Any:
    """Context for drawing figures."""
    return mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "backend": "agg"})


def without_formulas(figure: Figure) -> None:
    """Draw dollars in text as dollars, except for powers at logarithmic axes: names may hold dollars, and a wrong formula between
    two of them would stop the drawing."""
    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    powers = {words for axis in axes if axis.get_scale() == "log" for words in axis.findobj(Text)}
    for words in figure.findobj(Text):
        if words not in powers:
            words.set_parse_math(False)
            if (shown := readable(words.get_text())) != words.get_text():
                words.set_text(shown)


def readable(text: str) -> str:
    """Replace what no font and no terminal shows, such as the bytes of a name that is no UTF-8."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in text)


def settle(figure: Figure) -> None:
    """Solve the layout of a figure once for all files and frames."""
    without_formulas(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _encoded(figure: Figure, kind: str, dpi: int) -> bytes:
    """Encode a figure on white, without dates."""
    content = io.BytesIO()
    nothing = {"png": ["Software"], "pdf": ["CreationDate", "Creator", "Producer"]}[kind]
    figure.savefig(content, format=kind, dpi=dpi, facecolor="white", metadata=dict.fromkeys(nothing))
    return content.getvalue()


def picture(figure: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """Turn a figure into a picture, and close it."""
    settle(figure)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    files = _encoded(figure, "png", 150), _encoded(figure, "pdf", 100)
    plt.close(figure)
    return Picture(name, title, caption, alt, _inline(svg.getvalue(), name, alt), *files)


def _inline(svg: str, name: str, alt: str) -> str:
    """Turn an SVG file into an element of the page, with unique identifiers and the page's ink."""
    from markupsafe import escape

    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'(\bid="|\bhref="#|\burl\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in ((INK, "--ink"), (FAINT, "--faint"), (RULE, "--rule")):
        svg = svg.replace(colour, f"var({variable})")
    width, height = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
    head = re.search(r"<svg[^>]*>", svg)[0]
    wide = round(float(width) * 4 / 3)
    new = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" width="{wide}" style="--wide:{wide}px">'
    )
    return svg.replace(head, new, 1).strip()


def figure_of(panels: int, columns: int, width: float, height: float, **more: Any) -> tuple[Figure, Sequence[Any]]:
    """Make a figure with ``panels`` axes; ``width`` of the whole and ``height`` of a line are in inches."""
    columns = min(columns, panels)
    lines = -(-panels // columns)
    size = (width, height * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", **more)
    for unused in axes.flat[panels:]:
        unused.set_axis_off()
    return figure, axes.flat[:panels]


def headed(figure: Figure, title: str, caption: str) -> Figure:
    """Put a title (its first line bold) above, and a caption below."""
    width = figure.get_figwidth()
    first, _, rest = title.partition("\n")
    above = textwrap.fill(first, int(width * 11))
    figure.suptitle(above, x=0.01, ha="left", fontsize=10, fontweight="bold", color=INK)
    if below := "\n".join(textwrap.fill(part, int(width * CHARACTERS_PER_INCH)) for part in (rest, caption) if part):
        figure.supxlabel(below, x=0.01, ha="left", fontsize=7.5, color=INK, linespacing=1.35)
    return figure


def grid(lines: int, columns: int, width: float, height: float, **more: Any) -> tuple[Figure, np.ndarray]:
    """Make a figure with axes ``[lines, columns]``; ``width`` and ``height`` of a panel are in inches."""
    size = (max(columns * width, 4.2), lines * height + 0.75)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", **more)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    return figure, axes


def show(
    axis: Axes, image: np.ndarray | None, title: str = "", colour: str = RULE, width: float = 0.7, **more: Any
) -> Any:
    """Draw an image (or none) without ticks in a frame of ``colour``; return matplotlib's image."""
    axis.grid(visible=False)
    if image is None:
        axis.set_axis_off()
        return None
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, color=colour, linewidth=width)
    if title:
        heading(axis, title)
    return axis.imshow(image, **{"interpolation": "nearest", **more})


def heading(axis: Axes, words: str) -> None:
    """Put small words above a panel."""
    axis.set_title(words, loc="center", fontsize=7.5, fontweight="normal", color=INK, pad=2.5)


def bare(axis: Axes) -> None:
    """Remove a panel's grid, ticks and frame."""
    axis.grid(visible=False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def line_look(number: int, points: int) -> dict[str, Any]:
    """Properties of the ``number``-th line: every colour, then every colour with the next dash."""
    turn, place = divmod(number, len(COLOURS))
    marker = "o" if points < 12 else None
    return {"color": COLOURS[place], "ls": DASHES[turn % len(DASHES)], "lw": 1.4, "marker": marker, "ms": 2.6}


def colour_bar(figure: Figure, image: Any, axes: np.ndarray, ticks: Sequence[float] | None = None) -> Any:
    """Draw and return a bar of ``image``'s colours on the right of panels."""
    bar = figure.colorbar(image, ax=list(np.ravel(axes)), ticks=ticks, shrink=0.9, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    return bar


def file_stem(name: str) -> str:
    """Make a name safe for files."""
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "_", name).strip("_.") or "picture"


def save_figure(figure: Figure, folder: Path, stem: str, kinds: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write ``stem.png`` and, for papers, ``stem.pdf``, and close the figure."""
    paths = [Path(folder) / f"{stem}.{kind}" for kind in kinds]
    with style():
        settle(figure)
        for path in paths:
            with atomic_file(path) as file:
                file.write(_encoded(figure, path.suffix[1:], DPI))
    plt.close(figure)
    return paths


def save_gif(frames: Iterable[np.ndarray], path: Path, seconds: float) -> Path:
    """Write frames (uint8 ``[H, W, 3]``, of one size) as a repeating animation, ``seconds`` for each."""
    exact = {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    first, *others = [Image.fromarray(frame).quantize(256, **exact) for frame in frames]
    duration = max(20, round(1000 * seconds))
    with atomic_file(path) as file:
        first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return path


def rendered(figure: Figure, dpi: int = 110) -> np.ndarray:
    """Render a figure on white: uint8 ``[H, W, 3]``."""
    without_formulas(figure)
    figure.set_facecolor("white")
    figure.set_dpi(dpi)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def even(count: int, most: int) -> list[int]:
    """Space at most ``most`` places evenly in ``range(count)``, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()
