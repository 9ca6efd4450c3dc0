"""Make tables of the ``bench.json`` files of ``python -m benchmarks.run``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import unreadable
from common.files import read_json
from reports.analysis.tables import Entry, Table, headings_of, in_file, number, text
from reports.page.provenance import commit, given_command, hardware
from rundir.read import Problem


def speed_tables(files: Sequence[Path], problems: list[Problem]) -> list[Table]:
    """Make a table for each file; unusable files and measurements become problems."""
    tables = []
    for file in files:
        try:
            content = read_json(file)
            about, measurements = content["about"], content["measurements"]
            if not isinstance(about, dict) or not isinstance(measurements, list):
                raise TypeError
        except (OSError, ValueError) as error:
            problems.append(Problem(str(file), f"{unreadable(error)}; left out"))
            continue
        except (KeyError, TypeError):
            problems.append(Problem(str(file), "no file of figures as python -m benchmarks.run writes it; left out"))
            continue
        rows: list[list[Entry]] = []
        for place, measurement in enumerate(measurements, 1):
            try:
                rows += _rows(measurement)
            except (KeyError, TypeError, ValueError, AttributeError):
                problems.append(Problem(str(file), f"measurement {place} is damaged; left out"))
        if rows:
            tables.append(_table(rows, about, len(tables)))
    return tables


def _table(rows: list[list[Entry]], about: Mapping[str, Any], before: int) -> Table:
    origin = {"on": hardware(about), "commit": commit(about), "command": given_command(about)}
    where = "; ".join(f"{name} {value}" for name, value in origin.items() if value)
    headings = ["Benchmark", "What", "By", "Speed", "Beside", "Times as fast", "Of the limit"]
    numeric = ("Speed", "Times as fast", "Of the limit")
    return Table(
        f"speed-{before + 1}" if before else "speed",
        "Speed",
        "Medians, and below them the range over the rounds. Ratios are of two times of the same round. The limit is what the "
        f"machine was measured to do at best. Measured {where or 'on an unknown machine'}."
        + (" Quick: too short to count." if about.get("quick") else ""),
        headings_of(headings, numeric),
        rows,
    )


def _rows(measurement: Mapping[str, Any]) -> list[list[Entry]]:
    """Make a line for each contender of a measurement, or one line; wrong content raises Python's errors."""
    what = [text(measurement[name]) for name in ("benchmark", "case", "contender")]
    value = _spread(measurement["value"], f" {measurement['unit']}")
    limit = Entry("–")
    if measurement["reached"] is not None:
        reached = _finite(measurement["reached"])
        limit = number(reached, "{:.0%}".format, note=f"of {measurement['limit']}")
    ratios = [(text(other), _spread(ratio, "")) for other, ratio in measurement["ratios"].items()]
    return [[*what, value, *beside, limit] for beside in ratios or [(text("–"), number(None, str))]]


def _spread(spread: Mapping[str, Any], unit: str) -> Entry:
    median, low, high = (_finite(spread[name]) for name in ("median", "low", "high"))
    note = "" if low == high else f"[{_short(low)}, {_short(high)}]"
    return number(median, lambda value: _short(value) + unit, note=note, numbers={"": median, "low": low, "high": high})


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _short(value: float) -> str:
    value = in_file(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
