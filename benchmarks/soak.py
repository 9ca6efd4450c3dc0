"""Kill trainings, evaluations, grids and store builds at random moments, start them again, and see that nothing is lost.

    python benchmarks/soak.py --kills 200 --seed 0 --out soak.json

Each workload is a command line on a data set and backbones made small here. It is run once without a kill; then again and again
in one directory: killed by SIGKILL (mostly), SIGTERM or SIGUSR1 after a random part of the time that it takes, until the
kills are spent, and at last to its end. What is left must equal the unbroken run's: every loss, every k-NN, every weight of the
checkpoints, every measurement, every byte of the stores. Nothing half-written may stay.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = """
from backbones import BACKBONES
from backbones.vit import VisionTransformer

BACKBONES.register("soak_vit")(
    lambda image_size, **hints: VisionTransformer(patch_size=8, width=24, depth=4, heads=2)
)
"""
#: SIGKILL leaves no time for anything; the other two ask for a checkpoint first.
SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGUSR1]
#: What a run that equals another one may differ in: time, and what it was made with.
TIMED = {"seconds", "minutes", "images_per_second", "peak_memory_gib", "finished", "started"}
SMALL = {
    "dino": [
        "--out_dim",
        "64",
        "--hidden_dim",
        "32",
        "--bottleneck_dim",
        "16",
        "--local_crops",
        "2",
        "--local_size",
        "16",
    ],
    "barlow_twins": ["--projector", "32-32-16"],
}


@dataclass(frozen=True)
class Workload:
    """A command, and what its end leaves.

    Attributes:
        words: of ``run.py``, given a working directory.
        result: of that directory: anything that compares.
        prepare: what the command needs in the directory.
    """

    words: Callable[[Path], list[str]]
    result: Callable[[Path], object]
    prepare: Callable[[Path], None] = lambda folder: None


def make_data(root: Path, images: int, size: int) -> Path:
    """``imagefolder`` data of two colours, as PNG files."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 12)):
        for number in range(count):
            folder = root / split / ("red", "green")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
            pixels[..., number % 2] //= 4
            Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=1)
    return root


def result_of_run(run: Path) -> object:
    """Records, weights and measurements of a run directory, without times."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert not list(run.rglob("*.tmp")), "something half-written is left"
    checkpoints = {}
    for file in sorted((run / "checkpoints").glob("*.pt")):
        state = torch.load(file, weights_only=True)
        weights = b"".join(t.numpy().tobytes() for t in state["method"].values())
        checkpoints[file.name] = [state["step"], hashlib.sha256(weights).hexdigest()]
    return {
        "log": [{k: v for k, v in record.items() if k not in TIMED} for record in records],
        "checkpoints": checkpoints,
        "results": {f.name: _values(json.loads(f.read_text())) for f in sorted((run / "results").glob("*.json"))},
    }


def _values(measurements: list[dict]) -> list:
    return [[m["evaluation"], m["metric"], m["value"], m["low"], m["high"], m["n"]] for m in measurements]


def result_of_stores(cache: Path) -> object:
    """The bytes of every store's pixels; journals and locks of finished ones hold nothing."""
    assert not [file for file in cache.rglob("*") if file.suffix == ".tmp" or file.name.startswith("building")]
    return {
        file.relative_to(cache).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(cache.rglob("pixels-*.bin"))
    }


def workloads(data: Path, many: Path, plugin: Path) -> dict[str, Workload]:
    common = ["--plugin", str(plugin), "--backbone", "soak_vit", "--data", "imagefolder", "--data_root", str(data)]
    common += ["--image_size", "16", "--device", "cpu"]
    training = [*common, "--batch_size", "8", "--log_every", "1", "--knn_every", "2", "--precision", "fp32"]

    def train(method: str) -> Callable[[Path], list[str]]:
        return lambda folder: [
            "--method",
            method,
            *SMALL[method],
            *training,
            "--epochs",
            "12",
            "--out",
            str(folder / "run"),
        ]

    def prepare(folder: Path) -> None:
        """A trained run to evaluate, as it was before any evaluation."""
        words = ["--method", "random", *training, "--out", str(folder / "run")]
        assert start(folder, words).wait() == 0

    evaluation = [
        "--knn_ks",
        "5",
        "--evals",
        "knn",
        "linear",
        "linear_authors",
        "--linear_epochs",
        "40",
        "--linear_authors_epochs",
        "4",
    ]

    def grid(folder: Path) -> list[str]:
        small = ["--epochs", "4", "--seeds", "0", "1", "--evals", "knn", "--knn_ks", "5", "--out", str(folder / "grid")]
        place = training.index("--backbone")
        options = training[:place] + training[place + 2 :]
        return [
            "compare",
            "--methods",
            "barlow_twins",
            "--backbones",
            "soak_vit",
            *small,
            *options,
            *SMALL["barlow_twins"],
        ]

    return {
        "dino": Workload(train("dino"), lambda folder: result_of_run(folder / "run")),
        "barlow_twins": Workload(train("barlow_twins"), lambda folder: result_of_run(folder / "run")),
        "evaluation": Workload(
            lambda folder: [
                "evaluate",
                "--weights",
                str(folder / "run"),
                "--plugin",
                str(plugin),
                "--device",
                "cpu",
                *evaluation,
            ],
            lambda folder: result_of_run(folder / "run"),
            prepare,
        ),
        "grid": Workload(
            grid, lambda folder: {run.name: result_of_run(run) for run in sorted((folder / "grid" / "runs").iterdir())}
        ),
        "store": Workload(
            lambda folder: ["data", "imagefolder", "--data_root", str(many), "--short_side", "96"],
            lambda folder: result_of_stores(folder / "cache"),
        ),
    }


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    """The command with a cache of its own; what it prints goes to ``output.txt``."""
    environment = {**os.environ, "SSL_COMPARE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words], stdout=output, stderr=output, env=environment
        )


def soak(name: str, workload: Workload, kills: int, rng: random.Random, base: Path) -> dict[str, object]:
    """One workload, killed so many times. Returns what happened; ``equal`` says whether all was as unbroken."""
    whole, broken = base / f"{name}-whole", base / f"{name}-broken"
    for folder in (whole, broken):
        folder.mkdir()
        workload.prepare(folder)
    began = time.monotonic()
    assert start(whole, workload.words(whole)).wait() == 0, (whole / "output.txt").read_text()[-3000:]
    took = time.monotonic() - began
    killed, ended, statuses = 0, 0, []
    while killed < kills:
        process = start(broken, workload.words(broken))
        try:
            status = process.wait(timeout=rng.uniform(0.3, 1.1) * took)
        except subprocess.TimeoutExpired:
            process.send_signal(number := rng.choice(SIGNALS))
            killed += 1
            statuses.append(status := process.wait())
            assert status in (-number, 128 + number, 0), f"status {status} after {number!r}"
        if status == 0:  # at the end: the next kills need something to do
            ended += 1
            if workload.result(broken) != workload.result(whole):
                break
            shutil.rmtree(broken)
            broken.mkdir()
            workload.prepare(broken)
        elif status not in (-9, -15, -10, 143, 138):
            raise SystemExit(f"{name}: status {status}\n{(broken / 'output.txt').read_text()[-3000:]}")
    status = start(broken, workload.words(broken)).wait()
    equal = status == 0 and workload.result(broken) == workload.result(whole)
    if not equal:
        print((broken / "output.txt").read_text()[-3000:], file=sys.stderr)
    return {"kills": killed, "reached the end meanwhile": ended, "unbroken seconds": round(took, 1), "equal": equal}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="in all, divided among the workloads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="workloads: dino barlow_twins evaluation grid store")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        base = Path(folder)
        plugin = base / "soak_backbone.py"
        plugin.write_text(PLUGIN)
        known = workloads(make_data(base / "data", 88, 32), make_data(base / "many", 600, 256), plugin)
        names = options.only or list(known)
        figures: dict[str, object] = {}
        for place, name in enumerate(names):
            kills = options.kills // len(names) + (place < options.kills % len(names))
            figures[name] = soak(name, known[name], kills, random.Random(f"{options.seed} {name}"), base)
            print(f"{name}: {figures[name]}", flush=True)
    about = {"seed": options.seed, "machine": platform.platform(), "torch": torch.__version__, "workloads": figures}
    if options.out:
        options.out.write_text(json.dumps(about, indent=1) + "\n")
    return 0 if all(figure["equal"] for figure in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
