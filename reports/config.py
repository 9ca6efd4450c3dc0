"""Options of the commands ``run.py report`` and ``run.py reproduce``. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from simple_parsing import field


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


@dataclass(kw_only=True)
class ReproduceCommand:
    """Run rows of published tables, and set what is measured beside what was published."""

    tables: list[str] = field(positional=True, default_factory=list, nargs="*", metavar="TABLE")
    """published tables to run, such as dino/table2; --list shows them"""
    list: bool = False
    """show every table: what it needs, what it costs, and what has been measured so far under --out"""
    data_root: list[str] | None = None
    """folder of the data set; where a table reads several, NAME=DIR for each"""
    rows: list[str] | None = None
    """rows to run, by their names; default: all that can be run"""
    seeds: list[int] | None = None
    """one run of each row for each; default: the grid's, or 0"""
    out: str = "reproduced"
    """folder for the run directories, tables and reports"""
    dry_run: bool = False
    """print the commands; run nothing"""
