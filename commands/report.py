"""Make the report from run directories alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from simple_parsing import field

from common.cli import read_command
from common.progress import say
from reports import build_report


@dataclass(kw_only=True)
class ReportCommand:
    """Make the report from run directories alone."""

    runs: list[str] = field(positional=True, metavar="RUN")
    """run directories, or folders of them; beside them, the bench.json of make bench"""
    out: str = "report"
    """folder for index.html, tables and figures"""
    title: str = "Comparison"
    """heading of the page"""
    palette: Literal["diverging", "study"] = "diverging"
    """of cross-correlations; diverging: white at 0; study: cyan at 0, red at 1"""
    class_names: str | None = None
    """file of names for the classes in tables: one a line in their order, or CLASS NAME; default: words of ImageNet's synsets"""
    columns: list[str] = field(default_factory=list)
    """columns of tables/paper.tex, in this order: evaluations, or one with its metric (knn:top5); default: the tested ones"""
    rows: list[str] = field(default_factory=list)
    """rows of tables/paper.tex, in this order: methods, backbones, variants, or labels as in legends; default: all"""


def main(words: Sequence[str]) -> int:
    command = read_command("report", __doc__, ReportCommand, words)
    out = build_report(
        command.runs,
        command.out,
        title=command.title,
        palette=command.palette,
        columns=command.columns,
        rows=command.rows,
        class_names=command.class_names,
    )
    say(out)
    return 0
