"""Write the summary; every sentence is computed from the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.analysis.columns import conditions_of
from reports.analysis.comparison import ALPHA, Comparison
from reports.analysis.power import MOST_SEEDS
from reports.analysis.rows import SETTINGS, Row, unequal_settings
from reports.analysis.tables import in_file
from reports.page.comparison_tables import column_decimals, p_value, shown_difference, shown_mean
from rundir.read import Problem, Run

#: Limit of backbones with a sentence of their own.
MOST_BLOCKS = 6
#: Limit of columns with a sentence on what would show a difference.
MOST_COLUMNS = 4


def overview(runs: Sequence[Run], rows: Sequence[Row], comparisons: Sequence[Comparison]) -> str:
    """Describe the report in a line."""
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
    """A statement and its subject."""

    lead: str
    words: str


def findings(comparison: Comparison) -> list[Finding]:
    """State the best row of each backbone and headline column, and whether its lead holds."""
    statements = []
    blocks = [block for block in comparison.ranked if len(block) > 1]
    for block in blocks[:MOST_BLOCKS]:
        if words := _best(comparison, block):
            first = comparison.rows[block[0]]
            statements.append(Finding(f"{first.backbone}, with labels" if first.used_labels else first.backbone, words))
    alone = [block[0] for block in comparison.ranked if len(block) == 1 and comparison.rows[block[0]].used_labels]
    for row in alone[:MOST_BLOCKS]:
        if words := _beside_labels(comparison, row):
            statements.append(Finding("With labels", words))
    if left := len(blocks[MOST_BLOCKS:]) + len(alone[MOST_BLOCKS:]):
        statements.append(Finding("Further backbones", f"The other {left} are in the table."))
    references = {row.method: row for row in comparison.rows if row.facts["reference"]}
    for row in sorted(references.values(), key=lambda row: not row.facts["needs_backbone"]):
        if words := _against(comparison, row):
            statements.append(Finding(row.method_name, words))
    return statements


def _best(comparison: Comparison, block: list[int]) -> str:
    """State for each best row its columns, its leads, and whether they hold."""
    by_row: dict[int, list[int]] = {}
    for column in comparison.headline:
        measured = [row for row in block if (row, column) in comparison.cells]
        if len(measured) > 1:
            by_row.setdefault(comparison.best(column, measured), []).append(column)
    total = sum(map(len, by_row.values()))
    labels_elsewhere = any(row.used_labels and not row.facts["reference"] for row in comparison.rows)
    sentences = []
    for row, columns in by_row.items():
        ties = [column for column in columns if _tied(comparison, block, row, column)]
        won = [column for column in columns if column not in ties]
        if won:
            everywhere = len(won) == total > 1
            where = "every evaluation" if everywhere else _list([comparison.columns[column].name for column in won])
            clauses = [_lead(comparison, block, row, column, len(won) > 1) for column in won]
            among = "Without labels, " if labels_elsewhere and not comparison.rows[row].used_labels else ""
            sentences.append(f"{among}{_short(comparison.rows[row])} is best in {where}: {'; '.join(clauses)}.")
        for column in ties:
            level = [_short(comparison.rows[other]) for other in [row, *_tied(comparison, block, row, column)]]
            shown = shown_mean(comparison.cells[row, column].over_seeds, column_decimals(comparison, column))
            sentences.append(f"{_list(level)} tie in {comparison.columns[column].name}, at {shown}.")
        others = [comparison.rows[other] for other in block if other != row]
        if unequal := _settings(key for other in others for key in unequal_settings(comparison.rows[row], other)):
            sentences.append(f"{_short(comparison.rows[row])} differs from rows it is compared with in {unequal}, too.")
        for column in columns:
            if words := _protocols(
                comparison,
                column,
                row,
                [other for other in block if other != row and (other, column) in comparison.cells],
            ):
                sentences.append(f"The protocols of {comparison.columns[column].name} are not equal: {words}.")
    return " ".join(sentences)


def _beside_labels(comparison: Comparison, row: int) -> str:
    """Say how far the only row of a backbone that used labels is from the best without them."""
    block = next(block for block in comparison.blocks if row in block)
    without = [other for other in block if not comparison.rows[other].used_labels]
    columns = [
        column
        for column in comparison.headline
        if (row, column) in comparison.cells and comparison.best(column, without) is not None
    ]
    clauses = [_lead(comparison, [row, *without], row, column, len(columns) > 1) for column in columns]
    if not clauses:
        return ""
    label = comparison.rows[row].label
    return f"{label} used labels, so it is ranked apart. Beside the best row without: {'; '.join(clauses)}."


def _protocols(comparison: Comparison, column: int, best: int, others: Sequence[int]) -> str:
    """Say in which conditions the best row's measurement differs from the others' ("epochs 30 against 1")."""
    own = conditions_of(comparison.cells[best, column].results[0])
    against: dict[str, dict[str, None]] = {}
    for other in others:
        theirs = conditions_of(comparison.cells[other, column].results[0])
        for name in comparison.unequal_conditions(column, best, other):
            against.setdefault(name, {})[theirs.get(name, "none")] = None
    return "; ".join(
        f"{name} {own.get(name, 'none')} against {_list(list(values))}" for name, values in against.items()
    )


def _tied(comparison: Comparison, block: list[int], best: int, column: int) -> list[int]:
    """The rows that cannot be told from the best: equal as shown, and no difference that holds."""
    places, cells = column_decimals(comparison, column), comparison.column(column)
    tied = []
    for row in block:
        if row == best or row not in cells:
            continue
        pair = comparison.test_of(column, best, row)
        margin = cells[best].over_seeds.mean - cells[row].over_seeds.mean
        if (pair is None or not pair.holds) and not round(in_file(margin), places):
            tied.append(row)
    return tied


def _settings(keys: Iterable[str]) -> str:
    """Join the distinct names of settings."""
    return _list([SETTINGS[key].lower() for key in dict.fromkeys(keys)])


def _short(row: Row) -> str:
    return ", ".join(filter(None, (row.method_name, row.variant)))


def _lead(comparison: Comparison, block: list[int], row: int, column: int, named: bool) -> str:
    """Say how far a row is from the best of the others, and whether the difference holds."""
    other = comparison.best(column, [other for other in block if other != row])
    kind, places = comparison.columns[column], column_decimals(comparison, column)
    cell = comparison.cells[row, column]
    margin = cell.over_seeds.mean - comparison.cells[other, column].over_seeds.mean
    start = (
        f"{f'{kind.name} ' if named else ''}{shown_mean(cell.over_seeds, places)}, {shown_difference(abs(margin), places)} "
        f"{'below' if margin < 0 else 'above'} {_short(comparison.rows[other])}"
    )
    pair = comparison.test_of(column, row, other)
    if pair is None:
        return f"{start} (could not be tested)"
    p = p_value(pair.p_holm)
    p = p.replace(" ", "\u00a0") if p.startswith("<") else f"=\u00a0{p}"
    if cell.bold and len(block) > 2:
        return f"{start} (holds, as do its differences to all others here; p {p})"
    if pair.holds:
        return f"{start} (holds, p {p})"
    return f"{start} (does not hold, p {p}: which of the two is better stays open)"


def _against(comparison: Comparison, reference: Row) -> str:
    """Compare the trained rows with a reference: the untrained backbone, or raw pixels."""
    better, worse, unclear = [], [], []
    name, within_block = reference.facts["reference"], reference.facts["needs_backbone"]
    for block in comparison.blocks if within_block else [list(range(len(comparison.rows)))]:
        references = [row for row in block if comparison.rows[row].method == reference.method]
        trained = [row for row in block if comparison.rows[row].trained and row not in references]
        one = references[0] if len(references) == 1 else None
        begun_as = {
            row: one if reference.facts["trains"] or not within_block else comparison.untrained_of(row)
            for row in trained
        }
        for column in comparison.headline:
            kind, cells = comparison.columns[column], comparison.column(column)
            for row, other in begun_as.items():
                if row not in cells or other not in cells:
                    continue
                pair = comparison.test_of(column, row, other)
                lead = (cells[row].over_seeds.mean - cells[other].over_seeds.mean) * kind.sign
                group = unclear if pair is None or not pair.holds else better if lead > 0 else worse
                group.append(f"{comparison.rows[row].label} ({kind.name})")
    total = len(better) + len(worse) + len(unclear)
    if not total:
        return ""
    if len(better) == total:
        return f"Every trained row is better than {name} in every evaluation, and each of these differences holds."
    if not better and not worse:
        which = "The only difference" if total == 1 else f"None of the {total} differences"
        return f"{which} between a trained row and {name} {'does not hold' if total == 1 else 'holds'}."
    parts = [f"In {len(better)} of {total} comparisons with {name} the trained row is better and the difference holds"]
    if worse:
        parts.append(f"worse, and the difference holds: {_list(worse[:4], len(worse))}")
    if unclear:
        parts.append(f"open: {_list(unclear[:4], len(unclear))}")
    return "; ".join(parts) + "."


def limits(rows: Sequence[Row], comparisons: Sequence[Comparison], problems: Sequence[Problem]) -> list[str]:
    """List the reasons for caution."""
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
            "Two seeds may agree by chance, so they hardly tell the spread between trainings: even a difference of 40 standard "
            "errors over test images holds in most reports only if trainings hardly vary. Three seeds mostly show 6 to 20, five "
            "4 to 10, the more the trainings vary (docs/statistics.md)."
        )
    if unequal := _settings(key for comparison in comparisons for key in comparison.unequal_settings):
        sentences.append(
            f"The trained rows differ in {unequal}. Differences between such rows are "
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
    for comparison in comparisons:
        for column in list(comparison.needed)[:MOST_COLUMNS]:
            sentences.append(_power(comparison, column))
    if problems:
        sentences.append(f"{_count(len(problems), 'problem')} with the run directories: see the list at the end.")
    return sentences


def _power(comparison: Comparison, column: int) -> str:
    """Say what would have shown a difference of 1, 2 and 5 points."""
    clauses = []
    for one in comparison.needed[column]:
        ways = [f"{one.seeds} seeds"] if one.seeds else []
        ways += [f"{one.images:,} test images"] if one.images else []
        clauses.append(f"{_count(one.points, 'point')}: {' or '.join(ways) or f'none up to {MOST_SEEDS} seeds'}")
    return (
        f"What would have shown a true difference in {comparison.columns[column].name} on {comparison.data}, in 4 of 5 reports "
        f"with the variances measured here: {'; '.join(clauses)}."
    )


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _list(words: Sequence[str], total: int | None = None) -> str:
    more = (total or len(words)) - len(words)
    if more > 0:
        return f"{', '.join(words)} and {more} more"
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
