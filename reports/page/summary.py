"""The summary in words. Every sentence is computed from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.analysis.comparison import ALPHA, Comparison
from reports.analysis.rows import SETTINGS, Row, unequal_settings
from reports.page.comparison_tables import column_decimals, p_value, shown_value
from rundir.read import Problem, Run

#: Backbones that the summary tells of one by one.
MOST_BLOCKS = 6


def overview(runs: Sequence[Run], rows: Sequence[Row], comparisons: Sequence[Comparison]) -> str:
    """What the report is about, in a line."""
    methods = {row.method for row in rows if row.trained}
    references = _list(list(dict.fromkeys(row.method_name for row in rows if not row.trained)))
    backbones = {row.backbone for row in rows if row.facts["needs_backbone"]}
    data = list(dict.fromkeys(comparison.data for comparison in comparisons))
    unfinished = sum(not run.finished for run in runs)
    return (
        f"{_count(len(runs) - unfinished, 'run')}: {_count(len(methods), 'method')} on {_count(len(backbones), 'backbone')}"
        + (f", with {references.lower()} for reference" if references else "")
        + (f"; evaluated on {_list(data)}" if data else "")
        + (f". {_count(unfinished, 'more run')} not finished" if unfinished else "")
        + "."
    )


@dataclass(frozen=True)
class Finding:
    """A statement: what it is about, and the words."""

    lead: str
    words: str


def findings(comparison: Comparison) -> list[Finding]:
    """What the first table says: for each backbone the best row of each headline column, and whether it really is."""
    found = []
    blocks = [block for block in comparison.blocks if len(block) > 1]
    for block in blocks[:MOST_BLOCKS]:
        if words := _best(comparison, block):
            found.append(Finding(comparison.rows[block[0]].backbone, words))
    if len(blocks) > MOST_BLOCKS:
        found.append(Finding("Further backbones", f"The other {len(blocks) - MOST_BLOCKS} are in the table."))
    references = {row.method: row for row in comparison.rows if row.facts["reference"]}
    for row in sorted(references.values(), key=lambda row: not row.facts["needs_backbone"]):
        if words := _against(comparison, row):
            found.append(Finding(row.method_name, words))
    return found


def _best(comparison: Comparison, block: list[int]) -> str:
    """For each row that is best in some column: in which, by how much, and whether that holds."""
    by_row: dict[int, list[int]] = {}
    for column in comparison.headline:
        measured = [row for row in block if (row, column) in comparison.cells]
        if len(measured) > 1:
            by_row.setdefault(comparison.best(column, measured), []).append(column)
    total = sum(map(len, by_row.values()))
    sentences = []
    for row, columns in by_row.items():
        where = (
            "every evaluation" if len(columns) == total > 1 else _list([comparison.columns[c].name for c in columns])
        )
        clauses = [_lead_over_second(comparison, block, row, column, len(columns) > 1) for column in columns]
        sentences.append(f"{_short(comparison.rows[row])} is best in {where}: {'; '.join(clauses)}.")
        others = [other for other in block if other != row]
        if unequal := dict.fromkeys(
            key for other in others for key in unequal_settings(comparison.rows[row], comparison.rows[other])
        ):
            sentences.append(
                f"It differs from rows it is compared with in {_list([SETTINGS[key].lower() for key in unequal])}, too."
            )
    return " ".join(sentences)


def _short(row: Row) -> str:
    return ", ".join(filter(None, (row.method_name, row.variant)))


def _lead_over_second(comparison: Comparison, block: list[int], best: int, column: int, named: bool) -> str:
    second = comparison.best(column, [row for row in block if row != best])
    kind, places = comparison.columns[column], column_decimals(comparison, column)
    cell = comparison.cells[best, column]
    margin = abs(cell.over_seeds.mean - comparison.cells[second, column].over_seeds.mean)
    name = f"{kind.name} " if named else ""
    start = (
        f"{name}{shown_value(cell, places)}, {margin:.{places}f} {'below' if kind.sign < 0 else 'above'} "
        f"{_short(comparison.rows[second])}"
    )
    line = _tested(comparison, column, best, second)
    if line is None:
        return f"{start} (could not be tested)"
    if cell.bold and len(block) > 2:
        return f"{start} (holds, as do its differences to all others here; p {_p(line.p_holm)})"
    if line.holds:
        return f"{start} (holds, p {_p(line.p_holm)})"
    return f"{start} (does not hold, p {_p(line.p_holm)}: which of the two is better stays open)"


def _p(p: float) -> str:
    shown = p_value(p)
    return shown.replace(" ", "\u00a0") if shown.startswith("<") else f"=\u00a0{shown}"


def _tested(comparison: Comparison, column: int, a: int, b: int):
    tests = comparison.tests
    if not len(tests):
        return None
    found = tests[
        (tests["column"] == column)
        & (((tests["a"] == a) & (tests["b"] == b)) | ((tests["a"] == b) & (tests["b"] == a)))
    ]
    return next(found.itertuples(), None)


def _against(comparison: Comparison, reference: Row) -> str:
    """How the trained rows stand to a reference: the untrained backbone, raw pixels."""
    above, below, unclear = [], [], []
    name, within_block = reference.facts["reference"], reference.facts["needs_backbone"]
    for block in comparison.blocks if within_block else [list(range(len(comparison.rows)))]:
        references = [row for row in block if comparison.rows[row].method == reference.method]
        if len(references) != 1:
            continue
        for column in comparison.headline:
            if (references[0], column) not in comparison.cells:
                continue
            for row in block:
                if row == references[0] or not comparison.rows[row].trained or (row, column) not in comparison.cells:
                    continue
                line = _tested(comparison, column, row, references[0])
                difference = (
                    comparison.cells[row, column].over_seeds.mean
                    - comparison.cells[references[0], column].over_seeds.mean
                ) * comparison.columns[column].sign
                group = unclear if line is None or not line.holds else above if difference > 0 else below
                group.append(f"{comparison.rows[row].label} ({comparison.columns[column].name})")
    total = len(above) + len(below) + len(unclear)
    if not total:
        return ""
    if len(above) == total:
        return f"Every trained row is better than {name} in every evaluation, and each of these differences holds."
    if not above and not below:
        which = "The only difference" if total == 1 else f"None of the {total} differences"
        return f"{which} between a trained row and {name} {'does not hold' if total == 1 else 'holds'}."
    parts = [f"In {len(above)} of {total} comparisons with {name} the trained row is better and the difference holds"]
    if below:
        parts.append(f"worse, and the difference holds: {_list(below[:4], len(below))}")
    if unclear:
        parts.append(f"open: {_list(unclear[:4], len(unclear))}")
    return "; ".join(parts) + "."


def limits(rows: Sequence[Row], comparisons: Sequence[Comparison], problems: Sequence[Problem]) -> list[str]:
    """What cannot be concluded."""
    sentences = []
    single = [row for row in rows if len(row.runs) == 1 and row.facts["needs_backbone"]]
    if single:
        which = "Every row stands" if len(single) == len(rows) else f"{len(single)} of {len(rows)} rows stand"
        sentences.append(
            f"{which} on one training. What its tests say holds for these trained networks; whether another seed would "
            "give the same order cannot be concluded, for the spread between trainings was not measured."
        )
    several = [row for row in rows if len(row.runs) > 1]
    if several and min(len(row.runs) for row in several) < 3:
        sentences.append(
            "With two seeds an interval over seeds is very wide (its t quantile is 12.7): run three or more."
        )
    unequal = list(dict.fromkeys(key for comparison in comparisons for key in comparison.unequal_settings))
    if unequal:
        sentences.append(
            f"The trained rows differ in {_list([SETTINGS[key].lower() for key in unequal])}. Differences between such rows are "
            "not the method’s alone; they are marked ≠."
        )
    untested = sum(sum(comparison.untested.values()) for comparison in comparisons)
    if untested:
        sentences.append(
            f"{_count(untested, 'pair')} of rows could not be tested; the reasons stand below the table of differences."
        )
    if any(comparison.tested for comparison in comparisons):
        sentences.append(
            f"A difference that does not hold at {ALPHA:g} is not evidence of equality; its interval says how large it may be."
        )
    if problems:
        sentences.append(f"{_count(len(problems), 'problem')} with the run directories: see the list at the end.")
    return sentences


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _list(words: Sequence[str], total: int | None = None) -> str:
    more = (total or len(words)) - len(words)
    if more > 0:
        return f"{', '.join(words)} and {more} more"
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
