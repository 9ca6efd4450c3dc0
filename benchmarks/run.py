"""Speed beside plain reference code, measured in turns in one run, and beside what the machine can do.

    make bench
    python -m benchmarks.run --only dino knn --reference ~/dino --out bench.json

Every contender does the same work, one after the other, several times. Printed and written are the median and the range of the
rounds; ratios are taken within each round. ``bench.json`` holds ``about`` (machine, commit, packages, command) and
``measurements``, the fields of ``benchmarks.timing.Measurement`` and the benchmark's name. Rows are printed and written as soon as
they are measured, and stay when a later benchmark fails or the command is stopped.

benchmarks:
{benchmarks}
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.table import Table

from benchmarks.authors import Authors
from benchmarks.bench import DTYPES, Bench, ceilings
from benchmarks.end_to_end import end_to_end
from benchmarks.evaluation import bootstrap, features, knn, probe
from benchmarks.memory import memory
from benchmarks.startup import startup
from benchmarks.store import store
from benchmarks.timing import Measurement, Spread
from benchmarks.training import barlow_twins, dino
from benchmarks.views import views
from common.errors import UserError, explain, unknown_name, why
from common.files import write_json
from common.progress import Console
from training.machine.devices import pick_device
from training.machine.environment import describe_environment


@dataclass(frozen=True)
class Benchmark:
    """
    Attributes:
        measure: yields a case's rows after the other.
        seconds: roughly, of a round in fp32 on two cores of 50 GFLOP/s each, without the authors' code.
        once: the same of what is not done in every round.
        steps: it trains in every precision.
    """

    measure: Callable[[Bench], Iterator[list[Measurement]]]
    seconds: float
    once: float = 0
    steps: bool = False

    @property
    def what(self) -> str:
        """What it measures, in a line: the first one of its docstring."""
        work = self.measure.func if isinstance(self.measure, partial) else self.measure
        return inspect.getdoc(work).partition("\n")[0].rstrip(".")

    def estimate(self, bench: Bench) -> float:
        """Seconds that it takes, about."""
        slower = 100e9 / bench.small_products["fp32"]
        contenders = 1.5 ** bool(bench.authors) * 1.6 ** (len(bench.precisions) - 1) if self.steps else 1
        return slower * (self.once + self.seconds * contenders * bench.rounds)


BENCHMARKS = {
    "ceilings": Benchmark(ceilings, 0, once=8),
    "dino_vit_s16": Benchmark(partial(dino, backbone="vit_s16"), 22, once=20, steps=True),
    "dino_vit_t16": Benchmark(partial(dino, backbone="vit_t16"), 8, once=8, steps=True),
    "dino_vit_nano": Benchmark(partial(dino, backbone="vit_nano"), 5, once=2, steps=True),
    "barlow_twins_resnet50": Benchmark(partial(barlow_twins, backbone="resnet50"), 32, once=20, steps=True),
    "barlow_twins_resnet18": Benchmark(partial(barlow_twins, backbone="resnet18"), 15, once=5, steps=True),
    "end_to_end": Benchmark(end_to_end, 60, once=25),
    "memory": Benchmark(memory, 0, once=100),
    "views_224": Benchmark(partial(views, size=224), 4, once=4),
    "views_32": Benchmark(partial(views, size=32), 2, once=4),
    "store": Benchmark(store, 4, once=8),
    "knn_10000": Benchmark(partial(knn, size=10_000), 4),
    "knn_40000": Benchmark(partial(knn, size=40_000), 8),
    "knn_160000": Benchmark(partial(knn, size=160_000), 28),
    "probe_10": Benchmark(partial(probe, classes=10), 2),
    "probe_1000": Benchmark(partial(probe, classes=1000), 7),
    "bootstrap": Benchmark(bootstrap, 2),
    "features_vit_s16": Benchmark(partial(features, backbone="vit_s16"), 7, once=2),
    "features_vit_t16": Benchmark(partial(features, backbone="vit_t16"), 2, once=1),
    "features_vit_nano": Benchmark(partial(features, backbone="vit_nano"), 1),
    "startup": Benchmark(startup, 40, once=50),
}


def main(words: Sequence[str] | None = None) -> int:
    listed = "\n".join(f"  {name:<22} {benchmark.what}" for name, benchmark in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.format(benchmarks=listed), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="benchmarks, or parts of their names: dino, vit_s16, knn; default: all",
    )
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
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender is timed")
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds, to see that everything works")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON file for the figures")
    options = parser.parse_args(words)
    for name in ("rounds", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: give at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        names = chosen(options.only)
        require_writable(options.out)
        device = pick_device(options.device)
        authors = options.reference and Authors(options.reference)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    bench = Bench(device, 2 if options.quick else options.rounds, options.quick, authors, options.run)
    return measure(bench, names, options.out)


def chosen(parts: Sequence[str]) -> list[str]:
    """Names of the benchmarks whose names have one of these parts. Raises UsageError for a part that none has."""
    for part in parts:
        if not any(part in name for name in BENCHMARKS):
            raise unknown_name("benchmark", part, BENCHMARKS)
    return [name for name in BENCHMARKS if any(part in name for part in parts)]


def require_writable(file: Path) -> None:
    """Raise UserError for a file that cannot be written, before anything is measured."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise UserError(f"--out {file}: cannot be written ({why(error)})") from error
    if file.is_dir():
        raise UserError(f"--out {file}: a folder; give a file")


def measure(bench: Bench, names: Sequence[str], out: Path) -> int:
    """Run these benchmarks, print the rows of each case and write all so far. Returns the exit status: 1 where one has failed."""
    console = Console()
    say = partial(console.print, highlight=False, soft_wrap=True)
    about = {
        **describe_environment(bench.device, " and ".join(bench.precisions)),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "rounds": bench.rounds,
        "quick": bench.quick,
    }
    estimates = {name: BENCHMARKS[name].estimate(bench) for name in names}
    is_timed = bench.device.type == "cpu" and not bench.quick
    in_all = f", about {minutes(sum(estimates.values()))} in all" if is_timed else ""
    say(f"to measure{in_all}: {', '.join(names)}")
    for precision in DTYPES.keys() - set(bench.precisions):
        slower = bench.small_products["fp32"] / bench.small_products[precision]
        say(f"{precision} is not timed: its products take {slower:.1f} times as long as fp32's on this device")
    found: list[dict] = []
    failed = []
    began, done = time.monotonic(), 0.0
    try:
        for number, name in enumerate(names, 1):
            # As the benchmarks before this one have gone, once they tell.
            pace = (time.monotonic() - began) / done if done > 60 else 1.0
            left = pace * (sum(estimates.values()) - done)
            takes = f"; about {minutes(pace * estimates[name])}, {minutes(left)} to the end" if is_timed else ""
            say(f"\n{number}/{len(names)} {name}: {BENCHMARKS[name].what}{takes}")
            done += estimates[name]
            try:
                for rows in BENCHMARKS[name].measure(bench):
                    console.print(table(rows))
                    found += [{"benchmark": name, **dataclasses.asdict(row)} for row in rows]
                    write_json(out, {"about": about, "measurements": found})
            except Exception as error:
                failed.append(name)
                told = error if isinstance(error, UserError) else explain(error)
                if told is None:
                    traceback.print_exc()
                else:
                    print(f"error: {told}", file=sys.stderr)
    except KeyboardInterrupt:
        say(f"stopped; measured until then: {out}" if found else "stopped before anything was measured")
        return 130
    if found:
        say(f"figures: {out}")
    if failed:
        print(f"error: {', '.join(failed)} failed; the lines above say why", file=sys.stderr)
    return bool(failed)


def minutes(seconds: float) -> str:
    return "a minute" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def table(measurements: Sequence[Measurement]) -> Table:
    """What is printed of a case: a line a contender."""
    made = Table(title=measurements[0].case, title_justify="left")
    for heading in ("", "value [range]", "times as fast as … [range]", "part of the limit"):
        made.add_column(heading, overflow="fold")
    for m in measurements:
        ratios = "\n".join(f"{_text(ratio)} × {other}" for other, ratio in m.ratios.items())
        limit = "" if m.reached is None else f"{m.reached:.1%} of {m.limit}"
        made.add_row(m.contender, f"{_text(m.value)} {m.unit}", ratios, limit)
    return made


def _text(spread: Spread) -> str:
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} [{_number(spread.low)}–{_number(spread.high)}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
