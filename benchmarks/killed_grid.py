#!/usr/bin/env python3
"""A grid that is killed on the way ends with the same tables as an unbroken one.

    .venv/bin/python benchmarks/killed_grid.py --out /tmp/killed_grid

runs 3 methods × 2 backbones × 3 seeds on the built-in data twice: once undisturbed, once killed (SIGKILL, the grid and its
trainings) in the middle of two random trainings and started again each time. Then every table of the two reports is compared,
without what a clock or the machine says. Exit status 1 where they differ.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Columns that differ between any two runs, by a part of their heading.
CLOCKED = ("minutes", "images/s", "memory", "date", "command", "run", "directory", "finished", "newest")
OPTIONS = shlex.split("""--methods dino barlow_twins weak_dino --backbones vit_nano resnet18 --seeds 0 1 2 --evals knn
    --data demo --budget images=1024 --batch_size 128 --optimizer adamw --knn_every 0 --checkpoint_every 1 --log_every 4
    --local_crops 2 --local_size 16 --out_dim 256 --hidden_dim 128 --bottleneck_dim 64 --projector 128-128""")


def command(out: Path, jobs: int) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), "compare", *OPTIONS, "--jobs", str(jobs), "--out", str(out)]


def tables(out: Path) -> dict[str, list[list[str]]]:
    """The report's tables without the clocked columns, by name."""
    found = {}
    for file in sorted((out / "report" / "tables").glob("*.csv")):
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.reader(lines))
        kept = [i for i, name in enumerate(rows[0]) if not any(word in name.lower() for word in CLOCKED)]
        if file.stem not in ("provenance", "problems"):
            found[file.stem] = [[row[i] for i in kept] for row in rows]
    return found


def finished(out: Path) -> int:
    return sum('"end"' in log.read_text() for log in out.glob("runs/*/log.jsonl"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for both grids; what is there is removed")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--kills", type=int, default=2, help="how often the second grid is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    whole, broken = options.out / "whole", options.out / "broken"

    began = time.monotonic()
    subprocess.run(command(whole, options.jobs), check=True)
    seconds = time.monotonic() - began
    print(f"unbroken: {seconds:.0f} s", flush=True)
    moments = random.Random(options.seed)
    for kill, ended in enumerate(sorted(moments.sample(range(1, 16), options.kills)), 1):
        # A session of its own, so that the trainings die in the same moment as the grid.
        process = subprocess.Popen(command(broken, options.jobs), start_new_session=True)
        while process.poll() is None and finished(broken) < ended:
            time.sleep(0.1)
        time.sleep(moments.uniform(0, 2 * options.jobs * seconds / 18))
        if process.poll() is not None:
            print("it ended before it could be killed", flush=True)
            return 1
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        print(f"kill {kill}: {finished(broken)} of 18 trainings had ended", flush=True)
    subprocess.run(command(broken, options.jobs), check=True)
    ours, theirs = tables(whole), tables(broken)
    different = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    print(
        f"compared {', '.join(ours)}: " + (f"DIFFERENT: {', '.join(different)}" if different else "equal"), flush=True
    )
    return 1 if different or not ours else 0


if __name__ == "__main__":
    sys.exit(main())
