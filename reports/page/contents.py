"""What stands in the report's tables."""

from __future__ import annotations

from collections.abc import Sequence

from reports.analysis.comparison import (
    ALPHA,
    LISTED_PAIRS,
    METRIC_NAMES,
    Cell,
    Comparison,
    conditions_of,
    unequal_settings,
)
from reports.analysis.identity import trained_options
from reports.analysis.rows import RANDOM, SETTINGS, Row, differing_options, plain, short_count
from reports.analysis.statistics import RESAMPLES
from reports.analysis.tables import Entry, Heading, Table, number, text

UNEQUAL = "≠"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def decimals(values: Sequence[float]) -> int:
    """Decimal places for numbers of that size: 71.3, 0.713."""
    largest = max((abs(value) for value in values), default=100)
    return 1 if largest >= 10 else 2 if largest >= 1 else 3


def column_decimals(comparison: Comparison, column: int) -> int:
    return decimals([cell.over_seeds.mean for (_, position), cell in comparison.cells.items() if position == column])


def shown_value(cell: Cell, places: int) -> str:
    spread = "" if cell.over_seeds.std is None else f" ± {cell.over_seeds.std:.{places}f}"
    return f"{cell.over_seeds.mean:.{places}f}{spread}"


def _interval(low: float, high: float, places: int) -> str:
    return f"[{low:.{places}f}, {high:.{places}f}]"


def _identity(rows: Sequence[Row]) -> tuple[list[Heading], list[list[Entry]]]:
    """Method, backbone, and variant where there are several."""
    variants = any(row.variant for row in rows)
    headings = [Heading("Method"), Heading("Backbone"), *([Heading("Variant")] if variants else [])]
    cells = [[text(row.method_name), text(row.backbone), *([text(row.variant)] if variants else [])] for row in rows]
    return headings, cells


def _breaks(comparison: Comparison) -> frozenset[int]:
    return frozenset(block[0] for block in comparison.blocks[1:])


def results(comparison: Comparison, name: str) -> Table:
    """The comparison table: one number an evaluation, and what has to be known to compare rows."""
    headings, rows = _identity(comparison.rows)
    for column in comparison.headline:
        kind = comparison.columns[column]
        mark = UNEQUAL if column in comparison.unequal_protocols else ""
        headings.append(Heading(kind.metric_name, numeric=True, mark=mark, group=kind.evaluation_name))
        places = column_decimals(comparison, column)
        for position in range(len(comparison.rows)):
            rows[position].append(_result(comparison.cells.get((position, column)), places))
    headings.append(Heading("Seeds", numeric=True))
    shown = [key for key in SETTINGS if key != "start" or any(row.settings[key] != RANDOM for row in comparison.rows)]
    for key in shown:
        mark = UNEQUAL if key in comparison.unequal_settings else ""
        headings.append(Heading(SETTINGS[key], numeric=key in ("patch", "input", "budget"), mark=mark))
    for position, row in enumerate(comparison.rows):
        rows[position].append(number(len(row.runs), str))
        rows[position].extend(_setting(row, key) for key in shown)
    return Table(
        name, f"Results on {comparison.data}", results_caption(comparison), headings, rows, _breaks(comparison)
    )


def _setting(row: Row, key: str) -> Entry:
    shown = row.settings[key]
    if key == "budget":
        return Entry(shown, row.cost["images_seen"])
    return Entry(shown, int(shown) if shown.isdecimal() and key in ("patch", "input") else shown)


def _result(cell: Cell | None, places: int) -> Entry:
    if cell is None:
        return Entry("–")
    summary = cell.over_seeds
    interval = (summary.low, summary.high) if summary.low is not None else cell.images
    return Entry(
        shown_value(cell, places),
        summary.mean,
        note=_interval(*interval, places) if interval else "",
        bold=cell.bold,
        mark=UNEQUAL if cell.unequal else "",
        numbers=_numbers(cell),
    )


def _numbers(cell: Cell) -> dict[str, float | int | None]:
    low, high = cell.images or (None, None)
    summary = cell.over_seeds
    return {
        "": summary.mean,
        "std": summary.std,
        "seeds": summary.n,
        "seeds low": summary.low,
        "seeds high": summary.high,
        "images low": low,
        "images high": high,
    }


def results_caption(comparison: Comparison) -> str:
    """How to read the table: what the numbers, intervals, bold and marks are, and by which tests."""
    cells = [cell for (_, column), cell in comparison.cells.items() if column in comparison.headline]
    several = any(cell.over_seeds.n > 1 for cell in cells)
    single = any(cell.over_seeds.n == 1 for cell in cells)
    parts = []
    if several:
        parts.append("Mean ± standard deviation over seeds; below, the 95% t interval of the mean over seeds.")
    if any(cell.over_seeds.std == 0 for cell in cells):
        parts.append("Where all seeds gave the same value (± 0), the interval is the bootstrap’s over test images.")
    if single:
        of = " Rows with one seed:" if several else "One training a row:"
        parts.append(f"{of.strip()} the value, and below it the 95% bootstrap interval over test images.")
    kinds = list(dict.fromkeys(comparison.tests["test"])) if len(comparison.tests) else []
    if kinds:
        parts.append(
            "Bold: the best of its backbone’s rows, where its difference to every other of them holds "
            f"(p < {ALPHA} after Holm’s correction over the {_tests_of(comparison)} of this table). "
            + " ".join(TEST_WORDS[kind] for kind in kinds)
        )
    else:
        parts.append("Nothing is bold: no two rows could be tested against each other.")
    if comparison.unequal_settings:
        names = ", ".join(SETTINGS[key].lower() for key in comparison.unequal_settings)
        parts.append(
            f"{UNEQUAL} at a heading: the trained rows differ in it ({names}). {UNEQUAL} at a bold number: some row it is "
            "compared with differs in a setting, so the difference is not the method’s alone."
        )
    if comparison.unequal_protocols:
        told = "; ".join(
            f"{comparison.columns[column].name}: {', '.join(names)}"
            for column, names in comparison.unequal_protocols.items()
            if column in comparison.headline
        )
        if told:
            parts.append(f"The protocol is not the same in all rows ({told}).")
    return " ".join(parts)


def _tests_of(comparison: Comparison) -> str:
    return "one test" if comparison.tested == 1 else f"{comparison.tested} tests"


TEST_WORDS = {
    "McNemar, exact": "Two single trainings: McNemar’s exact test on the test images.",
    "paired, over images": (
        "Rows of which one has a single seed, or metrics that are no mean of right and wrong: a paired test over test images "
        f"({RESAMPLES} bootstrap resamples, or for means the exact variance), which is about these trained networks only."
    ),
    "paired, over seeds and images": (
        "Rows with several seeds: a paired t test of the difference of the means over seeds, with the variance over test images "
        "(of each image’s outcome averaged over seeds, paired) and the variances over seeds added (Welch-Satterthwaite degrees "
        "of freedom)."
    ),
}


def tests(comparison: Comparison, name: str) -> Table:
    """Pairs of rows, tested."""
    headings = [
        Heading("Evaluation"),
        Heading("Row"),
        Heading("against"),
        Heading("Difference", numeric=True),
        Heading("p", numeric=True),
        Heading("p, Holm", numeric=True),
        Heading("Holds"),
        Heading("Unequal"),
        Heading("Test"),
    ]
    rows = []
    places = {column: column_decimals(comparison, column) for column in comparison.headline}
    for line in comparison.tests.itertuples():
        a, b = comparison.rows[line.a], comparison.rows[line.b]
        sign, first, second = (1, a, b) if line.difference >= 0 else (-1, b, a)
        low, high = sorted((sign * line.low, sign * line.high))
        unequal = [SETTINGS[key].lower() for key in unequal_settings(a, b)]
        p = places[line.column]
        rows.append(
            [
                text(comparison.columns[line.column].name),
                text(first.label),
                text(second.label),
                number(
                    sign * line.difference,
                    lambda value, p=p: f"{value:+.{p}f}",
                    note=_interval(low, high, p),
                    numbers={"": sign * line.difference, "low": low, "high": high},
                ),
                number(line.p, p_value),
                number(line.p_holm, p_value),
                Entry("yes" if line.holds else "no", "yes" if line.holds else "no", bold=bool(line.holds)),
                text(", ".join(unequal) if unequal else "–"),
                text(line.test),
            ]
        )
    listed = ""
    if comparison.tested > len(rows):
        listed = f" Of {comparison.tested} tested pairs (over {LISTED_PAIRS}), those with the best row of a backbone are listed."
    untested = ""
    if comparison.untested:
        reasons = list(comparison.untested)
        untested = (
            " Not tested: " + "; ".join(reasons[:12]) + (f"; and {len(reasons) - 12} more" if len(reasons) > 12 else "")
        )
        untested += "."
    return Table(
        name,
        f"Differences on {comparison.data}",
        "Pairs of methods on one backbone, and of backbones with one method: difference of the means, its 95% interval (not "
        "corrected), and p-values without and with Holm’s correction over the table. “Unequal” names the settings in which the "
        f"two rows differ.{listed}{untested}",
        headings,
        rows,
    )


def measurements(comparison: Comparison, name: str) -> Table:
    """Every measurement, a line each."""
    identity, cells = _identity(comparison.rows)
    headings = [
        *identity,
        Heading("Evaluation"),
        Heading("Metric"),
        Heading("Value", numeric=True),
        Heading("over seeds", numeric=True, group="95% interval"),
        Heading("over images", numeric=True, group="95% interval"),
        Heading("Seeds", numeric=True),
        Heading("Images", numeric=True),
    ]
    rows = []
    breaks = []
    for position in range(len(comparison.rows)):
        breaks.append(len(rows))
        for column, kind in enumerate(comparison.columns):
            cell = comparison.cells.get((position, column))
            if cell is None:
                continue
            places, summary = column_decimals(comparison, column), cell.over_seeds
            rows.append(
                [
                    *cells[position],
                    text(kind.evaluation_name),
                    text(kind.metric_name),
                    Entry(shown_value(cell, places), summary.mean, numbers={"": summary.mean, "std": summary.std}),
                    _range(summary.low, summary.high, places),
                    _range(*(cell.images or (None, None)), places),
                    number(summary.n, str),
                    number(cell.results[0].n, lambda n: f"{n:,}"),
                ]
            )
    return Table(
        name,
        f"All measurements on {comparison.data}",
        "Mean ± standard deviation over seeds, 95% t interval of the mean over seeds, and 95% percentile bootstrap interval over "
        "test images (of each image’s outcome averaged over seeds).",
        headings,
        rows,
        frozenset(breaks[1:]),
    )


def _range(low: float | None, high: float | None, places: int) -> Entry:
    if low is None or high is None:
        return Entry("–", None, numbers={"low": None, "high": None})
    return Entry(_interval(low, high, places), high - low, numbers={"low": low, "high": high})


def costs(rows: Sequence[Row]) -> Table:
    """What the rows cost."""
    headings, cells = _identity(rows)
    forms = {
        "images_seen": ("Images seen", short_count),
        "minutes": ("Device-minutes", lambda value: f"{value:,.1f}"),
        "images_per_second": ("Images/s", lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.1f}"),
        "peak_memory_gib": ("Peak memory (GiB)", lambda value: f"{value:.2f}"),
        "parameters": ("Parameters", short_count),
        "flops": ("FLOPs an image", short_count),
        "training_flops": ("Training FLOPs", short_count),
    }
    headings = [*headings, *(Heading(name, numeric=True) for name, _ in forms.values()), Heading("Device")]
    for row, line in zip(rows, cells, strict=True):
        line.extend(number(row.cost[key], form) for key, (_, form) in forms.items())
        line.append(text(row.device))
    devices = {row.device for row in rows if row.cost["minutes"]}
    unequal = (
        " The rows ran on different devices: minutes, images/s and memory are not comparable."
        if len(devices) > 1
        else ""
    )
    breaks = [i for i in range(1, len(rows)) if rows[i].backbone != rows[i - 1].backbone]
    return Table(
        "cost",
        "Cost of training",
        "Means over seeds (peak memory: the largest). Parameters, and FLOPs of one image (a multiply-add is two), are those of the "
        f"backbone; training FLOPs are those of all forward and backward passes.{unequal}",
        headings,
        cells,
        frozenset(breaks),
    )


def options(rows: Sequence[Row]) -> Table | None:
    """The options in which trained rows differ: each value, and the rows that have it."""
    rows = [row for row in rows if row.trained]
    if len(rows) < 2:
        return None
    configs = [trained_options(row.runs[0]) for row in rows]
    lines = []
    breaks = []
    for option in differing_options(rows):
        having = [position for position, config in enumerate(configs) if option in config]
        by_value: dict[str, list[int]] = {}
        for position in having:
            by_value.setdefault(plain(configs[position][option]), []).append(position)
        if len(by_value) == 1 and len(having) < len(rows):  # an option that the other methods do not have
            continue
        if option in ("method", "backbone", "data"):
            continue
        breaks.append(len(lines))
        for value, positions in by_value.items():
            lines.append([text(option), text(value), text(_rows_words(rows, positions, having))])
    if not lines:
        return None
    return Table(
        "options",
        "Options in which rows differ",
        "Options of training that are not the same in all rows that have them (method, backbone and data aside). Published "
        "recipes differ in many of them by intention.",
        [Heading("Option"), Heading("Value"), Heading("Rows")],
        lines,
        frozenset(breaks[1:]),
    )


def _rows_words(rows: Sequence[Row], positions: list[int], having: list[int]) -> str:
    """Names of rows, by method where all of a method are meant."""
    chosen = set(positions)
    words = []
    for method in dict.fromkeys(rows[position].method for position in positions):
        of_method = [position for position in having if rows[position].method == method]
        mine = [position for position in of_method if position in chosen]
        if len(mine) == len(of_method):
            words.append(rows[mine[0]].method_name)
        else:
            words.extend(rows[position].label for position in mine)
    return "; ".join(words) if len(words) <= 8 else f"{'; '.join(words[:7])}; and {len(words) - 7} more"


def protocols(comparisons: Sequence[Comparison]) -> Table | None:
    """Under what each evaluation was made."""
    lines = []
    for comparison in comparisons:
        for evaluation in dict.fromkeys(column.evaluation for column in comparison.columns):
            columns = [i for i, column in enumerate(comparison.columns) if column.evaluation == evaluation]
            unequal = {name for column in columns for name in comparison.unequal_protocols.get(column, [])}
            values: dict[str, dict[str, None]] = {}
            for (_, column), cell in comparison.cells.items():
                if column in columns:
                    for result in cell.results:
                        for name, value in conditions_of(result).items():
                            # What the data are stands with the provenance; here only where it is not the same for all.
                            if not name.startswith("data ") or name in unequal:
                                values.setdefault(name, {})[value] = None
            told = [
                f"{name} {', '.join(list(found)[:6])}{', …' if len(found) > 6 else ''}{f' {UNEQUAL}' if name in unequal else ''}"
                for name, found in values.items()
            ]
            metrics = dict.fromkeys(
                METRIC_NAMES.get(comparison.columns[c].metric, comparison.columns[c].metric) for c in columns
            )
            lines.append(
                [
                    text(comparison.data),
                    text(comparison.columns[columns[0]].evaluation_name),
                    text(", ".join(metrics)),
                    text("; ".join(told) or "not told"),
                ]
            )
    if not lines:
        return None
    return Table(
        "protocols",
        "Protocols",
        f"What fixes the numbers, as the evaluations recorded it. Several values: several measurements of each row; "
        f"{UNEQUAL}: not the same in all rows.",
        [Heading("Data"), Heading("Evaluation"), Heading("Metrics"), Heading("Protocol")],
        lines,
    )
