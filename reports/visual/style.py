"""How figures look: colours, sizes, and an SVG that takes the page's ink, so that one drawing is readable on light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.text import Text

#: Colours with a meaning of their own in the SVG: they become the page's variables there.
INK, FAINT, RULE = "#23211f", "#75716b", "#dad6ce"
_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", RULE: "var(--rule)"}
#: Okabe and Ito's palette without black and yellow (2008; distinguishable in the common colour deficiencies), its blue and
#: vermilion first; each has a contrast of at least 3 to 1 against both page colours.
COLOURS = ("#2a7fbf", "#d1660f", "#159a73", "#bb5f97", "#7d6fc4", "#a0752b", "#3f93a8", "#c04a52")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ((), (4, 1.6), (1.2, 1.2), (5, 1.2, 1.2, 1.2))

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Picture:
    """A finished figure.

    Attributes:
        name: stem of its files.
        title, caption: plain text.
        alt: what it shows, in a sentence, for who cannot see it.
        element: an ``<svg>`` or ``<img>`` for the page.
        png, pdf: files' bytes, on white.
    """

    name: str
    title: str
    caption: str
    alt: str
    element: str
    png: bytes
    pdf: bytes


def style() -> Any:
    """Context in which figures are drawn."""
    return mpl.rc_context({**mpl.rcParamsDefault, **_STYLE, "backend": "agg"})


def without_formulas(figure: Figure) -> None:
    """Have dollars in all words of a figure stand for themselves: names of methods, classes and files come from outside, and what
    is no formula between two of them would stop the drawing. Only powers at logarithmic axes stay formulas."""
    powers = {
        words
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        if axis.get_scale() == "log"
        for words in axis.findobj(Text)
    }
    for words in figure.findobj(Text):
        if words not in powers:
            words.set_parse_math(False)


def picture(figure: Figure, name: str, title: str, caption: str, alt: str) -> Picture:
    """Turn a matplotlib figure into a picture, and close it. Nothing in it depends on the time."""
    without_formulas(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is solved once, not for every format
    svg, png, pdf = io.StringIO(), io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    figure.savefig(
        pdf, format="pdf", facecolor="white", metadata={"CreationDate": None, "Creator": None, "Producer": None}
    )
    plt.close(figure)
    return Picture(name, title, caption, alt, _inline(svg.getvalue(), name, alt), png.getvalue(), pdf.getvalue())


def _inline(svg: str, name: str, alt: str) -> str:
    """An SVG file as an element of the page: its identifiers made unique, its ink the page's."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'\1="#{name}-\2"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    width, height = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
    head = re.search(r"<svg[^>]*>", svg)[0]
    wide = round(float(width) * 4 / 3)
    new = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" width="{wide}" style="--wide:{wide}px">'
    )
    return svg.replace(head, new, 1).strip()


def figure_of(panels: int, columns: int, width: float, height: float, **more: Any) -> tuple[Figure, Sequence[Any]]:
    """A figure with that many axes, ``columns`` a line; ``width`` of the whole and ``height`` of a line in inches."""
    columns = min(columns, panels)
    lines = -(-panels // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width, height * lines), squeeze=False, layout="constrained", **more
    )
    flat = list(axes.ravel())
    for unused in flat[panels:]:
        unused.set_axis_off()
    return figure, flat[:panels]
