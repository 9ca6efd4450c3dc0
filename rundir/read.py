"""Run directories as the report sees them. What is damaged, half-written or foreign becomes a problem in the list, never an
exception and never a number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.files import read_yaml
from rundir.options import INCIDENTAL, UNTRAINED

#: Under which name the fingerprint of a run's training images stands with its options.
IMAGES = "data_fingerprint"
#: Step records read of a log, at most; longer logs are read at even distances (the last record always).
STEP_RECORDS = 400


@dataclass(frozen=True)
class Problem:
    """Something in a directory that the report could not use.

    Attributes:
        where: directory or file, as it was given.
        what: what is wrong, and what it means for the report.
    """

    where: str
    what: str


@dataclass(frozen=True)
class Result:
    """One measurement of a run, as ``results/*.json`` holds it (see ``rundir.results.Measurement``)."""

    evaluation: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    protocol: dict[str, Any]
    data: dict[str, Any]
    predictions: Path | None
    interval: str


@dataclass
class Run:
    """One run directory.

    Attributes:
        path: the directory as it was given.
        config: the options of the training; for an evaluation of given weights, of that.
        environment: commit, packages, hardware, command, as the run wrote them.
        steps: records of optimiser steps, at most about ``STEP_RECORDS`` of them, in order.
        knn: records of the online k-NN.
        diagnostics: records (of any kind) that hold signs of collapse.
        warnings: texts of the run's own warnings.
        end: the last record of a finished training; None for one that has not ended.
        has_log: False for an evaluation of given weights, which trains nothing.
        fingerprint: of the images that it was trained on; "" where the log does not say.
        results: measurements in the order of the files' names.
        logged: number of step records in the log.
        reproduces: which row of which published table this is (``reports.analysis.reproduction``), or None.
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
    results: list[Result] = field(default_factory=list)
    logged: int = 0
    reproduces: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def finished(self) -> bool:
        """False where a training was begun and has not ended."""
        return self.end is not None or not self.has_log

    @property
    def identity(self) -> str:
        """What was trained, without the seed: equal for the runs of one row."""
        return json.dumps(self.trained_options, sort_keys=True, default=str)

    @property
    def trained_options(self) -> dict[str, Any]:
        """The options that say what was trained: no seed, nothing incidental, nothing of evaluations, and where nothing was
        trained, nothing of training. With them the fingerprint of the images, since one name (imagefolder) may stand for any."""
        images = {IMAGES: self.fingerprint} if self.fingerprint else {}
        if self.config.get("method") in UNTRAINED:
            kept = ("method", "backbone", "data", "image_size")
            return {key: self.config[key] for key in kept if key in self.config} | images
        # A budget of minutes is measured anew in each run: how many epochs it gave is a result.
        measured = str(self.config.get("budget") or "").startswith("minutes=")
        found = ("seed", "epochs", "warmup_epochs") if measured else ("seed",)
        names = {*(self.config.get("evals") or []), *(result.evaluation for result in self.results)}
        evaluations = tuple(f"{name}_" for name in names)
        return {
            key: value
            for key, value in self.config.items()
            if key not in INCIDENTAL and key not in found and not (evaluations and key.startswith(evaluations))
        } | images

    @property
    def newest(self) -> str:
        """When the run ended, or else began, as it says itself (ISO date; empty where it says nothing). Files' own times
        do not survive copying."""
        for source in (self.end or {}, self.environment):
            for key in ("finished", "time", "ended", "date", "started"):
                if isinstance(source.get(key), str):
                    return source[key]
        return ""


def read_runs(directories: Sequence[Path]) -> tuple[list[Run], list[Problem]]:
    """Read run directories; a folder that is no run itself but holds some stands for them.

    Returns:
        runs in the order given (of a folder: by name), and everything that could not be used. A directory given twice is
        read once.
    """
    runs: list[Run] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for directory in _expand(directories):
        resolved = directory.resolve()
        if resolved in seen:
            continue
        seen.add(resolved)
        run = _read_run(directory, problems)
        if run is not None:
            runs.append(run)
    return runs, problems


def without_duplicates(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """Drop copies: of runs with the same options and the same seed, the newest stays, and says which it replaces. They are
    no independent repetitions, so counting both would make the spread over seeds look smaller than it is. Measurements
    that only an older copy has are taken over."""
    kept: dict[tuple[str, str], Run] = {}
    notes: list[Problem] = []
    for run in runs:
        key = (run.identity, json.dumps(run.seed, default=str))
        other = kept.get(key)
        if other is None:
            kept[key] = run
            continue
        winner, loser = (run, other) if (run.finished, run.newest) >= (other.finished, other.newest) else (other, run)
        known = {_measured(result) for result in winner.results}
        added = [result for result in loser.results if _measured(result) not in known] if loser.finished else []
        winner.results.extend(added)
        kept[key] = winner
        taken = f"; {len(added)} measurements that only it has are used" if added else ""
        notes.append(
            Problem(
                str(loser.path),
                f"the same options and seed as {winner.path}, which is newer and is used instead{taken}",
            )
        )
    return list(kept.values()), notes


def _measured(result: Result) -> str:
    """What was measured, whatever came out of it."""
    protocol = {key: value for key, value in result.protocol.items() if not is_outcome(key)}
    return json.dumps([result.evaluation, result.metric, protocol, test_data_of(result)], sort_keys=True, default=str)


def is_outcome(key: str) -> bool:
    """True for an entry of a protocol that the run found by itself on its training data (a chosen learning rate)."""
    return key.startswith("chosen")


def test_data_of(result: Result) -> tuple[str, str]:
    """Name and fingerprint of the data that a measurement was made on."""
    data = result.data
    test = data.get("test")
    test = test if isinstance(test, dict) else {}
    fingerprint = data.get("test_fingerprint") or test.get("fingerprint") or data.get("fingerprint") or ""
    return str(data.get("name") or test.get("name") or "unnamed data"), str(fingerprint)


def _is_run(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("config.yaml", "log.jsonl", "results"))


def _expand(directories: Iterable[Path]) -> Iterable[Path]:
    for directory in directories:
        inner = []
        if directory.is_dir() and not _is_run(directory):
            inner = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
        if any(_is_run(path) for path in inner):
            yield from inner
        else:
            yield directory


def _read_run(directory: Path, problems: list[Problem]) -> Run | None:
    def problem(what: str, file: str = "") -> None:
        problems.append(Problem(str(directory / file) if file else str(directory), what))

    try:
        if not directory.is_dir():
            problem("no such directory")
            return None
        if not _is_run(directory):
            problem("no run directory: it holds neither config.yaml nor log.jsonl nor results/")
            return None
        config = read_yaml(directory / "config.yaml")
    except FileNotFoundError:
        problem("has no config.yaml, so it is unknown what was trained; left out")
        return None
    except (OSError, ValueError) as error:
        problem(f"config.yaml cannot be read ({_first_line(error)}); left out")
        return None
    if not isinstance(config, dict) or not config or not all(isinstance(key, str) for key in config):
        problem("config.yaml holds no mapping of options to values; left out")
        return None

    run = Run(directory, config)
    environment = _read_json(directory / "environment.json", problem)
    if isinstance(environment, dict):
        run.environment = environment
    elif environment is not None:
        problem("holds no mapping; provenance of this run is unknown", "environment.json")
    reproduces = _read_json(directory / "reproduces.json", problem)
    if isinstance(reproduces, dict) and isinstance(reproduces.get("changed", {}), dict):
        run.reproduces = reproduces
    elif reproduces is not None:
        problem("does not say which published row this reproduces; left out of those tables", "reproduces.json")
    _read_log(run, problem)
    for file in sorted((directory / "results").glob("*.json")):
        _read_results(run, file, problem)
    if not run.finished:
        last = run.steps[-1] if run.steps else {}
        at = f"last record: epoch {last.get('epoch', '?')}, step {last.get('step', '?')}" if last else "no step yet"
        left_out = f"; its {len(run.results)} measurements are left out" if run.results else ""
        problem(f"training has not ended ({at}){left_out}; the same command continues it")
    elif not run.results:
        problem("has no measurement; evaluate it to see it in the tables")
    return run


def _first_line(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]


def _read_json(file: Path, problem) -> Any:
    """A JSON file's content, or None (absent: silently; unreadable: as a problem)."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        problem(f"cannot be read as JSON ({_first_line(error)})", file.name)
        return None


def _read_log(run: Run, problem) -> None:
    """Fill in the run's log records. Step records are parsed at even distances where there are many: the page has no room
    for more, and a thousand long logs would take minutes."""
    file = run.path / "log.jsonl"
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        problem(f"cannot be read ({_first_line(error)})", "log.jsonl")
        return
    run.has_log = True
    complete = text.endswith("\n")
    lines = [line for line in text.split("\n") if line.strip()]
    is_step = ['"kind": "step"' in line for line in lines]
    run.logged = sum(is_step)
    stride = max(1, math.ceil(run.logged / STEP_RECORDS))
    position, damaged = 0, []
    for number, (line, step) in enumerate(zip(lines, is_step, strict=True)):
        if step:
            position += 1
            if (position - 1) % stride and position != run.logged:
                continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            if number < len(lines) - 1 or complete:  # a last line without its end is a killed process's, and expected
                damaged.append(number + 1)
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
            run.fingerprint = str(record.get("fingerprint") or "")
        if "effective_rank" in record or "feature_std" in record:
            run.diagnostics.append(record)
    if damaged:
        shown = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
        problem(f"{len(damaged)} damaged records (lines {shown}) are left out", "log.jsonl")


def _read_results(run: Run, file: Path, problem) -> None:
    where = f"results/{file.name}"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        problem(f"cannot be read as JSON ({_first_line(error)}); its measurements are missing", where)
        return
    if not isinstance(content, list):
        problem("holds no list of measurements; left out", where)
        return
    by_measured: dict[str, Result] = {}
    for number, entry in enumerate(content, 1):
        try:
            result = _result(entry, run.path)
        except (KeyError, TypeError, ValueError) as error:
            problem(f"measurement {number} is damaged ({_reason(error)}); left out", where)
            continue
        key = _measured(result)
        if key in by_measured:
            problem(f"{result.evaluation} {result.metric} is there twice; the later one is used", where)
        by_measured[key] = result
    run.results.extend(by_measured.values())


def _reason(error: Exception) -> str:
    return f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def _result(entry: Any, directory: Path) -> Result:
    if not isinstance(entry, dict):
        raise TypeError("no mapping")

    def number(key: str, optional: bool = False) -> float | None:
        value = entry.get(key) if optional else entry[key]
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{key} is {value!r}, no finite number")
        return float(value)

    n = number("n")
    if n < 1:
        raise ValueError(f"n is {entry['n']!r}")
    for key in ("evaluation", "metric"):
        if not isinstance(entry[key], str) or not entry[key]:
            raise ValueError(f"{key} is {entry[key]!r}")
    predictions = entry.get("predictions")
    return Result(
        evaluation=entry["evaluation"],
        metric=entry["metric"],
        value=number("value"),
        low=number("low", optional=True),
        high=number("high", optional=True),
        n=int(n),
        protocol=entry["protocol"] if isinstance(entry.get("protocol"), dict) else {},
        data=entry["data"] if isinstance(entry.get("data"), dict) else {},
        predictions=_inside(directory, predictions) if isinstance(predictions, str) else None,
        interval=str(entry.get("interval") or ""),
    )


def _inside(directory: Path, name: str) -> Path:
    """The predictions file's path; results only ever name files of their own run's ``predictions/``."""
    return directory / "predictions" / Path(name).name
