"""Distributions over settings: which rows are one method's settings, and their numbers by plain formulas."""

import csv
import itertools
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from reports import build_report
from reports.analysis import robustness
from reports.analysis.comparison import compare
from reports.analysis.robustness import differences, distributions, estimates, families_of
from reports.analysis.rows import rows_of
from rundir.failure import write_failure
from rundir.read import read_runs
from tests.reports.factory import write_run

RATES, WIDTHS = (0.001, 0.01, 0.1), (8, 64)


def setting(folder: Path, method: str, seed: int, variant: str = "", gain: float = 0.0, more=None, **varied) -> Path:
    """A run of a grid that varies options, under the grid's name of its cell."""
    names = [method, "vit_nano", variant, *(f"{name}={value}" for name, value in varied.items()), f"seed{seed}"]
    options = {**varied, **(more or {})}
    about = {"images": 80, "options": options, "matrices": False, "gain": gain}
    return write_run(folder / "-".join(filter(None, names)), method, "vit_nano", seed, **about)


def fail(run: Path) -> None:
    for file in (run / "results").glob("*.json"):
        file.unlink()
    lines = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    write_failure(run, "the loss is not finite")


def collapse(run: Path) -> None:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    signs = {"effective_rank": 1.0, "rank_limit": 31}
    records = [{**record, **(signs if record["kind"] == "step" else {})} for record in records]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def grid(tmp_path):
    """Two methods over six settings, two seeds each, of which one run has failed and two have collapsed; and an untrained one."""
    folder = tmp_path / "runs"
    for (number, (lr, width)), seed in itertools.product(enumerate(itertools.product(RATES, WIDTHS)), (0, 1)):
        run = setting(folder, "dino", seed, lr=lr, out_dim=width, gain=(-0.7, -0.45, -0.1, 0, 0.02, 0.04)[number])
        if number == 0:
            collapse(run)
        if (number, seed) == (3, 1):
            fail(run)
        setting(folder, "weak_dino", seed, lr=lr, out_dim=width, gain=-0.02 * number)
    for seed in (0, 1):
        write_run(folder / f"random-vit_nano-seed{seed}", "random", "vit_nano", seed, images=80, matrices=False)
    return folder


def values_of(folder: Path, method: str) -> dict[tuple, list[float]]:
    """k-NN top-1 (k 20) of each setting's runs, straight from the files."""
    values: dict[tuple, list[float]] = {}
    for file in sorted(folder.glob(f"{method}-*/results/knn.json")):
        for measured in json.loads(file.read_text()):
            if (measured["metric"], measured["protocol"]["k"]) == ("top1", 20):
                values.setdefault(tuple(file.parents[1].name.split("-")[2:4]), []).append(measured["value"])
    return values


@pytest.mark.usefixtures("no_pdfs")
def test_numbers_of_the_report_are_those_of_plain_formulas(grid, tmp_path):
    page = build_report([grid], tmp_path / "out")
    lines = list(csv.DictReader((tmp_path / "out" / "tables" / "robustness.csv").open()))
    assert [line["Method"] for line in lines] == ["DINO", "Weak DINO"] * 2
    untrained = statistics.mean(itertools.chain(*values_of(grid, "random").values()))
    for line, method in zip(lines[:2], ("dino", "weak_dino"), strict=True):
        by_setting = values_of(grid, method)
        means = [statistics.mean(values) for values in by_setting.values()]
        every = [value for values in by_setting.values() for value in values]
        low, _, high = statistics.quantiles(means, n=4, method="inclusive")
        expected = {"Best": max(means), "Median": statistics.median(means), "Worst": min(means)}
        expected |= {"SD": statistics.stdev(means), "IQR": high - low, "SD of runs": statistics.stdev(every)}
        assert {name: float(line[name]) for name in expected} == pytest.approx(expected, rel=1e-5)
        if method == "dino":
            del by_setting["lr=0.001", "out_dim=8"]  # collapsed
        below = sum(value <= untrained for values in by_setting.values() for value in values)
        counts = [line[name] for name in ("Settings", "Runs", "Failed", "Collapsed", "Not above untrained")]
        assert counts == (["6", "12", "1", "2", str(below)] if method == "dino" else ["6", "12", "0", "0", "0"])
        assert (below > 0) == (method == "dino")
        assert float(line["Median low"]) <= expected["Median"] <= float(line["Median high"])
    assert "Robustness: methods over their settings" in page.read_text()
    assert (tmp_path / "out" / "figures" / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "tab:robustness" in (tmp_path / "out" / "tables" / "robustness.tex").read_text()
    (first, _) = csv.DictReader((tmp_path / "out" / "tables" / "robustness-differences.csv").open())
    medians = [float(line["Median"]) for line in lines[:2]]
    assert (first["First"], first["Second"], first["Settings"]) == ("DINO", "Weak DINO", "6")
    assert float(first["Median"]) == pytest.approx(medians[0] - medians[1], rel=1e-5)
    assert float(first["SD"]) == pytest.approx(float(lines[0]["SD"]) - float(lines[1]["SD"]), rel=1e-5)


def test_intervals_are_those_of_a_plain_bootstrap_over_settings(monkeypatch):
    monkeypatch.setattr(robustness, "RESAMPLES", 300)
    rng = np.random.default_rng(3)
    first, second = rng.normal(60, 8, size=12), rng.normal(65, 3, size=12)
    drawn = np.random.default_rng(0).integers(12, size=(300, 12))
    statistic = {0: statistics.median, 1: statistics.stdev, 2: lambda v: np.percentile(v, 75) - np.percentile(v, 25)}
    single, paired = estimates(first), estimates(first, second)
    for place, of in statistic.items():
        assert single[place].value == pytest.approx(of(first.tolist()))
        samples = [of(first[row].tolist()) for row in drawn]
        others = [of(second[row].tolist()) for row in drawn]
        if place == 1:  # bootstrap-t of the logarithm, its standard error from the kurtosis

            def error(values):
                squares = [(value - statistics.fmean(values)) ** 2 for value in values]
                kurtosis = statistics.fmean(s**2 for s in squares) / statistics.fmean(squares) ** 2
                return ((kurtosis - 1) / (4 * 12)) ** 0.5

            t = [
                np.log(s / of(first.tolist())) / error(first[row].tolist())
                for s, row in zip(samples, drawn, strict=True)
            ]
            ends = [single[1].value * np.exp(-end * error(first.tolist())) for end in np.percentile(t, [97.5, 2.5])]
        else:
            ends = np.percentile(samples, [2.5, 97.5])
        assert (single[place].low, single[place].high) == pytest.approx(tuple(ends))
        ends = np.percentile(np.array(samples) - others, [2.5, 97.5])
        assert (paired[place].low, paired[place].high) == pytest.approx(tuple(ends))


@pytest.mark.slow
def test_the_interval_of_a_standard_deviation_holds_it_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        spread = estimates(rng.normal(size=12))[1]
        hits += spread.low <= 1 <= spread.high
    assert 0.88 < hits / 300 < 0.98


def test_equal_settings_and_few_have_no_interval_of_their_spread():
    equal = estimates(np.full(12, 10.0))[1]
    assert (equal.value, equal.low, equal.high) == (0.0, None, None)
    few = estimates(np.array([1.0, 2.0, 4.0, 9.0]))
    assert few[1].low is few[2].low is None and few[0].low is not None


def test_variants_and_uses_of_labels_are_methods_of_their_own(tmp_path):
    for seed, lr in itertools.product((0,), (0.1, 0.2, 0.3, 0.4)):
        setting(tmp_path, "weak_dino", seed, "pairs", lr=lr)
        setting(tmp_path, "weak_dino", seed, "means", lr=lr, more={"targets": "label"})
        setting(tmp_path, "barlow_twins", seed, lr=lr)
        setting(tmp_path, "barlow_twins", seed, lr=lr + 1, more={"pairing": "same_label"})
        setting(tmp_path, "dino", seed, f"s{lr}", more={"lr": lr})  # variants are the settings where nothing is varied
    fail(tmp_path / "weak_dino-vit_nano-means-lr=0.2-seed0")
    families = families_of(rows_of(read_runs([tmp_path])[0]))
    assert sorted((family.name, len(family.rows), family.failed) for family in families) == [
        ("Barlow Twins, labels: all (pairs)", 4, 0),
        ("Barlow Twins, labels: none", 4, 0),
        ("DINO", 4, 0),
        ("Weak DINO, means", 4, 1),
        ("Weak DINO, pairs", 4, 0),
    ]


def test_only_the_settings_that_both_have_are_compared(tmp_path):
    for number, lr in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        setting(tmp_path, "dino", 0, lr=lr, gain=0.01 * number)
        setting(tmp_path, "weak_dino", 0, lr=lr if number else 0.9, gain=-0.02 * number)
        setting(tmp_path, "barlow_twins", 0, lr=lr, lambd=0.1 * number)  # DINO has no lambd
    rows = rows_of(read_runs([tmp_path])[0])
    (comparison,) = compare(rows)
    made = distributions(comparison, rows)
    pairs = [pair for pair in differences(made) if pair.first.column == made[0].column]
    (pair,) = pairs
    assert {pair.first.family.name, pair.second.family.name} == {"DINO", "Weak DINO"} and pair.shared == 4
    values = [values_of_lr(tmp_path, method) for method in ("dino", "weak_dino")]
    medians = [statistics.median(of[lr] for lr in (0.2, 0.3, 0.4, 0.5)) for of in values]
    assert abs(pair.median.value) == pytest.approx(abs(medians[0] - medians[1]))


def values_of_lr(folder: Path, method: str) -> dict[float, float]:
    return {float(key[0].removeprefix("lr=")): value for key, (value,) in values_of(folder, method).items()}


def test_data_and_backbones_are_named_where_there_are_several(tmp_path):
    for lr, (backbone, data) in itertools.product((0.1, 0.2), (("vit_nano", "demo"), ("vit_s8", "voc"))):
        write_run(
            tmp_path / f"{backbone}{lr}", "dino", backbone, data=data, options={"lr": lr}, images=20, matrices=False
        )
    families = families_of(rows_of(read_runs([tmp_path])[0]))
    assert [family.name for family in families] == ["DINO, vit_nano, demo", "DINO, vit_s8, voc"]


@pytest.mark.usefixtures("no_pdfs")
def test_fewer_settings_have_no_table(tmp_path):
    for lr in (0.1, 0.2, 0.3):
        setting(tmp_path / "runs", "dino", 0, lr=lr)
    for lr in (0.1, 0.2, 0.3, 0.4):
        run = setting(tmp_path / "runs", "weak_dino", 0, lr=lr)
        if lr < 0.3:
            fail(run)
    page = build_report([tmp_path / "runs"], tmp_path / "out").read_text()
    assert not list((tmp_path / "out" / "tables").glob("robustness*"))
    which = "DINO (measured: 3 of 3 settings; failed: 0 of 3 runs), Weak DINO (measured: 2 of 4 settings; failed: 2 of 4 runs)."
    assert which in page


@pytest.mark.usefixtures("no_pdfs")
def test_settings_are_held_against_the_untrained_backbone_of_their_size(tmp_path):
    """The untrained backbone is better than DINO at 32 pixels, and worse at 64."""
    for image_size, gain in ((32, 0.6), (64, -0.1)):
        setting(tmp_path / "runs", "random", 0, image_size=image_size, gain=gain)
        for lr in (0.1, 0.2):
            setting(tmp_path / "runs", "dino", 0, image_size=image_size, lr=lr)
    page = build_report([tmp_path / "runs"], tmp_path / "out").read_text()
    tables = {
        name: list(csv.DictReader((tmp_path / "out" / "tables" / f"{name}.csv").open()))
        for name in ("robustness", "effects")
    }
    assert [line["Not above untrained"] for line in tables["robustness"]] == ["2", "2"]
    signs = {(line["Variant"].partition(",")[0], float(line["Linear top-1"]) > 0) for line in tables["effects"]}
    assert signs == {("image_size 32", False), ("image_size 64", True)}
    assert "In 4 of 8 comparisons with the untrained backbone" in page
