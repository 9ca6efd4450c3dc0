"""Kill trainings, segmentations, evaluations, grids and store builds at random moments, start them again, and see that nothing
is lost.

    python benchmarks/soak.py --kills 200 --seed 0 --out soak.json

Each workload is a command line on a data set and backbones made small here. It is run once without a kill; then again and again
in one directory: killed by SIGKILL (mostly), SIGTERM or SIGUSR1 after a random part of the time that it takes, until the
kills are spent, and at last to its end. What is left must equal the unbroken run's: every loss, every k-NN, every weight of the
checkpoints, every measurement, every byte of the stores. Nothing half-written may stay.

Each command is a process that is forked off with the imports done, so that kills meet work and not the start; a grid starts its
cells' processes itself, and those from nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
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
        weight: its part of the kills, beside those of the others.
    """

    words: Callable[[Path], list[str]]
    result: Callable[[Path], object]
    prepare: Callable[[Path], None] = lambda folder: None
    weight: float = 1.0


def import_toolkit() -> None:
    """Everything that the commands import, before they are forked off; on one thread, since others do not outlive a fork."""
    sys.path.insert(0, str(ROOT))
    for module in ("training.trainer", "eval.core.online", "commands.compare", "commands.segment", "commands.data"):
        importlib.import_module(module)
    torch.set_num_threads(1)


def make_data(root: Path, images: int, size: int) -> Path:
    """``imagefolder`` data of two colours, as PNG files."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 12)):
        for number in range(count):
            folder = root / split / ("red", "green")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
            pixels[..., number % 2] //= 4
            Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=0)
    return root


def make_masks(root: Path) -> Path:
    """Data in VOC2012's layout: noise, whose left half is an aeroplane."""
    rng = np.random.default_rng(1)
    base = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for split, count in (("train", 12), ("val", 3)):
        names = [f"{split}{number}" for number in range(count)]
        for name in names:
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            pixels[:, :16, 0] //= 4
            mask = np.zeros((32, 32), np.uint8)
            mask[:, :16] = 1
            Image.fromarray(pixels).save(base / "JPEGImages" / f"{name}.jpg", quality=95)
            Image.fromarray(mask).save(base / "SegmentationClass" / f"{name}.png")
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names))
    return root


def result_of_run(run: Path) -> object:
    """Records, weights and measurements of a run directory, without times."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert not list(run.rglob("*.tmp")), "something half-written is left"
    checkpoints = {}
    for file in sorted((run / "checkpoints").glob("*.pt")):
        state = torch.load(file, weights_only=True)
        weights = b"".join(t.numpy().tobytes() for t in state["method"].values())
        if not file.name.startswith("step-"):  # those before the last: a signal makes one at its own step
            checkpoints[file.name] = [state["step"], hashlib.sha256(weights).hexdigest()]
    return {
        "log": [{k: v for k, v in record.items() if k not in TIMED} for record in records],
        "checkpoints": checkpoints,
        "results": {f.name: _values(json.loads(f.read_text())) for f in sorted((run / "results").glob("*.json"))},
    }


def difference(a: object, b: object, place: str = "") -> str | None:
    """Where two results differ first, and in what; None where they are equal."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        found = (difference(a.get(key), b.get(key), f"{place}/{key}") for key in keys)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        found = (difference(x, y, f"{place}/{number}") for number, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        return None if a == b else f"{place}: {str(a)[:500]} is not {str(b)[:500]}"
    return next((text for text in found if text is not None), None)


def _values(measurements: list[dict]) -> list:
    return [[m["evaluation"], m["metric"], m["value"], m["low"], m["high"], m["n"]] for m in measurements]


def result_of_stores(cache: Path) -> object:
    """The bytes of every store's pixels; journals and locks of finished ones hold nothing."""
    assert not [file for file in cache.rglob("*") if file.suffix == ".tmp" or file.name.startswith("building")]
    return {
        file.relative_to(cache).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(cache.rglob("pixels-*.bin"))
    }


def workloads(data: Path, many: Path, masks: Path, plugin: Path) -> dict[str, Workload]:
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
            "4",
            "--out",
            str(folder / "run"),
        ]

    def prepare(folder: Path) -> None:
        """A trained run to evaluate, as it was before any evaluation."""
        words = ["--method", "random", *training, "--out", str(folder / "run")]
        assert finish(folder, words) == 0

    def on_weights(command: str, folder: Path) -> list[str]:
        return [command, "--weights", str(folder / "run"), "--plugin", str(plugin), "--device", "cpu"]

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
        small = ["--epochs", "3", "--seeds", "0", "1", "--evals", "knn", "--knn_ks", "5", "--out", str(folder / "grid")]
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
            lambda folder: [*on_weights("evaluate", folder), *evaluation],
            lambda folder: result_of_run(folder / "run"),
            prepare,
        ),
        "segmentation": Workload(
            lambda folder: [
                *on_weights("segment", folder),
                "--data",
                "voc2012",
                "--data_root",
                str(masks),
                "--finetune",
                "--heads",
                "linear",
                "setr_naive",
                "--batch_size",
                "4",
                "--epochs",
                "4",
            ],
            lambda folder: {
                run.name: result_of_run(run)
                for run in [folder / "run", *sorted((folder / "run" / "segmentation").iterdir())]
            },
            prepare,
        ),
        "store": Workload(
            lambda folder: ["data", "imagefolder", "--data_root", str(many), "--short_side", "96"],
            lambda folder: result_of_stores(folder / "cache"),
        ),
        "grid": Workload(
            grid,
            lambda folder: {run.name: result_of_run(run) for run in sorted((folder / "grid" / "runs").iterdir())},
            weight=0.2,  # each of its cells has to start
        ),
    }


def start(folder: Path, words: list[str]) -> BaseProcess:
    """The command in a process of its own, with a cache of its own; what it prints goes to ``output.txt``."""
    process = get_context("fork").Process(target=_command, args=(folder, words))
    process.start()
    return process


def _command(folder: Path, words: list[str]) -> None:
    with open(folder / "output.txt", "ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.environ["SSL_COMPARE_CACHE"] = str(folder / "cache")
    sys.exit(importlib.import_module("run").main(words))


def finish(folder: Path, words: list[str]) -> int | None:
    """The command to its end. Returns its exit status; a signal's is negative."""
    process = start(folder, words)
    process.join()
    return process.exitcode


def soak(name: str, workload: Workload, kills: int, rng: random.Random, base: Path) -> dict[str, object]:
    """One workload, killed so many times. Returns what happened; ``equal`` says whether all was as unbroken."""
    whole, broken = base / f"{name}-whole", base / f"{name}-broken"
    for folder in (whole, broken):
        folder.mkdir()
        workload.prepare(folder)
    began = time.monotonic()
    assert finish(whole, workload.words(whole)) == 0, said(whole)
    took = time.monotonic() - began
    killed, ended, different, reasons = 0, 0, None, Counter()
    while killed < kills:
        process = start(broken, workload.words(broken))
        process.join(rng.uniform(0.05, 0.9) * took)
        if process.exitcode is None:
            number = rng.choice(SIGNALS)
            os.kill(process.pid, number)
            killed += 1
            process.join()
            # It may have been at its end, or, of SIGTERM and SIGUSR1, left in its own way.
            allowed = {0, -number} if number == signal.SIGKILL else {0, -number, 128 + number}
            reasons[f"{number.name}: {process.exitcode}"] += 1
        else:
            allowed = {0}
        if process.exitcode not in allowed:
            raise SystemExit(f"{name}: status {process.exitcode}, not one of {allowed}\n{said(broken)}")
        if process.exitcode == 0:  # at the end: the next kills need something to do
            ended += 1
            if (different := difference(workload.result(broken), workload.result(whole))) is not None:
                break
            shutil.rmtree(broken)
            broken.mkdir()
            workload.prepare(broken)
    if different is None:
        status = finish(broken, workload.words(broken))
        different = f"status {status}" if status else difference(workload.result(broken), workload.result(whole))
    if different is not None:
        print(f"{said(broken)}\n{name}: {different}", file=sys.stderr)
    return {
        "kills": killed,
        "statuses": dict(sorted(reasons.items())),
        "reached the end meanwhile": ended,
        "unbroken seconds": round(took, 1),
        "equal": different is None,
    }


def said(folder: Path) -> str:
    """The end of what a directory's commands printed."""
    return (folder / "output.txt").read_text(errors="replace")[-3000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="in all, divided among the workloads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="workloads: dino barlow_twins evaluation segmentation store grid")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    import_toolkit()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        base = Path(folder)
        plugin = base / "soak_backbone.py"
        plugin.write_text(PLUGIN)
        known = workloads(
            make_data(base / "data", 88, 32), make_data(base / "many", 800, 192), make_masks(base), plugin
        )
        names = options.only or list(known)
        total = sum(known[name].weight for name in names)
        figures: dict[str, object] = {}
        share = done = 0.0
        for name in names:
            share += options.kills * known[name].weight / total
            kills, done = round(share) - round(done), share
            figures[name] = soak(name, known[name], kills, random.Random(f"{options.seed} {name}"), base)
            print(f"{name}: {figures[name]}", flush=True)
    about = {"seed": options.seed, "machine": platform.platform(), "torch": torch.__version__, "workloads": figures}
    if options.out:
        options.out.write_text(json.dumps(about, indent=1) + "\n")
    return 0 if all(figure["equal"] for figure in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
