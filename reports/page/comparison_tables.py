"""Make the tables of a comparison: results, differences, and all measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backbones import title_of
from reports.analysis.comparison import ALPHA, LISTED_PAIRS, Cell, Comparison
from reports.analysis.facts import column_facts
from reports.analysis.rows import RANDOM, SETTINGS, Row, unequal_settings
from reports.analysis.statistics import RESAMPLES, Summary
from reports.analysis.tables import Entry, Heading, Table, fixed, headings_of, in_file, number, text
from reports.analysis.tests import MCNEMAR, OVER_IMAGES, OVER_SEEDS
from rundir.results import Measurement, untrained_words

UNEQUAL = "≠"
RANKED_APART = "Rows that used labels are ranked among themselves."
#: Limit of reasons for untested pairs in a caption.
MOST_REASONS = 12

T_INTERVAL = "95% t interval of the mean over seeds (on the logit scale, so that it stays between 0 and 100)"

TEST_WORDS = {
    MCNEMAR: "Two single trainings: McNemar’s exact test on the test images.",
    OVER_IMAGES: (
        "Rows of which one has a single seed, or metrics that are no mean of right and wrong: a paired test over test images "
        f"({RESAMPLES} bootstrap resamples, or for means the exact variance), which is about these trained networks only."
    ),
    OVER_SEEDS: (
        "Rows with several seeds: a paired t test of the difference of the means over seeds, with the variance over test images "
        "(of each image’s outcome averaged over seeds, paired) and the variances over seeds added (Satterthwaite’s degrees of "
        "freedom, from an upper confidence limit of the latter; interval and p of a pair alone). The corrected p knows that two "
        "or three seeds may agree by chance: it takes the variance over seeds of all rows of the column, and has to hold with the "
        "two rows’ own, too."
    ),
}


def p_value(p: float) -> str:
    return "< 0.001" if in_file(p) < 0.001 else fixed(p, 3)


def column_decimals(comparison: Comparison, column: int) -> int:
    """Decimal places that suit a column's numbers: 71.3, 0.713."""
    largest = max((abs(cell.over_seeds.mean) for cell in comparison.column(column).values()), default=100)
    return 1 if largest >= 10 else 2 if largest >= 1 else 3


def shown_mean(summary: Summary, places: int) -> str:
    spread = "" if summary.std is None else f" ± {fixed(summary.std, places)}"
    return f"{fixed(summary.mean, places)}{spread}"


def mean_entry(summary: Summary, places: int, **more: Any) -> Entry:
    """Make a cell with mean ± standard deviation, and the number of seeds in its file."""
    numbers = {"": summary.mean, "std": summary.std, "seeds": summary.n}
    return Entry(shown_mean(summary, places), summary.mean, numbers=numbers, **more)


def shown_difference(difference: float, places: int, sign: str = "") -> str:
    """Format a difference; one digit more than none where rounding would leave zero of it. ``sign`` is "+" to show it."""
    if not difference:
        return fixed(0, places)
    difference = in_file(difference)
    return fixed(difference, places, sign) if round(difference, places) else f"{difference:{sign}.1g}"


def shown_interval(low: float, high: float, places: int) -> str:
    return f"[{fixed(low, places)}, {fixed(high, places)}]"


def seeds_words(rows: Sequence[Row]) -> str:
    """The rows' numbers of seeds: "3", "2 to 5"."""
    least, most = (pick(len(row.runs) for row in rows) for pick in (min, max))
    return str(least) if least == most else f"{least} to {most}"


def row_names(rows: Sequence[Row]) -> tuple[list[Heading], list[list[Entry]]]:
    """Make the first columns of a table, and each row's entries: method, backbone, and variant if any."""
    names = ["Method", "Backbone", *(["Variant"] if any(row.variant for row in rows) else [])]
    entries = [
        [text(row.method_name), text(row.backbone, title_of(row.backbone)), text(row.variant)][: len(names)]
        for row in rows
    ]
    return [Heading(name) for name in names], entries


def results(comparison: Comparison, name: str, failed: Sequence[Row] = (), failures: Sequence[str] = ()) -> Table:
    """Make the first table: one number per evaluation, and the settings of each row; below, rows without a measurement, whose runs
    ``failed``. The caption says why (``failures``)."""
    rows = [*comparison.rows, *failed]
    headings, lines = row_names(rows)
    for column in comparison.headline:
        kind = comparison.columns[column]
        mark = UNEQUAL if column in comparison.unequal_protocols else ""
        headings.append(Heading(kind.metric_name, numeric=True, mark=mark, group=kind.evaluation_name))
        places, cells = column_decimals(comparison, column), comparison.column(column)
        for position, line in enumerate(lines):
            missing = Entry("failed" if position >= len(comparison.rows) else "–")
            line.append(_result(cells[position], places) if position in cells else missing)
    headings.append(Heading("Seeds", numeric=True))
    for row, line in zip(rows, lines, strict=True):
        line.append(number(len(row.runs), str))
    for key, heading in SETTINGS.items():
        if key == "start" and all(row.settings[key] == RANDOM for row in comparison.rows):
            continue
        mark, numeric = UNEQUAL if key in comparison.unequal_settings else "", key in ("patch", "input", "budget")
        headings.append(Heading(heading, numeric=numeric, mark=mark))
        for row, line in zip(rows, lines, strict=True):
            shown = row.settings[key]
            value = int(shown) if numeric and shown.isdecimal() else shown
            line.append(Entry(shown, row.cost["images_seen"] if key == "budget" else value))
    breaks = frozenset([*(block[0] for block in comparison.blocks[1:]), *([len(comparison.rows)] if failed else [])])
    caption = " ".join([results_caption(comparison), *(f"Failed: {words}." for words in failures)])
    return Table(name, f"Results on {comparison.data}", caption.strip(), headings, lines, breaks)


def failures(rows: Sequence[Row]) -> list[str]:
    """The rows with runs that failed, and why, each reason of a row once."""
    reasons = [(row.label, dict.fromkeys(run.failure.rstrip(".") for run in row.runs if run.failure)) for row in rows]
    return [f"{label}: {'; '.join(of_row)}" for label, of_row in reasons if of_row]


def _result(cell: Cell, places: int) -> Entry:
    summary = cell.over_seeds
    interval = (summary.low, summary.high) if summary.low is not None else cell.images
    low, high = cell.images or (None, None)
    note, mark = shown_interval(*interval, places) if interval else "", UNEQUAL if cell.unequal else ""
    numbers = {"": summary.mean, "std": summary.std, "seeds": summary.n}
    numbers |= {"seeds low": summary.low, "seeds high": summary.high, "images low": low, "images high": high}
    return Entry(shown_mean(summary, places), summary.mean, note, cell.bold, mark, numbers)


def results_caption(comparison: Comparison) -> str:
    """Explain the numbers, intervals, bold, marks and tests of the first table."""
    cells = [cell for (_, column), cell in comparison.cells.items() if column in comparison.headline]
    several = any(cell.over_seeds.n > 1 for cell in cells)
    parts = []
    if several:
        parts.append(f"Mean ± standard deviation over seeds; below, the {T_INTERVAL}.")
    if any(cell.over_seeds.std == 0 for cell in cells):
        parts.append("Where all seeds gave the same value (± 0), the interval is the bootstrap’s over test images.")
    if any(cell.over_seeds.n == 1 for cell in cells):
        which = "Rows with one seed:" if several else "One training a row:"
        parts.append(f"{which} the value, and below it the 95% bootstrap interval over test images.")
    if kinds := list(dict.fromkeys(comparison.tests["test"])) if len(comparison.tests) else []:
        tests = "one test" if comparison.tested == 1 else f"{comparison.tested} tests"
        parts.append(
            "Bold: the best of its backbone’s rows, where its difference to every other of them holds "
            f"(p < {ALPHA} after Holm’s correction over the {tests} of this table)."
        )
        if any(row.used_labels for row in comparison.rows):
            parts.append(RANKED_APART)
        parts += [TEST_WORDS[kind] for kind in kinds]
    else:
        parts.append("Nothing is bold: no two rows could be tested against each other.")
    if comparison.unequal_settings:
        names = ", ".join(SETTINGS[key].lower() for key in comparison.unequal_settings)
        parts.append(
            f"{UNEQUAL} at a heading: rows differ in it ({names}). {UNEQUAL} at a bold number: some row it is "
            "compared with differs in a setting, so the difference is not the method’s alone."
        )
    unequal = [
        f"{comparison.columns[column].name}: {', '.join(names)}"
        for column, names in comparison.unequal_protocols.items()
        if column in comparison.headline
    ]
    if unequal:
        parts.append(f"The protocol is not the same in all rows ({'; '.join(unequal)}).")
    if words := left_out_words(comparison, comparison.headline):
        parts.append(words)
    return " ".join(parts)


def _left_out(result: Measurement) -> tuple[int, str]:
    """Number of test images, and why some of them are not in the measurement; "" for all."""
    test = result.data.get("test")
    counts = {key: test.get(key) for key in ("images", "labelled", "skipped")} if isinstance(test, dict) else {}
    if not isinstance(counts.get("images"), int) or column_facts(result)["grouped_by"] != "images":
        return result.n, ""
    damaged = counts["skipped"] if isinstance(counts["skipped"], int) else 0
    total = counts["images"] + damaged
    unlabelled = counts["images"] - counts["labelled"] if isinstance(counts["labelled"], int) else 0
    unlabelled = min(unlabelled, total - damaged - result.n)
    reasons = {
        "could not be read": damaged,
        "without a label": unlabelled,
        "that it cannot measure": total - damaged - unlabelled - result.n,
    }
    words = ", ".join(f"{n:,} {reason}" for reason, n in reasons.items() if n > 0)
    return total, words if result.n < total else ""


def _of_all(result: Measurement) -> str:
    total, reasons = _left_out(result)
    return f"of {total:,}" if reasons else ""


def left_out_words(comparison: Comparison, columns: Sequence[int]) -> str:
    """Say on how many test images the columns were measured, where these are not all, and why, and which classes
    had no training images; else ""."""
    words: dict[str, list[str]] = {}
    untrained: dict[str, list[str]] = {}
    for column in columns:
        for cell in comparison.column(column).values():
            for result in cell.results:
                if which := untrained_words(result.data):
                    untrained.setdefault(which, []).append(comparison.columns[column].name)
                total, reasons = _left_out(result)
                if reasons:
                    names = words.setdefault(f"{result.n:,} of {total:,} test images ({reasons})", [])
                    names.append(comparison.columns[column].name)
    parts = [f"{', '.join(dict.fromkeys(names))}: measured on {which}." for which, names in words.items()]
    return " ".join([*parts, *(f"{', '.join(dict.fromkeys(names))}: {which}." for which, names in untrained.items())])


def differences(comparison: Comparison, name: str) -> Table:
    """Make the table of tested pairs, the row with the larger value first."""
    numeric = ("Difference", "p", "p, Holm")
    names = ("Evaluation", "Row", "against", *numeric, "Holds", "Unequal", "Test")
    decimals = {column: column_decimals(comparison, column) for column in comparison.headline}
    lines = []
    for pair in comparison.tests.itertuples():
        a, b = comparison.rows[pair.a], comparison.rows[pair.b]
        sign, first, second = (1, a, b) if pair.difference >= 0 else (-1, b, a)
        low, high = sorted((sign * pair.low, sign * pair.high))
        difference, places = sign * pair.difference, decimals[pair.column]
        note, numbers = shown_interval(low, high, places), {"": difference, "low": low, "high": high}
        holds = "yes" if pair.holds else "no"
        unequal = [SETTINGS[key].lower() for key in unequal_settings(a, b)]
        unequal += comparison.unequal_conditions(pair.column, pair.a, pair.b)
        lines.append(
            [
                text(comparison.columns[pair.column].name),
                text(first.label, first.paper_label),
                text(second.label, second.paper_label),
                Entry(shown_difference(difference, places, "+"), difference, note=note, numbers=numbers),
                number(pair.p, p_value),
                number(pair.p_holm, p_value),
                Entry(holds, holds, bold=bool(pair.holds)),
                text(", ".join(unequal) or "–"),
                text(pair.test),
            ]
        )
    caption = (
        "Pairs of methods on one backbone, and of backbones with one method: difference of the means, its 95% interval (not "
        "corrected), and p-values of the pair alone and corrected for all tests of the table (Holm’s correction; see "
        "docs/statistics.md). “Unequal” names the settings and conditions in which the two rows differ."
    )
    if comparison.tested > len(lines):
        which = "those with the best row of a backbone, or a reference, are listed"
        caption += f" Of {comparison.tested} tested pairs (over {LISTED_PAIRS}), {which}."
    if reasons := [f"{reason} ({pairs_words(n)})" for reason, n in comparison.untested.items()]:
        more = [f"and {len(reasons) - MOST_REASONS} more"] if len(reasons) > MOST_REASONS else []
        caption += f" Not tested: {'; '.join(reasons[:MOST_REASONS] + more)}."
    return Table(name, f"Differences on {comparison.data}", caption, headings_of(names, numeric), lines)


def pairs_words(n: int) -> str:
    return "1 pair" if n == 1 else f"{n:,} pairs"


def measurements(comparison: Comparison, name: str) -> Table:
    """Make a table with a line for each measurement."""
    headings, identities = row_names(comparison.rows)
    headings += headings_of(("Evaluation", "Metric", "Value"), ("Value",))
    headings += [Heading(name, numeric=True, group="95% interval") for name in ("over seeds", "over images")]
    headings += headings_of(("Seeds", "Images"), ("Seeds", "Images"))
    places = [column_decimals(comparison, column) for column in range(len(comparison.columns))]
    lines, breaks = [], []
    for position, identity in enumerate(identities):
        breaks.append(len(lines))
        for column, kind in enumerate(comparison.columns):
            if cell := comparison.cells.get((position, column)):
                summary = cell.over_seeds
                value = shown_mean(summary, places[column])
                lines.append(
                    [
                        *identity,
                        text(kind.evaluation_name),
                        text(kind.metric_name),
                        Entry(value, summary.mean, numbers={"": summary.mean, "std": summary.std}),
                        _range(summary.low, summary.high, places[column]),
                        _range(*(cell.images or (None, None)), places[column]),
                        number(summary.n, str),
                        number(cell.results[0].n, lambda n: f"{n:,}", note=_of_all(cell.results[0])),
                    ]
                )
    return Table(
        name,
        f"All measurements on {comparison.data}",
        f"Mean ± standard deviation over seeds, {T_INTERVAL}, and 95% percentile bootstrap interval over test images (of each "
        "image’s outcome averaged over seeds).",
        headings,
        lines,
        frozenset(breaks[1:]),
    )


def _range(low: float | None, high: float | None, places: int) -> Entry:
    numbers = {"low": low, "high": high}
    if low is None or high is None:
        return Entry("–", numbers=numbers)
    return Entry(shown_interval(low, high, places), high - low, numbers=numbers)
