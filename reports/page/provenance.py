"""Make the table of provenance: code, packages, hardware, data, and the commands that reproduce a row."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from common.cli import words_of
from reports.analysis.rows import Row, extension_of
from reports.analysis.tables import Table, headings_of, text
from rundir.read import Run


def provenance(rows: Sequence[Row]) -> Table:
    """Make a table with a line for each row."""
    headings = ["Row", "Seeds", "Commit", "Python", "Packages", "Hardware", "Training data", "Test data", "Finished"]
    lines = []
    for row in rows:
        environments = [run.environment for run in row.runs]
        cells = [
            row.label,
            ", ".join(f"{run.seed}{'' if run.finished else ' (unfinished)'}{extension_of(run)}" for run in row.runs),
            _all(map(commit, environments)),
            _all(environment.get("python") for environment in environments),
            _all(map(_packages, environments)),
            _all(map(hardware, environments)),
            _all(images for run in row.runs for images in (_unlabelled(run), *_fingerprints(run, "train"))),
            _all(fingerprint for run in row.runs for fingerprint in _fingerprints(run, "test")),
            max((run.newest for run in row.runs), default="") or "–",
        ]
        lines.append([text(cell) for cell in cells])
    return Table(
        "provenance",
        "Provenance",
        "What each row was made with, as its runs recorded it; where its seeds differ, all values. “Modified”: the checkout had "
        "changes that are not in the commit. Fingerprints are of decoded pixels and labels.",
        headings_of(headings),
        lines,
    )


def _all(values: Iterable[Any]) -> str:
    """Join the distinct values in order."""
    return "; ".join(dict.fromkeys(str(value) for value in values if value)) or "–"


def commit(environment: Mapping[str, Any]) -> str:
    """The commit in an ``environment.json``, and whether the checkout had changes; "" without a commit."""
    name, modified = str(environment.get("commit") or "")[:10], environment.get("modified")
    return f"{name} (modified)" if name and modified else name


def _packages(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    return ", ".join(f"{name} {version}" for name, version in packages.items() if version)


def hardware(environment: Mapping[str, Any]) -> str:
    """Device, processor, cores and processes in an ``environment.json``."""
    device, cpu = environment.get("device"), environment.get("cpu")
    parts = [str(device)] if device else []
    if cpu and str(cpu) not in str(device):
        parts.append(str(cpu))
    if environment.get("cores"):
        parts.append(f"{environment['cores']} cores")
    if isinstance(environment.get("processes"), int) and environment["processes"] > 1:
        parts.append(f"{environment['processes']} processes")
    return ", ".join(parts)


def _fingerprints(run: Run, split: str) -> Iterator[str]:
    for result in run.results:
        about = result.data.get(split)
        if isinstance(about, dict) and about.get("fingerprint"):
            yield f"{result.data.get('name', '')} {str(about['fingerprint'])[:12]}".strip()


def _unlabelled(run: Run) -> str:
    """The images that a run trained on, if none has a label; "" for others, which evaluations' fingerprints name."""
    return f"{run.config.get('data', '')} {run.fingerprint[:12]}, no labels" if run.unlabelled else ""


def given_command(environment: Mapping[str, Any]) -> str:
    """The command line in an ``environment.json``, or ""."""
    given = environment.get("command")
    if isinstance(given, list):
        return shlex.join(str(word) for word in given)
    return given if isinstance(given, str) else ""


def command(run: Run) -> str:
    """The command line that reproduces a run: as recorded, else with all its options."""
    words = ["python", "run.py", "train" if run.has_log else "evaluate", *words_of(run.config)]
    return given_command(run.environment) or shlex.join(words)
