"""Bytes and processor time an image as data sets grow, and what follows for ImageNet-1k, ImageNet-22k and 100 million images.

    python -m benchmarks.large_data

Each case is measured on sets of which each has four times the images of the one before. Times are of the processor, of all
threads. Bytes are those that Python and numpy hold afterwards, and at most while it works (tracemalloc); of a search, which torch
does, what the process has at most beside pages of files (Linux alone tells it). Exponents are slopes of
least squares through the logarithms: 1 is linear. What larger sets take is what the largest took, times the growth to the power of
the exponent, of which anything below 1 counts as 1: it comes from what every set takes, however small.

A Markdown table is printed; docs/scale.md shows it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.large_data.cases import CASES, Case, Work
from benchmarks.scaling import exponent

#: Where Linux tells what a process has.
STATUS = Path("/proc/self/status")
#: The data sets that the table is about.
SETS = {"1.28 M": 1_281_167, "14.2 M": 14_197_122, "100 M": 100_000_000}


def measure(case: Case, images: int) -> dict[str, float] | None:
    """Seconds and bytes of a case; None where packages are missing, or the system does not tell."""
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        folder = Path(name)
        work = case.prepare(images, folder)
        if work is None:
            return None
        if case.seen:
            return {"value": images, "peak": _seen(work)} if STATUS.exists() else None
        found = {"value": images, "seconds": _seconds(work)}
        if case.files:
            found["disk"] = sum(file.stat().st_size for file in folder.glob(case.files)) / _runs(folder, case.files)
        if case.memory:
            gc.collect()
            tracemalloc.start()
            held = work()
            found["held"], found["peak"] = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            del held
        return found


def _seen(work: Work) -> int:
    """The most bytes that the process has while it works, beside those it had before, and pages of files."""
    work()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # or what was freed before would be used again unseen
    before, most, ended = _own(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.001):
            most[0] = max(most[0], _own())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        work()
    finally:  # or the thread would keep a failed process alive
        ended.set()
        looking.join()
    return max(most[0] - before, 0)


def _own() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def _runs(folder: Path, pattern: str) -> int:
    """How many files there are: each call of the work left one."""
    return len(list(folder.glob(pattern)))


def _seconds(work: Work) -> float:
    """Processor time of the work, the least of three calls where these are short."""
    times = []
    while len(times) < 3 and sum(times) < 0.5:
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def table(measured: dict[str, list[dict[str, float]]]) -> str:
    """A row for each quantity of each case."""
    lines = [
        f"| what | images | an image | exponent | {' | '.join(SETS)} |",
        f"|---|---|---|---|{'---|' * len(SETS)}",
    ]
    names = {"held": "held", "peak": "at most", "disk": "on disk", "seconds": "time"}
    for name, points in measured.items():
        case = CASES[name]
        for what, word in names.items():
            if what not in points[0] or min(point[what] for point in points) <= 0:
                continue
            last, power = points[-1], exponent(points, what)
            if what == "held" and last[what] < last["value"]:
                continue  # a result, such as a hash
            growth = power if case.once else max(power, 1.0)
            grown = [last[what] * (images / last["value"]) ** growth for images in SETS.values()]
            one = last[what] / last["value"]
            shown = _time if what == "seconds" else _bytes
            range_ = f"{points[0]['value']:,} … {last['value']:,}"
            single = shown(last[what]) + " in all" if case.once else shown(one)
            lines.append(
                f"| {case.title}: {word} | {range_} | {single} | {power:.2f} | {' | '.join(map(shown, grown))} |"
            )
    return "\n".join(lines)


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.3g} B"


def _time(seconds: float) -> str:
    for unit, scale in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    options = parser.parse_args(words)
    measured = {}
    for name in options.only:
        points = [measure(CASES[name], images) for images in CASES[name].sizes]
        if None in points:
            print(f"{name}: left out: needs the packages of '.[hf]', or Linux", file=sys.stderr)
            continue
        measured[name] = points
        print(f"{name}: {points}", file=sys.stderr, flush=True)
    print(table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
