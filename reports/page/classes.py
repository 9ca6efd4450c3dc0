"""Make tables of each class: IoU of segmentation, average precision where images have several labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from common.class_names import readable
from common.errors import UserError, unreadable
from common.files import as_file_name, read_arrays
from common.statistics.average_precision import average_precision
from common.statistics.confusion import class_scores
from reports.analysis.comparison import Comparison
from reports.analysis.statistics import over_seeds
from reports.analysis.tables import Entry, Heading, Table, text
from reports.page.comparison_tables import mean_entry
from rundir.paths import examples_file
from rundir.read import Problem
from rundir.results import Measurement

#: Metrics that are means over classes: the name of a class's score.
OF_CLASSES = {"miou": "IoU", "map": "AP"}


def of_classes(
    comparison: Comparison, suffix: str, problems: list[Problem], class_names: Path | str | None = None
) -> list[Table]:
    """Make a table for each evaluation with scores of classes: a line for each class, a column for each row, over seeds."""
    tables = []
    for column, kind in enumerate(comparison.columns):
        if kind.metric not in OF_CLASSES:
            continue
        scores: dict[int, list[np.ndarray]] = {}
        names: Sequence[str] = ()
        for row, cell in comparison.column(column).items():
            for result in cell.results:
                made = _scores(result, comparison.data, problems)
                if made is not None:
                    names = names or made[0]
                    scores.setdefault(row, []).append(made[1])
        scores = {row: several for row, several in scores.items() if all(len(s) == len(names) for s in several)}
        if names and scores:
            names = _readable(names, class_names, comparison.data, problems)
            stem = as_file_name(kind.evaluation.replace("_", "-"))[:60]
            place = sum(table.name.startswith(f"classes-{stem}") for table in tables)
            tables.append(
                _table(comparison, column, names, scores, f"classes-{stem}{f'-{place + 1}' if place else ''}{suffix}")
            )
    return tables


def _readable(names: Sequence[str], file: Path | str | None, data: str, problems: list[Problem]) -> Sequence[str]:
    """Names for readers; the background keeps its own. A file that does not name these classes is a problem, as reports may be on
    several data sets."""
    classes = list(names)
    background = classes[:1] if classes[:1] == ["background"] else []
    try:
        return [*background, *readable(classes[len(background) :], file)]
    except UserError as error:
        if (problem := Problem(data, f"{error}; its classes keep their names")) not in problems:
            problems.append(problem)
        return names


def _scores(result: Measurement, data: str, problems: list[Problem]) -> tuple[Sequence[str], np.ndarray] | None:
    """Names of the classes, and their scores in percent (NaN: absent); None without outcomes of classes."""
    file = result.predictions_file
    if file is None:
        return None
    try:
        arrays = read_arrays(file)
        if result.metric == "miou" and "confusion" in arrays and arrays["confusion"].ndim == 3:
            scores = class_scores(arrays["confusion"].astype(np.int64).sum(0))["iou"]
        elif result.metric == "map" and "scores" in arrays and "label_sets" in arrays:
            truth = arrays["label_sets"].astype(bool)
            ones = np.ones((1, len(truth)))
            scores = np.array(
                [average_precision(s, t, ones)[0] for s, t in zip(arrays["scores"].T, truth.T, strict=True)]
            )
        else:
            return None
        names = arrays.get("classes")
        if names is None and result.metric == "miou":  # of an older run
            with suppress(FileNotFoundError):
                names = read_arrays(examples_file(result.run, data)).get("classes")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = Problem(str(file), f"{unreadable(error)}; it is not in the tables of classes")
        if problem not in problems:
            problems.append(problem)
        return None
    if names is None or len(names) != len(scores):
        names = [f"class {number}" for number in range(len(scores))]
    return list(map(str, names)), 100 * scores


def _table(
    comparison: Comparison, column: int, names: Sequence[str], scores: dict[int, list[np.ndarray]], name: str
) -> Table:
    kind = comparison.columns[column]
    headings = [Heading("Class")]
    headings += [Heading(comparison.rows[row].paper_label, numeric=True, group=kind.name) for row in scores]
    lines = [
        [text(class_name), *(_entry([one[place] for one in several]) for several in scores.values())]
        for place, class_name in enumerate(names)
    ]
    lines.append([text("Mean"), *(_entry([np.nanmean(one) for one in several]) for several in scores.values())])
    return Table(
        name,
        f"{OF_CLASSES[kind.metric]} of each class on {comparison.data}: {kind.name}",
        "Percent; mean ± standard deviation over seeds where there are several. –: the class is in no test image "
        "and predicted in none.",
        headings,
        lines,
        frozenset({len(names)}),
    )


def _entry(values: Sequence[float]) -> Entry:
    present = [float(value) for value in values if np.isfinite(value)]
    return mean_entry(over_seeds(present), 1) if present else Entry("–")
