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
