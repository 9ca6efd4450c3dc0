"""Run directories as reports see them. A damaged, half-written or foreign file becomes a problem in a list, never an exception
and never a number."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import unreadable
from common.files import parse_json_lines, read_json, read_text
from common.names import first_names
from rundir.failure import failure_of
from rundir.options import load_options
from rundir.paths import CONFIG, ENVIRONMENT, LOG, REPRODUCES, RESULTS
from rundir.provenance import read_environment, read_mark
from rundir.results import Measurement, measured_key, parse_measurement

#: The most step records that are read from a log; a longer log is read at even distances, and its last record always.
STEP_RECORDS = 400


@dataclass(frozen=True)
class Problem:
    """A directory or file that a report could not use, and what is wrong with it."""

    where: str
    what: str


@dataclass
class Run:
    """One run directory.

    Attributes:
        config: the options of the training, or of the evaluation of given weights.
        environment, reproduces: contents of ``environment.json`` and ``reproduces.json`` (``rundir.provenance``).
        steps, knn, diagnostics: records of the log; about ``STEP_RECORDS`` steps at most, ``logged`` counts all.
            ``diagnostics`` are records of any kind with ``effective_rank`` or ``feature_std``.
        warnings: messages of the run's own warnings.
        end: the last record of a finished training, else None.
        has_log: False for an evaluation of given weights, which trains nothing.
        failure: why the run last failed; "" if it has not.
        fingerprint, source: of the training images (of their pixels, and of names, files and labels), also where this is an
            evaluation of a run's weights; "" if unknown.
        unlabelled: no training image has a label.
        images, held_out: numbers of images that a training trains on, and keeps for the online k-NN.
    """

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    knn: list[dict[str, Any]] = field(default_factory=list)
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    end: dict[str, Any] | None = None
    has_log: bool = False
    fingerprint: str = ""
    source: str = ""
    unlabelled: bool = False
    results: list[Measurement] = field(default_factory=list)
    logged: int = 0
    images: int = 0
    held_out: int = 0
    reproduces: dict[str, Any] | None = None
    failure: str = ""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def finished(self) -> bool:
        """False only for a training that has not ended."""
        return self.end is not None or not self.has_log

    @property
    def newest(self) -> str:
        """ISO date at which the run ended, or else began, or "". It comes from the records: files' times do not survive copying."""
        keys = ("finished", "time", "ended", "date", "started")
        times = [source.get(key) for source in (self.end or {}, self.environment) for key in keys]
        return next((time for time in times if isinstance(time, str)), "")


def read_runs(directories: Sequence[Path]) -> tuple[list[Run], list[Problem]]:
    """Read run directories, each once. A folder of runs stands for its runs, in the order of their names."""
    problems: list[Problem] = []
    distinct: dict[Path, Path] = {}
    for directory in _expand(directories):
        distinct.setdefault(Path(os.path.realpath(directory)), directory)
    runs = []
    for directory in distinct.values():
        try:
            runs.append(_read_run(directory, problems))
        except OSError as error:
            problems.append(Problem(str(directory), unreadable(error)))
        except ValueError as error:
            problems.append(Problem(str(directory), str(error)))
    return runs, problems


def _is_run(directory: Path) -> bool:
    """Whether a folder holds a file of a run, even one that leads nowhere."""
    return any(os.path.lexists(directory / name) for name in (CONFIG, LOG, RESULTS))


def _may_be_run(path: Path) -> bool:
    """Whether something in a folder of runs is a folder, or a link that leads nowhere, which the report should name."""
    return os.path.isdir(path) or not os.path.exists(path)  # noqa: PTH110, PTH112 (Path's raise where they may not look)


def _expand(directories: Iterable[Path]) -> Iterable[Path]:
    for directory in directories:
        inner = []
        with suppress(OSError):  # reading it as a run says why
            if not _is_run(directory):
                inner = sorted(path for path in directory.iterdir() if path.name[:1] != "." and _may_be_run(path))
        yield from inner if any(map(_is_run, inner)) else [directory]


def _read_run(directory: Path, problems: list[Problem]) -> Run:
    """Read one run. Raises ValueError if the directory is no run, or its options are unknown."""
    if not directory.is_dir():
        raise ValueError("no such directory")
    os.scandir(directory).close()  # says why where it cannot be read
    if not _is_run(directory):
        raise ValueError(f"no run directory: it holds neither {CONFIG} nor {LOG} nor {RESULTS}/")
    try:
        run = Run(directory, load_options(directory / CONFIG))
    except FileNotFoundError as error:
        raise ValueError(f"has no {CONFIG}, so it is unknown what was trained; left out") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{CONFIG} {unreadable(error)}; left out") from error
    if not run.config:
        raise ValueError(f"{CONFIG} holds no options; left out")

    def problem(what: str, file: str = "") -> None:
        problems.append(Problem(str(directory / file), what))

    try:
        run.environment = read_environment(directory)
    except (OSError, ValueError) as error:
        problem(f"{unreadable(error)}; provenance of this run is unknown", ENVIRONMENT)
    try:
        run.reproduces = read_mark(directory) or None
    except (OSError, ValueError) as error:
        problem(f"{unreadable(error)}; left out of the tables of published numbers", REPRODUCES)
    _read_log(run, problem)
    if not run.has_log and isinstance(trained := run.environment.get("trained"), dict):
        run.fingerprint, run.source = (str(trained.get(name) or "") for name in ("fingerprint", "source"))
    for file in sorted((directory / RESULTS).glob("*.json")):
        _read_results(run, file, problem)
    run.failure = failure_of(directory)
    if run.failure:
        problem(f"failed: {run.failure}; the same command, mended, continues it")
    elif not run.finished:
        last = run.steps[-1] if run.steps else {}
        at = f"last record: epoch {last.get('epoch', '?')}, step {last.get('step', '?')}" if last else "no step yet"
        left_out = f"; its {len(run.results)} measurements are left out" if run.results else ""
        problem(f"training has not ended ({at}){left_out}; the same command continues it")
    elif not run.results:
        elsewhere = " on a data set with labels (--data NAME), as its images have no labels," if run.unlabelled else ""
        problem(f"has no measurement; evaluate it{elsewhere} to see it in the tables")
    return run


def _read_log(run: Run, problem: Callable[[str, str], None]) -> None:
    """Fill in the run's log records, parsing ``STEP_RECORDS`` steps: a page shows no more, and long logs would take minutes."""
    try:
        text = read_text(run.path / LOG, errors="replace")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        problem(unreadable(error), LOG)
        return
    run.has_log = True
    steps = [number for number, line in enumerate(text.split("\n"), 1) if '"kind": "step"' in line]
    run.logged = len(steps)
    skip = set(steps) - set(steps[:: max(1, math.ceil(run.logged / STEP_RECORDS))]) - set(steps[-1:])
    damaged = []
    for number, record in parse_json_lines(text, skip):
        if isinstance(record, ValueError):
            damaged.append(number)
            continue
        kind = record.get("kind")
        if kind == "step":
            run.steps.append(record)
        elif kind == "knn":
            run.knn.append(record)
        elif kind == "warning":
            run.warnings.append(str(record.get("message") or record.get("text") or record))
        elif kind == "end":
            run.end = record
        elif kind == "start":
            run.fingerprint, run.source = (str(record.get(name) or "") for name in ("fingerprint", "source"))
            run.unlabelled = record.get("labelled") == 0
            run.images, run.held_out = (_count(record.get(name)) for name in ("images", "held_out"))
        if "effective_rank" in record or "feature_std" in record:
            run.diagnostics.append(record)
    if damaged:
        problem(f"{len(damaged)} damaged records (lines {first_names(damaged, 5)}) are left out", LOG)


def _count(value: Any) -> int:
    """A number of images in a log; 0 for anything else."""
    return value if type(value) is int and value > 0 else 0


def _read_results(run: Run, file: Path, problem: Callable[[str, str], None]) -> None:
    where = f"{RESULTS}/{file.name}"
    try:
        content = read_json(file)
        if not isinstance(content, list):
            raise ValueError("no list of measurements")
    except (OSError, ValueError) as error:
        problem(f"{unreadable(error)}; its measurements are missing", where)
        return
    by_key: dict[str, Measurement] = {}
    for number, entry in enumerate(content, 1):
        try:
            m = parse_measurement(entry, run.path)
        except ValueError as error:
            problem(f"measurement {number} is damaged ({error}); left out", where)
            continue
        key = measured_key(m)
        if key in by_key:
            problem(f"{m.evaluation} {m.metric} is there twice; the later one is used", where)
        by_key[key] = m
    run.results.extend(by_key.values())
