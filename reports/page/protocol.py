"""Write the paragraph on the evaluation protocol for a paper, and the BibTeX entries that it cites, from what was run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from backbones import citation_of, title_of
from common.registry import plugins_of
from reports.analysis.comparison import Comparison
from reports.analysis.latex import latex
from reports.analysis.rows import Row
from reports.analysis.tests import MCNEMAR
from reports.page.comparison_tables import left_out_words, seeds_words
from reports.page.row_tables import evaluations_of, protocol_words

BIBLIOGRAPHY = Path(__file__).parents[1] / "analysis" / "references.bib"
BOOTSTRAP, HOLM, LOGIT, EXACT = "Efron and Tibshirani 1993", "Holm 1979", "Brown et al. 2001", "McNemar 1947"


class References:
    """Collects what is cited."""

    def __init__(self) -> None:
        self._known = BIBLIOGRAPHY.read_text(encoding="utf-8").splitlines()
        self._entries: dict[str, str] = {}

    def cite(self, citations: Iterable[str]) -> str:
        """A LaTeX citation of citations such as "Caron et al. 2021, arXiv 2104.14294"; "" of none."""
        keys = []
        for citation in filter(None, citations):
            entry = self._entry(citation)
            key = re.match(r"@\w+{([^,]+)", entry)[1]
            self._entries[key] = entry
            keys.append(key)
        return rf"~\cite{{{','.join(dict.fromkeys(keys))}}}" if keys else ""

    def _entry(self, citation: str) -> str:
        """The entry of the same arXiv number, or the same words in its note; else one made of the words."""
        number = re.search(r"arXiv (\d{4}\.\d{4,5})", citation)
        mark = f"eprint = {{{number[1]}}}" if number else f"note = {{{citation}}}"
        for entry in self._known:
            if mark in entry:
                return entry if number else entry.replace(f", {mark}", "")
        year = re.search(r"\b(?:19|20)\d\d\b", citation)
        key = re.sub(r"\W+", "", re.split(r"[ ,]", citation)[0]).lower() + (year[0] if year else "")
        fields = {"title": latex(citation)}
        if year:
            authors = citation[: year.start()].strip(" ,").replace(" et al.", " and others")
            fields = {"author": latex(authors), "year": year[0], "title": latex(citation)}
        if number:
            fields |= {"eprint": number[1], "archiveprefix": "arXiv"}
        return f"@misc{{{key or 'reference'}, {', '.join(f'{name} = {{{value}}}' for name, value in fields.items())}}}"

    def bibliography(self) -> str:
        """The entries that were cited."""
        return "\n".join(self._entries.values()) + "\n"


def protocol(rows: Sequence[Row], comparisons: Sequence[Comparison]) -> tuple[str, str]:
    """Write the paragraph (LaTeX, with ``\\cite``) and its references (BibTeX)."""
    references = References()
    sentences = [_methods(rows, references)]
    for comparison in comparisons:
        sentences += _evaluations(comparison, references)
    sentences += _statistics(comparisons, references)
    lines = ["% made from the runs of the report; needs references.bib", r"\paragraph{Evaluation protocol.}"]
    return "\n".join([*lines, *filter(None, sentences), ""]), references.bibliography()


def _methods(rows: Sequence[Row], references: References) -> str:
    methods = {row.method_name: row.facts["citation"] for row in rows if not row.facts["reference"]}
    beside = {row.facts["reference"]: row.facts["citation"] for row in rows if row.facts["reference"]}
    backbones = {title_of(row.backbone): citation_of(row.backbone) for row in rows if row.facts["needs_backbone"]}
    trained = [row for row in rows if row.trained]
    words = f"We compare {_cited(methods or beside, references)}"
    if methods and beside:
        words += f" with {_cited(beside, references)}"
    if backbones:
        words += f" on {_cited(backbones, references)}"
    if trained:
        data = {
            _data_title(name): _data_citation(name) for name in dict.fromkeys(row.settings["data"] for row in trained)
        }
        budgets = ", ".join(dict.fromkeys(row.settings["budget"] for row in trained))
        words += f", trained on {_cited(data, references)} ({latex(budgets)} images seen)"
    if (seeds := seeds_words(rows)) != "1":
        words += f"; trainings with {seeds} seeds for each row"
    return f"{words}."


def _cited(names: dict[str, str], references: References) -> str:
    words = [latex(name) + references.cite([citation]) for name, citation in names.items()]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _data_title(name: str) -> str:
    return plugins_of("data.sets").facts(name.split(" ")[0]).get("title", name)


def _data_citation(name: str) -> str:
    return plugins_of("data.sets").facts(name.split(" ")[0]).get("citation", "")


def _evaluations(comparison: Comparison, references: References) -> list[str]:
    """A sentence for each evaluation, with its protocol, and one on test images that were left out."""
    data = latex(_data_title(comparison.data)) + references.cite([_data_citation(comparison.data)])
    sentences = []
    for columns in evaluations_of(comparison).values():
        kinds = [comparison.columns[column] for column in columns]
        results = [
            result for column in columns for cell in comparison.column(column).values() for result in cell.results
        ]
        counts = sorted({result.n for result in results})
        items = kinds[0].facts["grouped_by"] if kinds[0].facts["grouped_by"] != "images" else "test images"
        metrics = ", ".join(dict.fromkeys(kind.facts["metric"] for kind in kinds))
        number = " or ".join(f"{n:,}" for n in counts)
        on = (
            f"{number} test images of {data}"
            if items == "test images"
            else f"{number} items of {data}, grouped by {latex(items)}"
        )
        name = latex(kinds[0].evaluation_name) + references.cite([kinds[0].facts["citation"]])
        sentences.append(
            f"{name} ({latex(metrics)}) on {on}: {latex(protocol_words(comparison, columns) or 'protocol not told')}."
        )
    if words := left_out_words(comparison, range(len(comparison.columns))):
        sentences.append(latex(words))
    return sentences


def _statistics(comparisons: Sequence[Comparison], references: References) -> list[str]:
    cells = [cell for comparison in comparisons for cell in comparison.cells.values()]
    sentences = []
    if any(cell.images for cell in cells):
        sentences.append(
            rf"Intervals over test images are 95\% percentile bootstrap intervals{references.cite([BOOTSTRAP])}."
        )
    if any(cell.over_seeds.low is not None for cell in cells):
        scale = references.cite([LOGIT])
        sentences.append(
            rf"Intervals over seeds are 95\% t intervals, of the logit{scale} where the metric's scale is bounded."
        )
    for comparison in comparisons:
        if comparison.tested:
            kinds = list(dict.fromkeys(comparison.tests["test"]))
            tests = latex("; ".join(kinds)) + (references.cite([EXACT]) if MCNEMAR in kinds else "")
            data = latex(_data_title(comparison.data))
            sentences.append(
                f"Differences on {data} are tested ({tests}) and corrected by Holm's procedure{references.cite([HOLM])} over "
                f"{comparison.tested} tests."
            )
    return sentences
