"""Cost as work grows: time and peak memory against batch, crops, prototypes, bank, queries, images and processes.

    python -m benchmarks.scaling --out scaling.json --figure docs/images/scaling.png

Every point is a process of its own, whose peak memory is then its own; what Python and its packages take is not counted. Times
are medians of three after one that does not count; with ``--threads 1`` the CPU time of one thread. Exponents are slopes of
least squares through the logarithms: 1 is linear, 0 is no cost at all. A Markdown table is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.files import atomic_file, write_json

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Series:
    """What grows.

    Attributes:
        title: of the panel.
        values: how far.
        what: is timed.
    """

    title: str
    values: Sequence[int]
    what: str


STEP = "a step of DINO vit_t16, 2×224 + 8×96, out_dim 65,536, batch 4"
SERIES = {
    "batch": Series("images a batch", (2, 4, 8, 16), STEP),
    "crops": Series("local crops", (2, 4, 8, 16), STEP),
    "out_dim": Series("prototypes", (16384, 65536, 262144), STEP),
    "bank": Series("bank images", (20_000, 80_000, 320_000), "k-NN (k 200) of 256 queries, 384 features"),
    "queries": Series("queries", (128, 512, 2048), "k-NN (k 200), bank of 20,000, 384 features"),
    "images": Series("images", (500, 1000, 2000, 4000), "features of demo images by vit_nano"),
    "processes": Series("processes", (1, 2), f"{STEP.replace('batch 4', 'batch 8 in all')}, one thread a process"),
}


def point(series: str, value: int, device_name: str, threads: int | None) -> dict[str, float] | None:
    """Measure one point in this process. None in all but the first of several processes."""
    import torch

    from benchmarks.bench import Bench
    from benchmarks.evaluation import TEMPERATURE
    from benchmarks.training import our_stepper, random_views
    from common.distributed import is_main, world_size
    from eval.features.votes import knn_classify
    from methods.core.base import Progress, ViewBatch
    from training.machine.devices import peak_memory_gib, pick_device, pick_precision, process_group, synchronize

    device = pick_device(device_name)
    if threads:
        torch.set_num_threads(threads)
    # Processes wait for each other, which only the clock on the wall sees.
    clock = time.perf_counter if series == "processes" else Bench(device).clock

    def step() -> Callable[[], object]:
        batch = {"batch": value, "processes": 8}.get(series, 4)
        crops = value if series == "crops" else 8
        out_dim = value if series == "out_dim" else 65536
        stepper = our_stepper(
            "dino",
            "vit_t16",
            batch,
            device,
            precision=pick_precision("auto", device),
            out_dim=out_dim,
            local_crops=crops,
        )
        share = batch // world_size()
        views = ViewBatch(
            random_views(share, [224] * 2 + [96] * crops, device), torch.full((share,), -1, device=device)
        )
        return lambda: stepper.step([views], Progress(20_000, 1000, stepper.config.epochs))

    def knn() -> Callable[[], object]:
        bank = torch.randn(value if series == "bank" else 20_000, 384, device=device)
        labels = torch.arange(len(bank), device=device) % 1000
        queries = torch.randn(value if series == "queries" else 256, 384, device=device)
        return lambda: knn_classify(bank, labels, queries, [200], TEMPERATURE, 1000)

    def images() -> Callable[[], object]:
        from backbones import build_backbone
        from data.datasets import open_dataset
        from eval.features.cache import ArrayCache
        from eval.features.extract import FrozenBackbone, store_features

        store = open_dataset("demo", "train", None, 37, progress=False)
        part = store.subset(np.resize(np.arange(len(store)), value))
        network = FrozenBackbone(
            backbone=build_backbone("vit_nano", 32), device=device, precision=pick_precision("auto", device)
        )

        def extract() -> None:
            with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
                store_features(network, part, {"pooled": ArrayCache(Path(folder) / "x.npy", len(part))}, 32)

        return extract

    with process_group(device_name):
        before = peak_memory_gib(device)
        work = {"bank": knn, "queries": knn, "images": images}.get(series, step)()
        seconds = []
        for _ in range(4):
            synchronize(device)
            began = clock()
            work()
            synchronize(device)
            seconds.append(clock() - began)
        found = {"value": value, "seconds": statistics.median(seconds[1:])}
        return {**found, "gib": peak_memory_gib(device) - before} if is_main() else None


def measure(series: str, value: int, device: str, threads: int | None) -> dict[str, float]:
    """The same in a process of its own, or in several."""
    words = ["-m", "benchmarks.scaling", "--point", series, str(value), "--device", device]
    if threads:
        words += ["--threads", str(threads)]
    environment = dict(os.environ)
    if series == "processes":
        environment["OMP_NUM_THREADS"] = "1"
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(value), *words]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{series} {value}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def exponent(points: Sequence[dict[str, float]], what: str) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = np.log([p["value"] for p in points]), np.log([p[what] for p in points])
    return float(np.polyfit(x, y, 1)[0])


def markdown(found: dict[str, list[dict[str, float]]]) -> str:
    lines = [
        "| what grows | of what | from … to | seconds | exponent | GiB | exponent |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, points in found.items():
        series = SERIES[name]
        cells = [series.title, series.what, f"{points[0]['value']:,} … {points[-1]['value']:,}"]
        for what in ("seconds", "gib"):
            cells += [" / ".join(f"{p[what]:.2g}" for p in points), f"{exponent(points, what):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """One panel a series, all axes logarithmic, with what linear cost would be from the first point on."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    from reports.visual.core.style import COLOURS, figure_of, picture, style

    with style():
        figure, panels = figure_of(len(found), 4, 9.0, 2.4)
        for panel, (name, points) in zip(panels, found.items(), strict=True):
            values = [p["value"] for p in points]
            for what, unit, colour, marker in (("seconds", "s", COLOURS[0], "o"), ("gib", "GiB", COLOURS[1], "s")):
                label = f"{unit}, exponent {exponent(points, what):.2f}"
                panel.plot(values, [p[what] for p in points], marker=marker, color=colour, label=label)
            sign = -1 if name == "processes" else 1
            linear = [points[0]["seconds"] * (value / values[0]) ** sign for value in values]
            panel.plot(
                values, linear, color="0.6", linestyle=":", label="linear" if sign > 0 else "s, each half the work"
            )
            panel.set(xscale="log", yscale="log", title=SERIES[name].title)
            panel.set_ylim(
                top=panel.get_ylim()[1] * (panel.get_ylim()[1] / panel.get_ylim()[0]) ** 0.6
            )  # for the legend
            panel.set_xticks(values, [f"{value:,}" for value in values], minor=False)
            panel.minorticks_off()
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.legend(loc="upper left")
        made = picture(figure, "scaling", "Cost as work grows", "", "Time and memory against the size of the work")
    with atomic_file(path) as file:
        file.write(made.png)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SERIES, default=list(SERIES), help="default: all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--threads", type=int, help="of a CPU; with 1, times are of the CPU")
    parser.add_argument("--out", type=Path, default=Path("scaling.json"), help="JSON file for the figures")
    parser.add_argument("--figure", type=Path, help="PNG file for a plot")
    parser.add_argument("--point", nargs=2, metavar=("SERIES", "VALUE"), help="measure this one here, and print it")
    options = parser.parse_args()
    if options.point:
        found = point(options.point[0], int(options.point[1]), options.device, options.threads)
        if found is not None:
            print(json.dumps(found))
        return 0
    measured = {}
    for name in options.only:
        measured[name] = [measure(name, value, options.device, options.threads) for value in SERIES[name].values]
        print(f"{name}: {measured[name]}", file=sys.stderr)
        write_json(options.out, measured)
    if options.figure:
        draw(measured, options.figure)
    print(markdown(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
