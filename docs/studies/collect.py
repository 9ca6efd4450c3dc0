"""Collect what a report reads of a grid's runs, small enough to be committed, or restore it.

    python run.py compare --grid experiments/study_labels.yaml --data_root DIR --out labels
    python docs/studies/collect.py labels labels               # labels/runs/CELL -> docs/studies/results/labels/CELL
    python run.py report docs/studies/results/labels           # on any machine
    python docs/studies/collect.py labels labels --restore     # back, where labels/runs/CELL is gone: compare then skips the cell

A collected run is a run directory: options, log, provenance, measurements, and of the predictions what paired tests need (for
each image right or wrong, or its confusion matrix). Weights, features, figures, predicted classes and scores are left out, and
most steps of a long log. It names no folder, host or user. Runs that have neither ended nor failed are left for the next call.
"""

from __future__ import annotations

import argparse
import filecmp
import itertools
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from common.errors import UserError, first_line  # noqa: E402
from common.files import read_arrays, write_arrays  # noqa: E402
from rundir.failure import failure_of, write_failure  # noqa: E402
from rundir.log import has_log, holds_work, read_log, replace_log  # noqa: E402
from rundir.options import load_options, write_options  # noqa: E402
from rundir.paths import CONFIG, PREDICTIONS, RESULTS, has_checkpoint, results_file, run_of  # noqa: E402
from rundir.provenance import read_environment, read_mark, write_environment, write_mark  # noqa: E402
from rundir.results import GROUPS, read_results, write_results  # noqa: E402
from training.grids.launchers.cells import is_done  # noqa: E402

RESULTS_OF_STUDIES = ROOT / "docs" / "studies" / "results"
#: A log keeps at most so many of its steps, and every other record.
STEPS = 60
#: Options that name places.
PLACES = ("data_root", "out")
#: Keys of environment.json that are kept.
ABOUT = (
    *("command", "started", "commit", "modified", "python", "packages", "platform", "cpu", "cores", "threads"),
    *("device", "precision", "processes", "cuda", "method", "trained", "step"),
)
#: Arrays of a predictions file that are kept beside those of its metrics.
KEPT = ("names_hash", GROUPS, "video", "classes", "confusion")
#: An absolute path in a text. What precedes keeps "images/s" and "https://…" out.
PATH = re.compile(r"(?<![\w./~-])(?:~[\w.-]*(?=/)|(?=/[\w.]))(?:/[^\s/'\",;:()\[\]]+)+/?")


def main(words: list[str] | None = None) -> int:
    """Returns 1 if a run could not be collected, which stops no other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path, help="the folder that compare was given as --out")
    parser.add_argument("study", help="name of the folder under --results")
    parser.add_argument("--restore", action="store_true", help="copy what was collected into the grid's folder")
    parser.add_argument("--results", type=Path, default=RESULTS_OF_STUDIES, help="default: docs/studies/results")
    options = parser.parse_args(words)
    collected = options.results / options.study
    try:
        counts = (restore if options.restore else collect)(options.grid, collected)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{collected}: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))
    return 1 if counts.get("damaged") else 0


def collect(grid: Path, collected: Path) -> dict[str, int]:
    """Collect the ended and the failed runs of a grid, each anew if it has changed. Returns numbers of runs by what became of them.
    Raises UserError if the folder holds no grid."""
    runs = sorted(folder for folder in run_of(grid, "").glob("*") if (folder / CONFIG).is_file())
    if not runs:
        raise UserError(f"{grid}: holds no runs; give the folder that compare was given as --out")
    counts = dict.fromkeys(("new", "changed", "as before", "not ended", "damaged"), 0)
    for run in runs:
        target = collected / run.name
        try:
            ended = _has_ended(run)
            # A failed try does not take the place of a whole run.
            if not ended and (not failure_of(run) or (target.exists() and _has_ended(target))):
                counts["not ended"] += 1
                continue
            counts[_replace(run, target, ended)] += 1
        except (UserError, OSError, ValueError) as error:
            print(f"{run}: left out, for it cannot be read: {first_line(error)}", file=sys.stderr)
            counts["damaged"] += 1
    return counts


def restore(grid: Path, collected: Path) -> dict[str, int]:
    """Copy collected runs that have ended into a grid's folder, where it holds no work of theirs. Returns their numbers. Raises
    UserError if nothing was collected."""
    if not collected.is_dir():
        raise UserError(f"{collected}: holds no collected runs")
    counts = {"restored": 0, "there already": 0, "failed, and left to try again": 0}
    for run in sorted(file.parent for file in collected.glob(f"*/{CONFIG}")):
        target = run_of(grid, run.name)
        if target.exists() and (holds_work(target) or has_checkpoint(target)):
            counts["there already"] += 1
        elif not _has_ended(run):
            counts["failed, and left to try again"] += 1
        else:
            shutil.copytree(run, target, dirs_exist_ok=True)
            counts["restored"] += 1
    return counts


def _has_ended(run: Path) -> bool:
    """Whether a training and its evaluations have ended, or weights that others trained have been measured."""
    options = load_options(run / CONFIG)
    if "method" not in options:
        return any((run / RESULTS).glob("*.json"))
    return is_done(run, options.get("evals") or [])


def _replace(run: Path, target: Path, ended: bool) -> str:
    """Write a run's copy in place of an older one. Returns what was done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
        copy = Path(folder) / target.name
        copy.mkdir()
        _write_copy(run, copy, ended)
        before = target.exists()
        if before and _same(copy, target):
            return "as before"
        if before:
            shutil.rmtree(target)
        copy.rename(target)
    return "changed" if before else "new"


def _same(first: Path, second: Path) -> bool:
    names = [{path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (first, second)]
    return names[0] == names[1] and all(filecmp.cmp(first / name, second / name, shallow=False) for name in names[0])


def _write_copy(run: Path, copy: Path, ended: bool) -> None:
    options = load_options(run / CONFIG)
    clean = _cleaner(run, options)
    # Without the places, no later command finds that they have changed.
    write_options(copy, {name: clean(value) for name, value in options.items() if name not in PLACES})
    if environment := read_environment(run):
        write_environment(copy, _about(environment, run.name, clean))
    if mark := read_mark(run):
        write_mark(copy, clean(mark))
    if has_log(run):
        replace_log(copy, [clean(record) for record in _fewer_steps(read_log(run))])
    if not ended:
        write_failure(copy, clean(failure_of(run), "reason"))
    for file in sorted((run / RESULTS).glob("*.json")):
        measured = [
            replace(m, protocol=clean(m.protocol), data=clean(m.data), interval=clean(m.interval))
            for m in read_results(file)
        ]
        write_results(results_file(copy, file.stem), measured)
        by_file: dict[Path, list[str]] = {}
        for m in measured:
            if m.predictions_file is not None and m.predictions_file.is_file():
                by_file.setdefault(m.predictions_file, []).append(m.metric)
        for predictions, metrics in by_file.items():
            arrays = read_arrays(predictions)
            kept = {name: _packed(arrays[name]) for name in (*KEPT, *metrics) if name in arrays}
            write_arrays(copy / PREDICTIONS / predictions.name, **kept)


def _packed(values: np.ndarray) -> np.ndarray:
    """The same numbers in the smallest type: right or wrong as a bit, counts as unsigned integers, others with 32 bits."""
    if values.dtype.kind in "iufb" and values.size and np.isin(values, (0, 1)).all():
        return values.astype(bool)
    if values.dtype.kind in "iu" and values.size and values.min() >= 0:
        return values.astype(np.min_scalar_type(values.max()))
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _fewer_steps(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield all records but steps, and ``STEPS`` steps, evenly spaced and with the last, their numbers to 6 digits."""
    steps = [number for number, record in enumerate(records) if record.get("kind") == "step"]
    kept = {steps[i] for i in np.linspace(0, len(steps) - 1, min(STEPS, len(steps))).round().astype(int)}
    for number, record in enumerate(records):
        if record.get("kind") != "step":
            yield record
        elif number in kept:
            yield {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in record.items()}


def _about(environment: dict[str, Any], name: str, clean: Callable[..., Any]) -> dict[str, Any]:
    """An environment without places; also of each process that has continued the run."""
    about = {key: clean(environment[key]) for key in ABOUT if key in environment}
    places = {"--data_root": "DIR", "--out": name}
    command = []
    for before, word in itertools.pairwise(["", *map(str, environment.get("command") or [])]):
        option, equals, _ = word.partition("=")
        if before in places:
            word = places[before]
        elif equals and option in places:
            word = f"{option}={places[option]}"
        command.append(clean(word))
    if command:
        about["command"] = command
    if resumed := environment.get("resumed"):
        about["resumed"] = [_about(process, name, clean) for process in resumed]
    return about


def _cleaner(run: Path, options: dict[str, Any]) -> Callable[..., Any]:
    """A function that takes places out of JSON values: of a path the last part is left."""
    places = {str(options.get("data_root") or ""): "DIR", str(options.get("out") or ""): run.name}
    places |= {str(run.absolute()): run.name, f"{ROOT}/": "", str(Path.home()): "~"}
    places = {place: name for place, name in places.items() if place.startswith("/") and len(place) > 1}
    names = {socket.gethostname(), Path.home().name} - {"root", "localhost", ""}

    def clean(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: clean(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [clean(item, key) for item in value]
        if not isinstance(value, str):
            return value
        for place in sorted(places, key=len, reverse=True):
            value = value.replace(place, places[place])
        if value.startswith(("/", "~/")) and "\n" not in value and ": " not in value:
            return Path(value).name
        value = PATH.sub(lambda path: Path(path[0]).name, value)
        if key in ("message", "text", "reason"):  # an option may be called as the user
            for name in names:
                value = re.sub(rf"\b{re.escape(name)}\b", "…", value)
        return value

    return clean


if __name__ == "__main__":
    sys.exit(main())
