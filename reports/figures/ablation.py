"""Draw a comparison's headline columns against each option that varies between rows, and against variants."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from common.names import short, short_names, slug
from reports.analysis.columns import Cell
from reports.analysis.comparison import Comparison
from reports.analysis.identity import IMAGES, as_text, trained_options
from reports.analysis.rows import MOST_SPELT, Row, name_in_grid, plain, variant_in_grid
from reports.figures.comparison import UNCERTAINTY, draw_intervals, limits_of, title_panel
from reports.figures.look import MOST_LETTERS, MOST_ROWS, WIDTH, Look, columns_of_legend, left_out
from reports.visual.core.style import DASHES, MARKERS, Picture, figure_of, picture, style
from rundir.options import as_number

#: Options that ``training.resolve`` derives from others where they are not given, and ``training.initial`` from ``init``.
DERIVED = {
    "warmup_epochs": "epochs",
    "weight_decay_end": "weight_decay",
    "init_sha256": "init",
    "init_labels": "init",
}
#: The axis of rows that differ in several options at once.
VARIANTS = "variant"
#: A logarithmic axis begins at this ratio of the largest to the smallest value. Ticks are this share of an axis apart, at least.
DECADE, TICK_ROOM = 10, 0.16
#: Points between the marks of lines that share a value.
DODGE = 4.0
#: Of more lines than that, only the families' means are marked.
MOST_LINES = 6


@dataclass
class Line:
    """Rows that differ in one option only, the axis: their positions by its value. The lines of a method, backbone and variant are
    of one ``family``."""

    name: str
    family: str
    values: dict[int, Any] = field(default_factory=dict)


def ablations(comparison: Comparison, look: Look, suffix: str) -> list[Picture]:
    """Draw a figure for each option in which rows of one method and backbone differ while the others stay, and for variants."""
    axes: dict[str, list[Line]] = {}
    together: dict[str, dict[str, None]] = {}
    for group in _groups(comparison.rows):
        for option, lines, along in _axes_of(comparison.rows, group):
            axes.setdefault(option, []).extend(lines)
            together.setdefault(option, {}).update(dict.fromkeys(along))
    drawn = [_draw(comparison, look, suffix, option, lines, list(together[option])) for option, lines in axes.items()]
    return [picture for picture in drawn if picture]


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Positions of the trained rows of each method and backbone."""
    groups: dict[tuple[str, str], list[int]] = {}
    for position, row in enumerate(rows):
        if row.trained:
            groups.setdefault((row.method, row.backbone), []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def _axes_of(rows: Sequence[Row], group: Sequence[int]) -> list[tuple[str, list[Line], list[str]]]:
    """The varied options of a group, each with its lines, and with the options that change along with it."""
    options = {i: {**trained_options(rows[i].runs[0]), "data": rows[i].data} for i in group}
    keys = dict.fromkeys(key for of_row in options.values() for key in of_row if key != IMAGES)
    texts = {key: {i: as_text(options[i].get(key)) for i in group} for key in keys}
    differing = [key for key in keys if len(set(texts[key].values())) > 1]
    names = {i: name_in_grid(rows[i]) for i in group}
    named = {option for i in group for option in variant_in_grid(rows[i])[1]}
    axes, covered = [], set()
    for option in [key for key in differing if key in named] or differing:
        if DERIVED.get(option) in differing and option not in named:
            continue
        along = [key for key in differing if key not in (option, *named) and _follows(texts[key], texts[option])]
        if not named:
            along = [key for key in along if DERIVED.get(key) == option]
        rest = [key for key in differing if key != option and key not in along]
        parts: dict[tuple[str, ...], list[int]] = {}
        for i in group:
            parts.setdefault(tuple(texts[key][i] for key in rest), []).append(i)
        lines = [
            Line(
                _line_name(rows, part, options, rest, names, option),
                ", ".join(filter(None, [_base_name(rows, part[0]), variant_in_grid(rows[part[0]])[0]])),
                {i: options[i].get(option) for i in part},
            )
            for part in parts.values()
            if len(part) > 1
        ]
        if lines:
            axes.append((option, lines, along))
            covered |= {i for line in lines for i in line.values}
    if covered != {*group}:
        name = _base_name(rows, group[0])
        axes.append((VARIANTS, [Line(name, name, _variants(rows, group))], []))
    return axes


def _follows(texts: Mapping[int, str], leading: Mapping[int, str]) -> bool:
    """Whether one option's value is fixed by another's."""
    return len({(leading[i], texts[i]) for i in texts}) == len(set(leading.values()))


def _base_name(rows: Sequence[Row], position: int) -> str:
    """The method, and the backbone where trained rows have several."""
    several = len({row.backbone for row in rows if row.trained}) > 1
    return ", ".join([rows[position].method_name, *([rows[position].backbone] if several else [])])


def _line_name(
    rows: Sequence[Row],
    part: Sequence[int],
    options: Mapping[int, Mapping[str, Any]],
    rest: Sequence[str],
    names: Mapping[int, str],
    option: str,
) -> str:
    """The method, and the backbone and the other varied options that set a line apart from others."""
    first = part[0]
    own = [key for key in rest if DERIVED.get(key) not in rest]
    if len(own) <= MOST_SPELT:
        words = [f"{key} {plain(options[first].get(key))}" for key in own]
    else:
        words = [re.sub(rf"(^|-){re.escape(option)}=.*?(?=-[a-z]\w*=|$)", "", names[first]) or rows[first].variant]
    return ", ".join([_base_name(rows, first), *filter(None, words)])


def _variants(rows: Sequence[Row], group: Sequence[int]) -> dict[int, str]:
    """The rows' variants where they tell the rows apart, else with their data."""
    if len({rows[i].variant for i in group}) == len(group):
        return {i: rows[i].variant or "as given" for i in group}
    return {i: ", ".join(filter(None, (rows[i].variant, rows[i].data))) for i in group}


class _Scale:
    """An axis of an option's values: numeric, logarithmic where it spans a decade, else categories."""

    def __init__(self, values: Sequence[Any]):
        numbers = [as_number(value) for value in values]
        self.is_numeric = all(number is not None and math.isfinite(number) for number in numbers)
        self.values = dict.fromkeys(sorted({*numbers}) if self.is_numeric else map(plain, values))
        self._names = {value: i for i, value in enumerate(self.values)}
        positive = [value for value in self.values if self.is_numeric and value > 0]
        self._least = min(positive, default=0.0)
        wide = len(positive) > 1 and max(positive) >= DECADE * self._least * (1 - 1e-9)
        self._log = self.is_numeric and wide and min(self.values) >= 0

    def place(self, value: Any) -> float:
        """Where a value lies along the axis: the numbers' logarithm where that spreads them, categories by their order. A zero
        lies a decade below the smallest number."""
        if not self.is_numeric:
            return float(self._names[plain(value)])
        if not self._log:
            return float(value)
        return math.log10(value) if value > 0 else math.log10(self._least) - 1

    def apply(self, axis: Axes, option: str) -> None:
        """Set the ticks, at the values where there is room, and the limits."""
        places = [self.place(value) for value in self.values]
        low, high = min(places), max(places)
        span = high - low or 1.0
        if self.is_numeric:
            ticks = [0]
            for i in range(1, len(places)):
                if places[i] - places[ticks[-1]] >= TICK_ROOM * span:
                    ticks.append(i)
            axis.set_xticks([places[i] for i in ticks], [plain(list(self.values)[i]) for i in ticks])
            axis.set_xlabel(f"{option} (log scale)" if self._log else option)
        else:
            words = short_names(list(self.values), 28)
            turned = max(map(len, words)) * len(words) > 30
            axis.set_xticks(
                places, words, **({"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if turned else {})
            )
            axis.set_xlabel(option)
        axis.set_xlim(low - 0.12 * span, high + 0.12 * span)


def _draw(
    comparison: Comparison, look: Look, suffix: str, option: str, lines: Sequence[Line], along: Sequence[str]
) -> Picture | None:
    """Draw the headline columns against an option."""
    cells = {column: comparison.column(column) for column in comparison.headline}
    columns = [c for c in comparison.headline if any(sum(i in cells[c] for i in line.values) > 1 for line in lines)]
    if not columns:
        return None
    families: dict[str, list[Line]] = {}
    for line in lines:
        families.setdefault(line.family, []).append(line)
    # Twelve lines with their intervals hide each other: then a family's lines are thin, and their mean is what is marked.
    by_family = len(lines) > MOST_LINES and len(families) < len(lines)
    entries = list(families.items()) if by_family else [(line.name, [line]) for line in lines]
    dropped = sum(len(line.values) for _, several in entries[MOST_ROWS:] for line in several)
    entries = entries[:MOST_ROWS]
    scale = _Scale([value for line in lines for value in line.values.values()])
    names = short_names([name for name, _ in entries], MOST_LETTERS)
    turns: dict[str, int] = {}
    with style():
        width = WIDTH if len(columns) > 1 else 4.6
        figure, axes = figure_of(len(columns), 3 if len(columns) > 2 else 2, width, 3.0)
        for number, ((_, several), name) in enumerate(zip(entries, names, strict=True)):
            row = comparison.rows[next(iter(several[0].values))]
            turn = turns[row.method] = turns.get(row.method, -1) + 1
            drawing = {"color": look.colour(row), "ls": DASHES[turn % len(DASHES)] if scale.is_numeric else ""}
            mark = MARKERS[turn % len(MARKERS)]
            for axis, column in zip(axes, columns, strict=True):
                if by_family:
                    _draw_family(axis, [_points(line, cells[column], scale) for line in several], drawing, mark)
                else:
                    shift = ScaledTranslation(DODGE * (number - (len(lines) - 1) / 2) / 72, 0, figure.dpi_scale_trans)
                    _draw_line(axis, _points(several[0], cells[column], scale), drawing, mark, axis.transData + shift)
            axes[0].plot([], [], marker=mark, ms=5, lw=1.3, label=name, **drawing)
        for axis, column in zip(axes, columns, strict=True):
            title_panel(axis, comparison, column)
            scale.apply(axis, option)
            shown: Collection[Cell] = [cells[column][i] for line in lines for i in line.values if i in cells[column]]
            if by_family:
                axis.margins(y=0.1)
            else:
                axis.set_ylim(*limits_of(shown))
        figure.legend(loc="outside lower center", ncols=min(3, columns_of_legend(figure, names)), handlelength=3)
        what = "the variants" if option == VARIANTS else option
        measured = ", ".join(comparison.columns[column].name for column in columns)
        lines_are = (
            f"Thin lines: rows of one method, backbone and variant that differ in {option} only, by their means over seeds. Thick: "
            f"the mean of those that are measured at all of {option}'s values."
            if by_family
            else f"Each line: rows of one method and backbone that differ in {'several options' if option == VARIANTS else option} "
            f"only. {UNCERTAINTY} Lines that share a value stand side by side."
        )
        return picture(
            figure,
            f"ablation-{slug(option)}{suffix}",
            f"Accuracy against {what}",
            lines_are + (f" Along with {option}, {' and '.join(along)} changes." if along else "") + left_out(dropped),
            f"{measured} against {short(what, 60)}, a line for each of {short(', '.join(names), 200)}.",
        )


def _points(line: Line, cells: Mapping[int, Cell], scale: _Scale) -> list[tuple[float, Cell]]:
    """A line's measured cells by their places along the axis."""
    points = [(scale.place(value), cells[i]) for i, value in line.values.items() if i in cells]
    return sorted(points, key=lambda point: point[0])


def _draw_family(
    axis: Axes, lines: Sequence[Sequence[tuple[float, Cell]]], drawing: Mapping[str, Any], mark: str
) -> None:
    """Draw lines thinly by their means, and the mean of those that are measured wherever any is."""
    means = [{x: cell.over_seeds.mean for x, cell in points} for points in lines]
    for line in means:
        axis.plot([*line], [*line.values()], marker=".", ms=4, mec="none", lw=0.7, alpha=0.35, **drawing)
    places = sorted({x for line in means for x in line})
    whole = [line for line in means if len(line) == len(places)]
    if whole:
        mean = [sum(line[x] for line in whole) / len(whole) for x in places]
        axis.plot(places, mean, marker=mark, ms=5, mec="none", lw=2.0, **drawing)


def _draw_line(
    axis: Axes, points: Sequence[tuple[float, Cell]], drawing: Mapping[str, Any], mark: str, shifted: Any
) -> None:
    """Draw means joined by a line, with their intervals."""
    for x, cell in points:
        draw_intervals(axis, cell, x, drawing["color"], upright=True, transform=shifted)
    means = [cell.over_seeds.mean for _, cell in points]
    axis.plot([x for x, _ in points], means, marker=mark, ms=5, mec="none", lw=1.3, transform=shifted, **drawing)
