"""Make the tables of robustness: a method over its settings, and differences between methods."""

from __future__ import annotations

from collections.abc import Sequence

from reports.analysis.comparison import Comparison
from reports.analysis.robustness import (
    FEWEST_FOR_SPREAD,
    FEWEST_SETTINGS,
    Difference,
    Distribution,
    Estimate,
    without_distribution,
)
from reports.analysis.rows import Row
from reports.analysis.tables import Entry, Table, fixed, headings_of, number, text
from reports.page.comparison_tables import column_decimals, shown_difference, shown_interval

#: Columns of numbers.
NUMERIC = (
    "Settings",
    "Runs",
    "Failed",
    "Collapsed",
    "Not above untrained",
    "Best",
    "Median",
    "Worst",
    "SD",
    "IQR",
    "SD of runs",
)


def over_settings(comparison: Comparison, made: Sequence[Distribution], name: str) -> Table | None:
    """Make a table with a line for each family and headline column; None without families."""
    if not made:
        return None
    lines, breaks = [], []
    for position, one in enumerate(made):
        if position and one.column != made[position - 1].column:
            breaks.append(position)
        places = column_decimals(comparison, one.column)
        family, measured = one.family, len(one.values)
        lines.append(
            [
                text(comparison.columns[one.column].name),
                text(family.name),
                number(len(family.rows), str, note=_of_all(len(one.means), len(family.rows))),
                number(len(family.runs), str, note=_of_all(measured, len(family.runs))),
                _share(family.failed, len(family.runs)),
                _share(len(family.collapsed), len(family.runs)),
                _share(one.not_above, len(family.runs)),
                number(one.best, f"{{:.{places}f}}".format),
                _estimate(one.median, places),
                number(one.worst, f"{{:.{places}f}}".format),
                _estimate(one.std, places),
                _estimate(one.iqr, places),
                number(float(one.values.std(ddof=1)), f"{{:.{places}f}}".format),
            ]
        )
    return Table(
        name,
        f"Robustness: methods over their settings on {comparison.data}",
        f"Each method with {FEWEST_SETTINGS} or more settings. Best, median, worst, standard deviation (SD) and interquartile "
        "range (IQR) are of the settings’ means over seeds, with 95% bootstrap intervals over settings (of SD and IQR from "
        f"{FEWEST_FOR_SPREAD} settings on); “SD of runs” is that of "
        "all single runs. Runs: ended or failed. Failed: ended in an error, such as a loss that is not finite; they have no "
        "measurement and are in no other number. Collapsed: by the signs in their logs when training ended; measured as they are. "
        "Not above untrained: measured at or below the untrained backbone’s mean, without signs of collapse. The intervals take "
        "the settings as drawn at random from those that a user might try; a grid’s are chosen, so all numbers are about its "
        "ranges. The spread over settings includes a part of that over seeds.",
        headings_of(("Measurement", "Method", *NUMERIC), NUMERIC),
        lines,
        frozenset(breaks),
    )


def differences(comparison: Comparison, made: Sequence[Difference], name: str) -> Table | None:
    """Make a table with a line for each pair of families that share settings; None without any."""
    if not made:
        return None
    lines, breaks = [], []
    for position, pair in enumerate(made):
        if position and pair.first.column != made[position - 1].first.column:
            breaks.append(position)
        places = column_decimals(comparison, pair.first.column)
        lines.append(
            [
                text(comparison.columns[pair.first.column].name),
                text(pair.first.family.name),
                text(pair.second.family.name),
                number(pair.shared, str),
                *(_estimate(one, places, signed=True) for one in (pair.median, pair.std, pair.iqr)),
            ]
        )
    return Table(
        name,
        f"Differences in robustness on {comparison.data}",
        "First minus second, over the settings that both have, which the bootstrap draws together: difference of medians, of "
        "standard deviations (SD) and of interquartile ranges (IQR) of the settings’ means over seeds, with 95% percentile "
        "intervals. A negative difference of SD or IQR: the first depends less on its settings. Intervals are of each pair alone, "
        "without a correction for several pairs.",
        headings_of(
            ("Measurement", "First", "Second", "Settings", "Median", "SD", "IQR"), ("Settings", "Median", "SD", "IQR")
        ),
        lines,
        frozenset(breaks),
    )


def left_out(rows: Sequence[Row], made: Sequence[Distribution]) -> list[str]:
    """Say which methods have too few measured settings for the tables."""
    which = [
        f"{family.name} (measured: {sum(any(run.results and run.finished for run in row.runs) for row in family.rows)} of "
        f"{len(family.rows)} settings; failed: {family.failed} of {len(family.runs)} runs)"
        for family in without_distribution(rows, made)
    ]
    few = f"Robustness over settings is shown for methods with {FEWEST_SETTINGS} or more measured settings, so not for "
    return [f"{few}{', '.join(which)}."] if which else []


def _of_all(measured: int, every: int) -> str:
    return "" if measured == every else f"({measured} measured)"


def _share(count: int | None, of: int) -> Entry:
    """A number of runs and its share."""
    if count is None:
        return Entry("–", numbers={"": None, "share": None})
    share = count / of
    return Entry(f"{count} ({share:.0%})" if count else "0", count, numbers={"": count, "share": share})


def _estimate(one: Estimate, places: int, signed: bool = False) -> Entry:
    shown = shown_difference(one.value, places, "+") if signed else fixed(one.value, places)
    note = "" if one.low is None else shown_interval(one.low, one.high, places)
    return Entry(shown, one.value, note=note, numbers={"": one.value, "low": one.low, "high": one.high})
