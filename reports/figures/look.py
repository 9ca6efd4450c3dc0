"""The looks of rows, the width and the legend of all figures of a report."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.names import short_names
from reports.analysis.rows import Row
from reports.visual.core.style import COLOURS, DASHES, FAINT, MARKERS

#: Inches.
WIDTH = 8.4
#: Limits of rows in a figure, and of letters of a name beside a drawing.
MOST_ROWS, MOST_LETTERS = 24, 40
#: Inches of a legend's column beside its words, and of a letter.
HANDLE, LETTER = 0.6, 0.075


class Look:
    """A colour per method, a marker and dash per backbone, a dash per variant, the same in all figures of a report."""

    def __init__(self, rows: Sequence[Row]):
        self._methods = list(dict.fromkeys(row.method for row in rows if row.trained))
        self._backbones = list(dict.fromkeys(row.backbone for row in rows))
        self._variants: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            self._variants.setdefault((row.method, row.backbone), []).append(row.variant)

    def colour(self, row: Row) -> str:
        if not row.trained:
            return FAINT
        return COLOURS[self._methods.index(row.method) % len(COLOURS)]

    def marker(self, row: Row) -> str:
        return MARKERS[self._backbones.index(row.backbone) % len(MARKERS)]

    def dash(self, row: Row) -> object:
        return DASHES[self._variants[row.method, row.backbone].index(row.variant) % len(DASHES)]

    def backbone_dash(self, row: Row) -> object:
        return DASHES[self._backbones.index(row.backbone) % len(DASHES)]

    def legend(self, figure: Figure, rows: Sequence[Row], lines: bool | None) -> None:
        """Put methods' colours below the axes, and several backbones' dashes (``lines``), markers (False) or nothing (None)."""
        methods = list({row.method: row for row in reversed(rows)}.values())[::-1]
        labels = short_names([row.method_name for row in methods], MOST_LETTERS)
        handles = [
            Line2D([], [], color=self.colour(row), lw=2.4, label=label)
            for row, label in zip(methods, labels, strict=True)
        ]
        backbones = list({row.backbone: row for row in reversed(rows)}.values())[::-1]
        if len(backbones) > 1 and lines is not None:
            labels = short_names([row.backbone for row in backbones], MOST_LETTERS)
            for row, label in zip(backbones, labels, strict=True):
                more = {"ls": self.backbone_dash(row)} if lines else {"ls": "", "marker": self.marker(row), "ms": 5}
                handles.append(Line2D([], [], color=FAINT, lw=1.3, label=label, **more))
        columns = min(5, columns_of_legend(figure, [handle.get_label() for handle in handles]))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2, columnspacing=1.4)


def columns_of_legend(figure: Figure, labels: Sequence[str]) -> int:
    """How many columns of a legend's labels a figure is wide enough for."""
    most = int(figure.get_figwidth() / (HANDLE + LETTER * max(map(len, labels))))
    return min(len(labels), max(1, most))


def left_out(dropped: int) -> str:
    """Make a sentence for captions, or ""."""
    return f" {dropped} more are not drawn." if dropped else ""
