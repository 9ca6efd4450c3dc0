"""Draw segmentations: predictions beside the truth in VOC's palette, IoU of each class, confusion, best and worst images."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from common.errors import unreadable
from common.files import read_arrays
from common.images import VOID, voc_palette
from common.registry import plugins_of
from common.statistics.confusion import class_scores
from reports.analysis.comparison import Comparison
from reports.figures.look import WIDTH, left_out
from reports.visual.core.style import FAINT, INK, RULE, Picture, bare, figure_of, heading, picture, show, style
from rundir.paths import examples_file
from rundir.read import Problem

EVALUATION = "segmentation"
#: Limits of methods or heads side by side, of images below each other, and of rows with best and worst images.
MOST_COLUMNS, MOST_IMAGES, MOST_ROWS = 6, 6, 3
#: Best and worst images of a row.
EXTREMES = 4
#: Rows of the heatmap, and confusion matrices.
MOST_LINES, MOST_MATRICES = 30, 4

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Segmented:
    """The first seed of a row with one head.

    Attributes:
        row: position in the comparison.
        kind: "fine-tuned"; "" for a frozen backbone.
        title: the head's name for readers, with its kind.
        examples: the run's stored images (``eval.dense.examples``).
        matrix: the test set's confusion matrix ``[C, C]``.
    """

    row: int
    label: str
    head: str
    kind: str
    title: str
    examples: Arrays | None
    matrix: np.ndarray | None

    @property
    def order(self) -> tuple[int, str, str]:
        """Sorts heads; unknown heads are last."""
        return plugins_of("heads.segmentation").facts(self.head).get("order", 99), self.head, self.kind

    def example(self, kind: str, place: int) -> np.ndarray:
        """An entry of ``images``, ``truth`` or ``predicted_HEAD``, without the margin that pads stored images."""
        height, width = self.examples["sizes"][place]
        return self.examples[kind][place][:height, :width]


def pictures(comparison: Comparison, suffix: str, problems: list[Problem]) -> list[Picture]:
    """Draw all pictures of segmentation on one test set, named with ``suffix``; add unreadable files to ``problems``."""
    segmented = _segmented(comparison, problems)
    if not segmented:
        return []
    counts = Counter((m.head, m.kind) for m in segmented)
    commonest = min(segmented, key=lambda m: (-counts[m.head, m.kind], m.order))
    with_images = [m for m in segmented if m.examples]
    of_head = [m for m in with_images if (m.head, m.kind) == (commonest.head, commonest.kind)]
    heads_of_row = Counter(m.row for m in with_images)
    heads = [m for m in with_images if m.row == max(heads_of_row, key=heads_of_row.get)]
    made: list[Picture | None] = []
    if len(of_head) > 1:
        title = f"Segmentations by the {commonest.title} head"
        made.append(_grid(of_head, f"segmentation-methods{suffix}", title, lambda m: m.label))
    if len(heads) > 1 or (heads and len(of_head) == 1):
        title = f"Segmentations of {heads[0].label}"
        made.append(_grid(heads, f"segmentation-heads{suffix}", title, lambda m: m.title))
    made.append(_extremes(of_head[:MOST_ROWS], f"segmentation-extremes{suffix}"))
    if with_images:
        classes = list(map(str, with_images[0].examples["classes"]))
        measured = [m for m in segmented if m.matrix is not None and len(m.matrix) == len(classes)]
        made.append(_class_iou(sorted(measured, key=lambda m: (m.row, m.order)), classes, f"class-iou{suffix}"))
        made.append(
            _confusion(
                [m for m in measured if (m.head, m.kind) == (commonest.head, commonest.kind)],
                classes,
                f"confusion{suffix}",
            )
        )
    return [picture for picture in made if picture]


def _segmented(comparison: Comparison, problems: list[Problem]) -> list[Segmented]:
    segmented, examples = [], {}
    for column, kind in enumerate(comparison.columns):
        if not kind.evaluation.startswith(f"{EVALUATION}_") or kind.metric != "miou":
            continue
        head = kind.evaluation.removeprefix(f"{EVALUATION}_")
        title = kind.evaluation_name.removeprefix(plugins_of("eval").facts(EVALUATION)["title"]).strip()
        apart = [value for _, value in kind.quantity[1]]
        title = ", ".join([title, *apart])
        others = [value for entry in kind.variant if entry not in kind.quantity[1] for value in entry[1:]]
        for row, cell in comparison.column(column).items():
            label = ", ".join(filter(None, (comparison.rows[row].label, *others)))
            result, place = cell.results[0], (row, *apart)
            if examples.get(place) is None and result.predictions is not None:
                stem = Path(result.predictions).stem
                file = examples_file(result.run, comparison.data, "finetuned" if stem.endswith("-finetuned") else "")
                examples[place] = _examples(file, problems)
            matrices = (_arrays(result.predictions_file, problems) or {}).get("confusion")
            matrix = None if matrices is None or matrices.ndim != 3 else matrices.astype(np.int64).sum(0)
            segmented.append(Segmented(row, label, head, ", ".join(apart), title, examples.get(place), matrix))
    return segmented


def _examples(file: Path, problems: list[Problem]) -> Arrays | None:
    arrays = _arrays(file, problems)
    if arrays is not None and not {"images", "truth", "sizes", "fixed", "classes"} <= arrays.keys():
        problems.append(Problem(str(file), "holds no examples of segmentation; they are not shown"))
        return None
    return arrays


def _arrays(file: Path | None, problems: list[Problem]) -> Arrays | None:
    if file is None:
        return None
    try:
        return read_arrays(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = Problem(str(file), f"{unreadable(error)}; its pictures are missing")
        if problem not in problems:
            problems.append(problem)
        return None


def coloured(classes: np.ndarray) -> np.ndarray:
    """Turn classes ``[H, W]`` into RGB of VOC's palette; void is pale."""
    return voc_palette()[classes]


def _grid(shown: Sequence[Segmented], name: str, title: str, name_of: Callable[[Segmented], str]) -> Picture | None:
    """Draw a line for each image: the image, its truth, and the predictions."""
    predicted = [m for m in shown if f"predicted_{m.head}" in m.examples]
    shown = predicted[:MOST_COLUMNS]
    if not shown:
        return None
    first = shown[0].examples
    names = [list(m.examples["names"]) for m in shown]
    images = [first["names"][place] for place in first["fixed"][:MOST_IMAGES]]
    images = [image for image in images if all(image in of_one for of_one in names)]
    if not images:
        return None
    with style():
        columns = 2 + len(shown)
        width = min(WIDTH, 1.3 * columns)
        figure, axes = figure_of(len(images) * columns, columns, width, 0.98 * width / columns)
        classes: list[np.ndarray] = []
        for line, image in zip(np.reshape(axes, (-1, columns)), images, strict=True):
            places = [of_one.index(image) for of_one in names]
            masks = [shown[0].example("truth", places[0])]
            masks += [m.example(f"predicted_{m.head}", place) for m, place in zip(shown, places, strict=True)]
            classes += masks
            panels = [shown[0].example("images", places[0]), *map(coloured, masks)]
            for axis, panel in zip(line, panels, strict=True):
                _show(axis, panel)
        for axis, words in zip(axes, ("image", "truth", *map(name_of, shown)), strict=False):
            heading(axis, textwrap.fill(words, 18))
        _palette_legend(figure, classes, first["classes"])
        return picture(
            figure,
            name,
            title,
            "Test images chosen for their classes before anything was predicted, so the same in every report on this test set. "
            "Colours are VOC’s; pale: void, which counts nowhere." + left_out(len(predicted) - len(shown)),
            f"Images, ground truth and predictions of {', '.join(map(name_of, shown))}.",
        )


def _extremes(shown: Sequence[Segmented], name: str) -> Picture | None:
    """Draw each row's images with the lowest and the highest mean IoU."""
    shown = [m for m in shown if {f"worst_{m.head}", f"best_{m.head}", f"iou_{m.head}"} <= m.examples.keys()]
    shown = [m for m in shown if len(_ranked(m)) > 1]
    if not shown:
        return None
    ranked = [_ranked(m) for m in shown]
    most = min(EXTREMES, *(len(places) // 2 for places in ranked))
    columns = 2 * most
    with style():
        figure, axes = figure_of(len(shown) * 3 * columns, columns, WIDTH, WIDTH / columns)
        classes: list[np.ndarray] = []
        for m, order, lines in zip(shown, ranked, np.reshape(axes, (-1, 3, columns)), strict=True):
            for axis, kind in zip(lines[:, 0], ("image", "prediction", "truth"), strict=True):
                axis.set_ylabel(kind, fontsize=7.5)
            if len(shown) > 1:
                lines[0, 0].set_ylabel(f"{textwrap.fill(m.label, 16)}\nimage", fontsize=7.5)
            for column, place in enumerate([*order[:most], *order[: -most - 1 : -1]]):
                masks = [m.example(f"predicted_{m.head}", place), m.example("truth", place)]
                classes += masks
                for axis, panel in zip(
                    lines[:, column], (m.example("images", place), *map(coloured, masks)), strict=True
                ):
                    _show(axis, panel)
                extreme = "worst" if column < most else "best"
                heading(lines[0, column], f"{extreme}, {m.examples[f'iou_{m.head}'][place]:.0f}%")
        _palette_legend(figure, classes, shown[0].examples["classes"])
        return picture(
            figure,
            name,
            f"Worst and best images of the {shown[0].title} head",
            "By mean IoU over the classes that are in an image or predicted there. Colours are VOC’s; pale: void."
            + ("" if len(shown) < MOST_ROWS else f" The first {MOST_ROWS} rows."),
            f"The test images with the lowest and highest IoU of {', '.join(m.label for m in shown)}.",
        )


def _ranked(m: Segmented) -> list[int]:
    """Places of the images with extreme IoU, each once (older files have one among the worst and the best), worst first."""
    places = {int(place) for kind in ("worst", "best") for place in m.examples[f"{kind}_{m.head}"]}
    return sorted(places, key=lambda place: (m.examples[f"iou_{m.head}"][place], place))


def _class_iou(measured: Sequence[Segmented], classes: Sequence[str], name: str) -> Picture | None:
    """Draw a heatmap of the IoU of classes, a line for each row and head."""
    lines = measured[:MOST_LINES]
    if not lines:
        return None
    values = 100 * np.stack([class_scores(m.matrix)["iou"] for m in lines])
    top = max([1.0, *values[np.isfinite(values)]])
    with style():
        figure, (axis,) = figure_of(1, 1, WIDTH, 1.3 + 0.24 * len(lines))
        axis.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=_blues(), vmin=0, vmax=top)
        for (line, place), value in np.ndenumerate(values):
            absent = np.isnan(value)
            ink = FAINT if absent else "white" if value > 0.6 * top else INK
            axis.text(place, line, "–" if absent else f"{value:.0f}", ha="center", va="center", fontsize=6.5, color=ink)
        axis.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(lines)), [f"{m.label}, {m.title}" for m in lines])
        bare(axis)
        return picture(
            figure,
            name,
            "IoU of each class",
            "Percent, over all pixels of the test set (first seed of each row). –: absent, neither in the masks nor predicted; it "
            "is not in the mean." + left_out(len(measured) - len(lines)),
            f"Heatmap of the IoU of {len(classes)} classes for {len(lines)} rows and heads.",
        )


def _confusion(measured: Sequence[Segmented], classes: Sequence[str], name: str) -> Picture | None:
    shown = measured[:MOST_MATRICES]
    if not shown:
        return None
    with style():
        columns, width, height = (1, 4.9, 4.6) if len(shown) == 1 else (2, WIDTH, 4.3)
        figure, axes = figure_of(len(shown), columns, width, height)
        for axis, m in zip(axes, shown, strict=True):
            true = m.matrix.sum(1, keepdims=True, dtype=np.float64)
            absent = np.broadcast_to(true == 0, m.matrix.shape)
            shares = np.ma.masked_where(absent, 100 * m.matrix / np.maximum(true, 1))
            drawn = axis.imshow(shares, cmap=_blues(), vmin=0, vmax=100)
            axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6.5)
            axis.set_yticks(range(len(classes)), classes, fontsize=6.5)
            axis.set_title(m.label)
            axis.set_xlabel("predicted")
            axis.set_ylabel("true")
            bare(axis)
        figure.colorbar(drawn, ax=list(axes), shrink=0.6, label="% of the true class’s pixels")
        return picture(
            figure,
            name,
            f"Confusion of classes, {shown[0].title} head",
            "Each line: what the pixels of a class were taken for. Grey: the class is in no mask of the test set."
            + left_out(len(measured) - len(shown)),
            f"Confusion matrices of {', '.join(m.label for m in shown)}.",
        )


def _blues() -> Colormap:
    return plt.get_cmap("Blues").with_extremes(bad=RULE)


def _show(axis: Axes, panel: np.ndarray) -> None:
    show(axis, panel, width=0)
    axis.set_anchor("N")


def _palette_legend(figure: Figure, masks: Sequence[np.ndarray], classes: np.ndarray) -> None:
    """Add the colours of the classes in the masks, and of void."""
    names = dict(enumerate(map(str, classes))) | {VOID: "void"}
    seen = np.unique(np.concatenate(masks, axis=None))
    patches = [Patch(color=voc_palette()[value] / 255, label=names[value]) for value in seen if value in names]
    columns = max(2, min(len(patches), int(figure.get_figwidth() / 1.05)))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=7.5, handlelength=1.2)
