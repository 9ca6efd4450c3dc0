"""Pictures of segmentation: predictions beside the truth in VOC's palette, IoU of each class, confusion, best and worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch

from common.errors import first_line
from common.files import read_arrays
from common.images import voc_palette
from common.statistics.confusion import class_scores
from reports.analysis.comparison import Comparison
from reports.visual.core.style import FAINT, RULE, Picture, figure_of, picture, style
from rundir.paths import examples_file
from rundir.read import Problem
from rundir.results import Measurement

PREFIX = "segmentation_"
HEAD_NAMES = {
    "linear": "linear",
    "linear_pixels": "linear, pixels",
    "setr_naive": "SETR-naive",
    "setr_pup": "SETR-PUP",
    "setr_mla": "SETR-MLA",
    "deeplabv3": "DeepLabV3",
}
VOID = 255
#: Methods or heads beside each other, images below each other, and rows of the table whose best and worst images are shown.
MOST_COLUMNS, MOST_IMAGES, MOST_ROWS = 6, 6, 3
#: Best and worst images of a row.
EXTREMES = 4
#: Rows of the heatmap, and confusion matrices.
MOST_LINES, MOST_MATRICES = 30, 4


@dataclass(frozen=True)
class _Measured:
    """One row of the comparison with one head: its first seed's mIoU, and where that was written."""

    row: int
    label: str
    head: str
    result: Measurement

    @property
    def name(self) -> str:
        return HEAD_NAMES.get(self.head, self.head)


def pictures(comparison: Comparison, suffix: str, problems: list[Problem]) -> list[Picture]:
    """All pictures of segmentation on one test set; none where nothing was segmented.

    Args:
        suffix: of the pictures' names.
        problems: gets what cannot be read.
    """
    measured = _measured(comparison)
    if not measured:
        return []
    matrices = {(m.row, m.head): found for m in measured if (found := _matrices(m.result, problems)) is not None}
    examples = {m.row: found for m in measured if (found := _examples(m.result, comparison.data, problems)) is not None}
    classes = next((list(map(str, found["classes"])) for found in examples.values()), None)
    head = _commonest([m.head for m in measured])
    of_head = [m for m in measured if m.head == head and m.row in examples]
    rows = list(dict.fromkeys(m.row for m in measured if m.row in examples))
    several = [[m for m in measured if m.row == row] for row in rows]
    heads = max(several, key=len, default=[])
    title = HEAD_NAMES.get(head, head)
    made = [
        _grid(
            of_head, examples, f"segmentation-methods{suffix}", f"Segmentations by the {title} head", lambda m: m.label
        )
        if len(of_head) > 1
        else None,
        _grid(heads, examples, f"segmentation-heads{suffix}", f"Segmentations of {heads[0].label}", lambda m: m.name)
        if heads and (len(heads) > 1 or len(of_head) == 1)
        else None,
        _extremes(of_head[:MOST_ROWS], examples, f"segmentation-extremes{suffix}", title),
    ]
    if classes:
        made.append(_class_iou(measured, matrices, classes, f"class-iou{suffix}"))
        made.append(_confusion([m for m in measured if m.head == head], matrices, classes, f"confusion{suffix}", title))
    return [found for found in made if found]


def _measured(comparison: Comparison) -> list[_Measured]:
    found = []
    for place, column in enumerate(comparison.columns):
        if column.evaluation.startswith(PREFIX) and column.metric == "miou":
            variant = ", ".join(value for _, value in column.variant)
            for row, described in enumerate(comparison.rows):
                if (row, place) in comparison.cells:
                    label = ", ".join(filter(None, (described.label, variant)))
                    head = column.evaluation.removeprefix(PREFIX)
                    found.append(_Measured(row, label, head, comparison.cells[row, place].results[0]))
    return found


def _commonest(heads: Sequence[str]) -> str:
    """The head that most rows have; of several, the first in the order of ``HEAD_NAMES``."""
    order = [*HEAD_NAMES, *sorted(set(heads) - HEAD_NAMES.keys())]
    return max(order, key=lambda head: (heads.count(head), -order.index(head)))


def _matrices(result: Measurement, problems: list[Problem]) -> np.ndarray | None:
    """The data set's confusion matrix ``[C, C]``."""
    if result.predictions_file is None:
        return None
    found = _arrays(result.predictions_file, problems)
    matrices = None if found is None else found.get("confusion")
    return None if matrices is None or matrices.ndim != 3 else matrices.astype(np.int64).sum(0)


def _examples(result: Measurement, data: str, problems: list[Problem]) -> dict[str, np.ndarray] | None:
    """The pictures that the run has kept (``eval.dense.examples``)."""
    if result.predictions is None:
        return None
    file = examples_file(result.run, data)
    found = _arrays(file, problems)
    if found is not None and not {"images", "truth", "sizes", "fixed", "classes"} <= found.keys():
        problems.append(Problem(str(file), "holds no examples of segmentation; they are not shown"))
        return None
    return found


def _arrays(file: Path, problems: list[Problem]) -> dict[str, np.ndarray] | None:
    if not file.is_file():
        return None
    try:
        return read_arrays(file)
    except (OSError, ValueError) as error:
        problem = Problem(str(file), f"cannot be read ({first_line(error)[:100]}); its pictures are missing")
        if problem not in problems:
            problems.append(problem)
        return None


def coloured(classes: np.ndarray) -> np.ndarray:
    """Classes ``[H, W]`` as RGB in VOC's palette; void in its own pale colour."""
    return voc_palette()[classes]


def _grid(
    shown: Sequence[_Measured], examples: Mapping[int, Mapping[str, np.ndarray]], name: str, title: str, heading
) -> Picture | None:
    """Images below each other; beside each its truth and the predictions."""
    shown = [m for m in shown if f"predicted_{m.head}" in examples[m.row]]
    dropped = max(0, len(shown) - MOST_COLUMNS)
    shown = shown[:MOST_COLUMNS]
    if not shown:
        return None
    first = examples[shown[0].row]
    places = list(first["fixed"])[:MOST_IMAGES]
    names = {m.row: list(examples[m.row]["names"]) for m in shown}
    places = [place for place in places if all(first["names"][place] in names[m.row] for m in shown)]
    if not places:
        return None
    seen: set[int] = set()
    with style():
        columns = 2 + len(shown)
        width = min(8.4, 1.3 * columns)
        figure, axes = figure_of(len(places) * columns, columns, width, 0.98 * width / columns)
        for line, place in enumerate(places):
            height, wide = first["sizes"][place]
            panels = [first["images"][place][:height, :wide]]
            truth = first["truth"][place][:height, :wide]
            guesses = []
            for m in shown:
                other = names[m.row].index(first["names"][place])
                guesses.append(examples[m.row][f"predicted_{m.head}"][other][:height, :wide])
            for classes in (truth, *guesses):
                seen |= set(np.unique(classes).tolist())
                panels.append(coloured(classes))
            _line(axes[line * columns : (line + 1) * columns], panels)
        for axis, words in zip(axes, ("image", "truth", *map(heading, shown)), strict=False):
            axis.set_title(_wrapped(words, 18), fontsize=7.5, fontweight="normal", loc="center")
        _palette_legend(figure, seen, list(map(str, first["classes"])))
        return picture(
            figure,
            name,
            title,
            "Test images chosen for their classes before anything was predicted, so the same in every report on this test set. "
            "Colours are VOC’s; pale: void, which counts nowhere."
            + (f" {dropped} more are not drawn." if dropped else ""),
            f"Images, ground truth and predictions of {', '.join(heading(m) for m in shown)}.",
        )


def _extremes(
    shown: Sequence[_Measured], examples: Mapping[int, Mapping[str, np.ndarray]], name: str, head: str
) -> Picture | None:
    """The images with the lowest and the highest mean IoU, of each row."""
    shown = [m for m in shown if {f"worst_{m.head}", f"best_{m.head}"} <= examples[m.row].keys()]
    if not shown:
        return None
    seen: set[int] = set()
    kinds = ("image", "prediction", "truth")
    most = min(EXTREMES, *(len(examples[m.row][f"worst_{m.head}"]) for m in shown))
    with style():
        columns = 2 * most
        figure, axes = figure_of(len(shown) * 3 * columns, columns, 8.4, 8.4 / columns)
        for block, m in enumerate(shown):
            found = examples[m.row]
            places = [*found[f"worst_{m.head}"][:most], *found[f"best_{m.head}"][:most]]
            for column, place in enumerate(places):
                height, width = found["sizes"][place]
                for line, kind in enumerate(kinds):
                    axis = axes[(block * 3 + line) * columns + column]
                    if kind == "image":
                        panel = found["images"][place][:height, :width]
                        extreme = "worst" if column < most else "best"
                        iou = f"{found[f'iou_{m.head}'][place]:.0f}%"
                        axis.set_title(f"{extreme}, {iou}", fontsize=7.5, fontweight="normal", loc="center")
                    else:
                        classes = found[f"predicted_{m.head}" if kind == "prediction" else "truth"][place][
                            :height, :width
                        ]
                        seen |= set(np.unique(classes).tolist())
                        panel = coloured(classes)
                    _line([axis], [panel])
                    if column == 0:
                        words = f"{_wrapped(m.label, 16)}\n{kind}" if line == 0 and len(shown) > 1 else kind
                        axis.set_ylabel(words, fontsize=7.5)
        _palette_legend(figure, seen, list(map(str, examples[shown[0].row]["classes"])))
        return picture(
            figure,
            name,
            f"Worst and best images of the {head} head",
            "By mean IoU over the classes that are in an image or predicted there. Colours are VOC’s; pale: void."
            + ("" if len(shown) < MOST_ROWS else f" The first {MOST_ROWS} rows."),
            f"The test images with the lowest and highest IoU of {', '.join(m.label for m in shown)}.",
        )


def _class_iou(
    measured: Sequence[_Measured], matrices: Mapping[tuple[int, str], np.ndarray], classes: Sequence[str], name: str
) -> Picture | None:
    """IoU of every class, a line for each row and head."""
    lines = [m for m in measured if (m.row, m.head) in matrices and len(matrices[m.row, m.head]) == len(classes)]
    dropped = max(0, len(lines) - MOST_LINES)
    lines = sorted(lines, key=lambda m: (m.row, list(HEAD_NAMES).index(m.head) if m.head in HEAD_NAMES else 99))[
        :MOST_LINES
    ]
    if not lines:
        return None
    values = 100 * np.stack([class_scores(matrices[m.row, m.head])["iou"] for m in lines])
    with style():
        figure, (axis,) = figure_of(1, 1, 8.4, 1.3 + 0.24 * len(lines))
        shown = np.ma.masked_invalid(values)
        colours = plt.get_cmap("Blues").with_extremes(bad=RULE)
        top = max(1.0, float(shown.max()) if shown.count() else 1.0)
        axis.imshow(shown, aspect="auto", cmap=colours, vmin=0, vmax=top)
        for (line, place), value in np.ndenumerate(values):
            absent = np.isnan(value)
            ink = FAINT if absent else "white" if value > 0.6 * top else "#23211f"
            axis.text(place, line, "–" if absent else f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
        axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(lines)), [f"{m.label}, {m.name}" for m in lines])
        _bare(axis)
        return picture(
            figure,
            name,
            "IoU of each class",
            "Percent, over all pixels of the test set (first seed of each row). –: absent, neither in the masks nor predicted; it "
            "is not in the mean." + (f" {dropped} more are not drawn." if dropped else ""),
            f"Heatmap of the IoU of {len(classes)} classes for {len(lines)} rows and heads.",
        )


def _confusion(
    measured: Sequence[_Measured],
    matrices: Mapping[tuple[int, str], np.ndarray],
    classes: Sequence[str],
    name: str,
    head: str,
) -> Picture | None:
    """What pixels of each class were taken for."""
    shown = [m for m in measured if (m.row, m.head) in matrices and len(matrices[m.row, m.head]) == len(classes)]
    dropped = max(0, len(shown) - MOST_MATRICES)
    shown = shown[:MOST_MATRICES]
    if not shown:
        return None
    with style():
        columns = min(2, len(shown))
        figure, axes = figure_of(
            len(shown), columns, 4.9 * columns if columns == 1 else 8.4, 4.6 if columns == 1 else 4.3
        )
        for axis, m in zip(axes, shown, strict=True):
            matrix = matrices[m.row, m.head].astype(np.float64)
            true = matrix.sum(1, keepdims=True)
            shares = np.ma.masked_where(np.broadcast_to(true == 0, matrix.shape), 100 * matrix / np.maximum(true, 1))
            drawn = axis.imshow(shares, cmap=plt.get_cmap("Blues").with_extremes(bad=RULE), vmin=0, vmax=100)
            axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6.5)
            axis.set_yticks(range(len(classes)), classes, fontsize=6.5)
            axis.set_title(m.label)
            axis.set_xlabel("predicted")
            axis.set_ylabel("true")
            _bare(axis)
        figure.colorbar(drawn, ax=list(axes), shrink=0.6, label="% of the true class’s pixels")
        return picture(
            figure,
            name,
            f"Confusion of classes, {head} head",
            "Each line: what the pixels of a class were taken for. Grey: the class is in no mask of the test set."
            + (f" {dropped} more rows are not drawn." if dropped else ""),
            f"Confusion matrices of {', '.join(m.label for m in shown)}.",
        )


def _line(axes: Sequence[Any], panels: Sequence[np.ndarray]) -> None:
    for axis, panel in zip(axes, panels, strict=True):
        axis.imshow(panel, interpolation="nearest")
        axis.set_anchor("N")
        axis.set_xticks([])
        axis.set_yticks([])
        _bare(axis)


def _bare(axis: Any) -> None:
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _palette_legend(figure: Any, seen: set[int], classes: Sequence[str]) -> None:
    """The classes that are in the picture, and void."""
    colours = voc_palette() / 255
    patches = [Patch(color=colours[value], label=classes[value]) for value in sorted(seen) if value < len(classes)]
    if VOID in seen:
        patches.append(Patch(color=colours[VOID], label="void"))
    columns = max(2, min(len(patches), int(figure.get_figwidth() / 1.05)))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=7.5, handlelength=1.2)


def _wrapped(words: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(words, width)) or words
