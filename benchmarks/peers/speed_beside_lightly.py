"""Images per second of the same training in lightly and here, from files to weights.

    python -m benchmarks.peers.speed_beside_lightly --data_root IMAGENETTE --out DIR

The recipe is ``experiments/beside_lightly.yaml``, cut to a few steps, at the sizes asked for. The two take turns, on a machine that
should do nothing else. Images are counted after the first tenth of the steps, without either side's start; ours reads its
store, which a first training, not counted, builds. Ends with a table, also in ``DIR/speed.csv``: medians of the
rounds with their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.peers.beside_lightly import GRID, ZERO_INIT, environment, run, train_by_lightly, write_table
from methods.core.base import METHODS
from rundir.log import read_log


def speed_of(folder: Path) -> float:
    """Images per second of one of our runs, without the first tenth of its steps, as lightly's are counted."""
    steps = [r for r in read_log(folder) if r.get("kind") == "step"]
    return statistics.harmonic_mean([r["images_per_second"] for r in steps if r["step"] > steps[-1]["step"] / 10])


def shown(values: Sequence[float]) -> str:
    """Median and, of more than one value, the range."""
    spread = f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=Path, required=True, help="Imagenette, with train and val")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(ZERO_INIT), choices=list(ZERO_INIT))
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels of a full-size crop")
    parser.add_argument("--images", type=int, default=960, help="of each training")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    out = arguments.out
    python = environment(out / "environment")
    grid = yaml.safe_load(GRID.read_text(encoding="utf-8"))
    grid["evals"] = []
    for name in ("epochs", "knn_ks"):  # the budget takes the place of the one; the other is an option of the evaluation
        del grid["base"][name]
    grid["base"] |= {"budget": f"images={arguments.images}", "log_every": 1, "checkpoint_every": 1000}
    (out / "grid.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    rows = []

    def ours(method: str, size: int, name: str) -> Path:
        cell = ("--methods", method, "--seeds", 0, "--image_size", size, "--data_root", arguments.data_root)
        run("compare", "--grid", out / "grid.yaml", *cell, "--out", out / "ours" / name)
        return out / "ours" / name / "runs" / f"{method}-resnet18-seed0"

    for method in arguments.methods:
        for size in arguments.sizes:
            ours(method, size, f"{method}-{size}-uncounted")
            here: list[float] = []
            lightly: list[float] = []
            for number in range(arguments.rounds):
                name = f"{method}-{size}-{number}"
                trained = ours(method, size, name)
                here.append(speed_of(trained))
                weights = train_by_lightly(python, trained, arguments.data_root / "train", out / "lightly" / name)
                lightly.append(json.loads(weights.with_name("training.json").read_text())["images_per_second"])
            ratios = [a / b for a, b in zip(here, lightly, strict=True)]
            title = f"{METHODS.get(method).title}, ResNet-18, {size} pixels"
            speeds = {"here, images/s": shown(here), "lightly, images/s": shown(lightly), "ratio": shown(ratios)}
            rows.append({"": title, **speeds})
            write_table(out / "speed.csv", rows)


if __name__ == "__main__":
    main()
