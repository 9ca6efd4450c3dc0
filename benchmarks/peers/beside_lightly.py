"""The same recipe, photos, crops, steps and batch in lightly and here: accuracy over seeds.

    python -m benchmarks.peers.beside_lightly --data_root IMAGENETTE --out DIR

runs ``experiments/beside_lightly.yaml``, then lightly with the options of each of its runs (``lightly_training.py``, in
``DIR/environment``, made by uv), and measures both backbones by ``run.py evaluate`` with one k-NN. What is done is not done again.
Ends with a table, also in ``DIR/accuracy.csv``. How fast each trains is measured by ``speed_beside_lightly.py``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scipy.stats

from common.statistics.intervals import t_interval
from methods.core.base import METHODS
from rundir.log import read_log
from rundir.options import require_options
from rundir.paths import RESULTS
from rundir.results import read_results

ROOT = Path(__file__).resolve().parents[2]
GRID = ROOT / "experiments" / "beside_lightly.yaml"
#: The k of the k-NN that is compared; lightly's tables of Imagenette have it.
K = 20
#: How ``run.py evaluate`` measures lightly's backbones, as the grid measures ours.
KNN = f"--backbone resnet18 --data imagefolder --image_size 64 --evals knn --knn_ks {K} 200".split()
#: What lightly trains a method with, beside the recipe: where its residual branches begin (``methods/`` here).
ZERO_INIT = {"barlow_twins": True, "dino": False}


def recipe_of(run: Path, train: Path) -> dict[str, Any]:
    """The options of one of our runs as ``lightly_training.py`` takes them, views, steps and the rate for a batch with them."""
    options = require_options(run)
    method = METHODS.get(options["method"])
    fields = [field.name for field in dataclasses.fields(method.Config)]
    config = method.Config(**{name: _tuples(options[name]) for name in fields if name in options})
    views = []
    for view in method.views(config, options["image_size"]):
        views.append({**dataclasses.asdict(view.augmentation), **dataclasses.asdict(view)})
    return {
        **{name: value for name, value in options.items() if isinstance(value, (int, float, str))},
        "views": views,
        "projector": int(str(options.get("projector", "0")).split("-")[0]),
        "lr": options["lr"] * options["batch_size"] / 256,
        "steps": next(record["step"] for record in read_log(run) if record.get("kind") == "end"),
        "train": str(train.resolve()),
        "zero_init_residual": ZERO_INIT[options["method"]],
    }


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def environment(folder: Path) -> str:
    """Make the environment that has lightly, unless it is there. Returns its Python."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "--python", str(python), "lightly", "torch", "torchvision"], check=True)
        (folder / "complete").touch()
    return str(python)


def run(*arguments: str | Path | int) -> None:
    """Run a command of this project; it shows its own progress. Raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, str(ROOT / "run.py"), *map(str, arguments)], check=True)


def train_by_lightly(python: str, here: Path, train: Path, folder: Path) -> Path:
    """Train in lightly by the options of our run ``here``, unless the folder holds that training. Returns the weights' file."""
    if not (folder / "training.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(recipe_of(here, train), indent=1))
        script = Path(__file__).with_name("lightly_training.py")
        subprocess.run([python, str(script), str(folder / "recipe.json")], check=True)
    (weights,) = folder.glob("*.pth")
    return weights


def top1_of(folder: Path) -> float:
    """The k-NN's top-1 in percent."""
    results = read_results(folder / RESULTS / "knn.json")
    return next(m.value for m in results if m.metric == "top1" and m.protocol["k"] == K)


def row(name: str, accuracies: Sequence[float]) -> dict[str, str]:
    """A row of the table: mean over seeds with its 95% t interval."""
    mean = statistics.mean(accuracies)
    interval = ""
    if len(accuracies) > 1:
        low, high = t_interval(mean, statistics.stdev(accuracies), len(accuracies), (0, 100))
        interval = f"{low:.1f} to {high:.1f}"
    seeds = " ".join(f"{accuracy:.1f}" for accuracy in accuracies)
    return {"": name, f"k-NN (k = {K})": f"{mean:.1f}", "95% interval": interval, "seeds": seeds}


def difference(method: str, here: Sequence[float], lightly: Sequence[float]) -> dict[str, str]:
    """A row with the difference of the means, and its 95% interval by Welch's t-test over the seeds."""
    between = scipy.stats.ttest_ind(here, lightly, equal_var=False) if len(here) > 1 else None
    interval = "{:.1f} to {:.1f}".format(*between.confidence_interval()) if between else ""
    mean = statistics.mean(here) - statistics.mean(lightly)
    return {"": f"{method}, here − lightly", f"k-NN (k = {K})": f"{mean:.1f}", "95% interval": interval, "seeds": ""}


def write_table(file: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows as CSV, and print the last one."""
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print("  ".join(f"{name} {value}" if name else value for name, value in rows[-1].items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, required=True, help="Imagenette, with train and val")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(ZERO_INIT), choices=list(ZERO_INIT))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    out, data = arguments.out, ("--data_root", arguments.data_root)
    ours, theirs = out / "ours", out / "lightly"
    python = environment(out / "environment")
    run("compare", "--grid", GRID, "--methods", "random", "--seeds", *arguments.seeds, *data, "--out", ours)
    rows = [row("Untrained", [top1_of(ours / "runs" / f"random-resnet18-seed{seed}") for seed in arguments.seeds])]
    for method in arguments.methods:
        measured: dict[str, list[float]] = {"here": [], "lightly": []}
        for seed in arguments.seeds:
            run("compare", "--grid", GRID, "--methods", method, "--seeds", seed, *data, "--out", ours)
            here = ours / "runs" / f"{method}-resnet18-seed{seed}"
            weights = train_by_lightly(python, here, arguments.data_root / "train", theirs / "trainings" / here.name)
            peer = theirs / "runs" / weights.stem
            run("evaluate", "--weights", weights, "--out", peer, *data, *KNN)
            measured["here"].append(top1_of(here))
            measured["lightly"].append(top1_of(peer))
        title = METHODS.get(method).title
        of_method = [row(f"{title}, {side}", numbers) for side, numbers in measured.items()]
        for line in [*of_method, difference(title, **measured)]:
            rows.append(line)
            write_table(out / "accuracy.csv", rows)


if __name__ == "__main__":
    main()
