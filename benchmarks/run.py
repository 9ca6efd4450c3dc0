"""Speed beside plain reference code, measured in turns in one run, and beside what the machine can do.

    make bench
    python -m benchmarks.run --only dino knn --reference ~/dino --out bench.json

Every contender does the same work, one after the other, several times. Printed and written are the median and the range of the
rounds; ratios are taken within each round. ``bench.json`` holds ``about`` (machine, commit, packages, command) and
``measurements``, the fields of ``benchmarks.timing.Measurement``; it is written anew after each benchmark.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.authors import Authors
from benchmarks.bench import Bench, ceilings
from benchmarks.end_to_end import end_to_end
from benchmarks.evaluation import bootstrap, features, knn, probe
from benchmarks.memory import memory
from benchmarks.startup import startup
from benchmarks.store import store
from benchmarks.timing import Measurement, Spread
from benchmarks.training import barlow_twins, dino
from benchmarks.views import views
from common.errors import UserError
from common.files import write_json
from training.machine.devices import pick_device
from training.machine.environment import describe_environment

BENCHMARKS: dict[str, Callable[[Bench], list[Measurement]]] = {
    "ceilings": ceilings,
    "dino": dino,
    "barlow_twins": barlow_twins,
    "end_to_end": end_to_end,
    "memory": memory,
    "views": views,
    "store": store,
    "knn": knn,
    "probe": probe,
    "bootstrap": bootstrap,
    "features": features,
    "startup": startup,
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), help="default: all")
    parser.add_argument(
        "--reference", type=Path, help="checkout of facebookresearch/dino, to time the authors' code, too"
    )
    parser.add_argument(
        "--run", type=Path, help="run directory, for the accuracy of features; default: untrained weights"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--threads", type=int, help="of a CPU; with 1, training and evaluation are timed by the CPU time they take"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is timed")
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds, to see that everything works")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON file for the figures")
    options = parser.parse_args(words)
    for name in ("rounds", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: give at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console()
    try:
        device = pick_device(options.device)
        authors = options.reference and Authors(options.reference)
        bench = Bench(device, 2 if options.quick else options.rounds, options.quick, authors, options.run)
        about = {**describe_environment(device, "fp32 and bf16"), "rounds": bench.rounds, "quick": bench.quick}
        measurements: list[Measurement] = []
        for name in options.only:
            found = BENCHMARKS[name](bench)
            console.print(table(name, found))
            measurements += found
            figures = [dataclasses.asdict(measurement) for measurement in measurements]
            write_json(options.out, {"about": about, "measurements": figures})
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    console.print(f"figures: {options.out}", highlight=False)
    return 0


def table(name: str, measurements: Sequence[Measurement]) -> Table:
    """What is printed: a line a contender."""
    made = Table(title=name, title_justify="left")
    for heading in ("case", "contender", "value [range]", "times as fast as … [range]", "part of the limit"):
        made.add_column(heading, overflow="fold")
    last = None
    for m in measurements:
        ratios = "\n".join(f"{_text(ratio)} × {other}" for other, ratio in m.ratios.items())
        limit = "" if m.reached is None else f"{m.reached:.1%} of {m.limit}"
        made.add_row("" if m.case == last else m.case, m.contender, f"{_text(m.value)} {m.unit}", ratios, limit)
        last = m.case
    return made


def _text(spread: Spread) -> str:
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} [{_number(spread.low)}–{_number(spread.high)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
