"""How long one waits: for help, for a report, for the first training step of the demo. Processes, from their start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.timing import Measurement, measure

ROOT = Path(__file__).resolve().parent.parent
#: Seconds after which a process that has not got anywhere has failed.
PATIENCE = 300
REPORT_WITHOUT_TORCH = "import run, sys; status = run.main(sys.argv[1:]); sys.exit(status or 'torch' in sys.modules)"


def startup(bench: Bench) -> Iterator[list[Measurement]]:
    """Start-up: the command line, the report and the demo, each beside what no such program can do without."""
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as folder:
        place = Path(folder)
        numbers = count()
        warm = place / "cache"

        def demo(cache: Path) -> Path:
            out = place / f"demo{next(numbers)}"
            _until_first_step(out, cache)
            return out

        runs = demo(warm) / "runs"
        python = {"python alone": lambda: _run("-c", "pass")}
        options = {
            "ours, run.py --help": lambda: _run("run.py", "--help"),
            "ours, run.py --method dino --help": lambda: _run("run.py", "--method", "dino", "--help"),
        }
        report = ["-c", REPORT_WITHOUT_TORCH, "report", str(runs), "--out", str(place / "report")]
        reports = {"ours, run.py report (without torch)": lambda: _run(*report)}
        steps = {
            "ours, first step of the demo": lambda: demo(warm),
            "ours, the same, its data not made yet": lambda: demo(place / f"cold{next(numbers)}"),
            "import torch": lambda: _run("-c", "import torch"),
        }
        rounds = min(bench.rounds, 3)
        yield measure("help", {**options, **python}, bench.rounds, None, "s")
        yield measure("report of the demo's unfinished runs", {**reports, **python}, rounds, None, "s")
        yield measure("training", steps, rounds, None, "s")


def _run(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stderr}")


def _until_first_step(out: Path, cache: Path) -> None:
    """Run ``make demo``'s command until one of its trainings has taken a step, then kill it."""
    words = ["run.py", "compare", "--grid", "experiments/demo.yaml", "--jobs", "2", "--out", str(out)]
    environment = {**os.environ, "SSL_COMPARE_CACHE": str(cache)}
    with open(out.with_suffix(".txt"), "wb") as output:
        # A session of its own, so that the trainings can be killed with the grid.
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        began = time.monotonic()
        while not any(_has_step(log) for log in out.glob("runs/*/log.jsonl")):
            if process.poll() is not None or time.monotonic() - began > PATIENCE:
                raise RuntimeError(f"the demo took no step:\n{out.with_suffix('.txt').read_text()}")
            time.sleep(0.01)
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _has_step(log: Path) -> bool:
    return any(
        json.loads(line).get("kind") == "step"
        for line in log.read_text().splitlines(keepends=True)
        if line[-1:] == "\n"
    )
