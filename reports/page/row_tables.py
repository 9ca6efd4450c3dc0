"""Make the tables of rows' costs, differing options, and evaluation protocols."""

from __future__ import annotations

from collections.abc import Sequence

from common.names import first_names
from reports.analysis.columns import conditions_of
from reports.analysis.comparison import Comparison
from reports.analysis.identity import trained_options
from reports.analysis.rows import Row, differing_options, plain, short_count
from reports.analysis.tables import Table, headings_of, number, text
from reports.page.comparison_tables import UNEQUAL, row_names

#: Columns of the table of costs by key of ``Row.cost``: heading, and format.
COSTS = {
    "images_seen": ("Images seen", short_count),
    "devices": ("Devices", lambda value: f"{value:g}"),
    "minutes": ("Device-minutes", lambda value: f"{value:,.1f}"),
    "evaluation_minutes": ("Evaluation, minutes", lambda value: f"{value:,.1f}"),
    "energy_kwh": ("Energy (kWh)", lambda value: f"{value:.3g}"),
    "images_per_second": ("Images/s", lambda value: f"{value:,.0f}" if value >= 10 else f"{value:.1f}"),
    "peak_memory_gib": ("Peak memory (GiB)", lambda value: f"{value:.2f}"),
    "parameters": ("Parameters", short_count),
    "flops": ("FLOPs an image", short_count),
    "training_flops": ("Training FLOPs", short_count),
}
#: Limits of rows' names, and of values of a protocol's entry, in one cell.
MOST_NAMES, MOST_VALUES = 8, 6


def costs(rows: Sequence[Row]) -> Table:
    headings, lines = row_names(rows)
    recorded = {key: column for key, column in COSTS.items() if any(row.cost[key] is not None for row in rows)}
    names = [name for name, _ in recorded.values()]
    headings += headings_of((*names, "Device"), numeric=names)
    for row, line in zip(rows, lines, strict=True):
        line += [*(number(row.cost[key], form) for key, (_, form) in recorded.items()), text(row.device)]
    caption = (
        "Means over seeds (peak memory: the largest). Device-minutes: of the training, on all its devices together. Parameters and "
        "FLOPs of one image (a multiply-add is two), are those of the backbone; training FLOPs are those of all forward and "
        "backward passes."
    )
    if "energy_kwh" in recorded:
        caption += (
            " Energy: of the GPUs, with the measurements during training, where the training was not interrupted."
        )
    if len({row.device for row in rows if row.cost["minutes"]}) > 1:
        caption += " The rows ran on different devices: minutes, images/s and memory are not comparable."
    breaks = frozenset(i for i in range(1, len(rows)) if rows[i].backbone != rows[i - 1].backbone)
    return Table("cost", "Cost of training", caption, headings, lines, breaks)


def options(rows: Sequence[Row]) -> Table | None:
    """Make the table of options in which trained rows differ: each value, and its rows."""
    rows = [row for row in rows if row.trained]
    if len(rows) < 2:
        return None
    configs = [trained_options(row.runs[0]) for row in rows]
    lines, breaks = [], []
    for option in differing_options(rows):
        having = [position for position, config in enumerate(configs) if option in config]
        by_value: dict[str, list[int]] = {}
        for position in having:
            by_value.setdefault(plain(configs[position][option]), []).append(position)
        of_some_methods_only = len(by_value) == 1 and len(having) < len(rows)
        if option in ("method", "backbone", "data") or of_some_methods_only:
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
        headings_of(("Option", "Value", "Rows")),
        lines,
        frozenset(breaks[1:]),
    )


def _rows_words(rows: Sequence[Row], positions: list[int], having: list[int]) -> str:
    """Name rows, or their method where these are all of its rows with the option."""
    words = []
    for method in dict.fromkeys(rows[position].method for position in positions):
        of_method = [position for position in having if rows[position].method == method]
        chosen = [position for position in of_method if position in positions]
        if len(chosen) == len(of_method):
            words.append(rows[chosen[0]].method_name)
        else:
            words += [rows[position].label for position in chosen]
    if len(words) > MOST_NAMES:
        words[MOST_NAMES - 1 :] = [f"and {len(words) - MOST_NAMES + 1} more"]
    return "; ".join(words)


def protocols(comparisons: Sequence[Comparison]) -> Table | None:
    """Make the table of the conditions of each evaluation."""
    lines = []
    for comparison in comparisons:
        for columns in evaluations_of(comparison).values():
            kinds = [comparison.columns[column] for column in columns]
            metrics = ", ".join(dict.fromkeys(kind.facts["metric"] for kind in kinds))
            protocol = protocol_words(comparison, columns) or "not told"
            lines.append([text(words) for words in (comparison.data, kinds[0].evaluation_name, metrics, protocol)])
    if not lines:
        return None
    return Table(
        "protocols",
        "Protocols",
        f"What fixes the numbers, as the evaluations recorded it. Several values: several measurements of each row; "
        f"{UNEQUAL}: not the same in all rows.",
        headings_of(("Data", "Evaluation", "Metrics", "Protocol")),
        lines,
    )


def evaluations_of(comparison: Comparison) -> dict[str, list[int]]:
    """Positions of the columns of each evaluation."""
    evaluations: dict[str, list[int]] = {}
    for column, kind in enumerate(comparison.columns):
        evaluations.setdefault(kind.evaluation, []).append(column)
    return evaluations


def protocol_words(comparison: Comparison, columns: Sequence[int]) -> str:
    """List the conditions of an evaluation's measurements with all values."""
    unequal = {name for column in columns for name in comparison.unequal_protocols.get(column, [])}
    values: dict[str, dict[str, None]] = {}
    for (_, column), cell in sorted(comparison.cells.items(), key=lambda item: item[0]):
        for result in cell.results if column in columns else ():
            for name, value in conditions_of(result).items():
                # Equal data are in the table of provenance.
                if not name.startswith("data ") or name in unequal:
                    values.setdefault(name, {})[value] = None
    parts = []
    for name, of_name in values.items():
        shown = first_names(list(of_name), MOST_VALUES)
        parts.append(f"{name} {shown}{f' {UNEQUAL}' if name in unequal else ''}")
    return "; ".join(parts)
