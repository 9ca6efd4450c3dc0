"""Rows, columns, tests and bold."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from common.statistics.confusion import scores
from reports import build_report
from reports.analysis.comparison import compare
from reports.analysis.rows import rows_of
from reports.analysis.statistics import holm
from reports.figures.comparison import intervals
from reports.figures.look import Look
from reports.page.comparison_tables import UNEQUAL, results, results_caption
from rundir.read import read_runs
from tests.reports.factory import NAMES_HASH, write_run


def comparison_of(folder):
    runs, _ = read_runs([folder])
    (comparison,) = compare(rows_of([run for run in runs if run.finished]))
    return comparison


def column_named(comparison, name):
    return next(i for i, column in enumerate(comparison.columns) if column.name == name)


def row_of(comparison, method):
    return next(i for i, row in enumerate(comparison.rows) if row.method == method)


def test_seeds_are_one_row_and_options_make_another(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path / f"a{seed}", seed=seed, images=50)
    write_run(tmp_path / "b", seed=0, images=50, options={"out_dim": 1024})
    comparison = comparison_of(tmp_path)
    assert [(row.variant, row.seeds) for row in comparison.rows] == [("out_dim 4096", [0, 1, 2]), ("out_dim 1024", [0])]
    cell = comparison.cells[0, column_named(comparison, "Linear top-1")]
    values = [json.loads((tmp_path / f"a{s}" / "results" / "linear.json").read_text())[0]["value"] for s in (0, 1, 2)]
    assert cell.over_seeds.mean == pytest.approx(np.mean(values))
    assert cell.over_seeds.std == pytest.approx(np.std(values, ddof=1))


def test_several_k_are_several_columns_and_20_is_the_headline(tmp_path):
    write_run(tmp_path / "a", images=50)
    comparison = comparison_of(tmp_path)
    names = [column.name for column in comparison.columns]
    assert names[:4] == ["k-NN top-1 (k 10)", "k-NN top-1 (k 20)", "k-NN top-5 (k 10)", "k-NN top-5 (k 20)"]
    assert [names[column] for column in comparison.headline] == ["k-NN top-1 (k 20)", "Linear top-1"]


def test_one_seed_is_mcnemar_with_holm(tmp_path):
    for method in ("dino", "barlow_twins", "weak_dino"):
        write_run(tmp_path / method, method, images=600)
    comparison = comparison_of(tmp_path)
    right = {}
    for method in ("dino", "barlow_twins", "weak_dino"):
        for column, file in (("k-NN top-1 (k 20)", "knn-k20"), ("Linear top-1", "linear")):
            with np.load(tmp_path / method / "predictions" / f"{file}.npz") as arrays:
                right[method, column_named(comparison, column)] = arrays["top1"]
    expected = []
    for line in comparison.tests.itertuples():
        a, b = (right[comparison.rows[row].method, line.column] for row in (line.a, line.b))
        expected.append(stats.binomtest(int((a & ~b).sum()), int((a ^ b).sum())).pvalue)
    assert set(comparison.tests["test"]) == {"McNemar, exact"}
    assert comparison.tests["p"].to_numpy() == pytest.approx(expected)
    assert comparison.tests["p_holm"].to_numpy() == pytest.approx(holm(expected))
    assert comparison.tested == 6
    # It used labels, so it is ranked apart.
    assert not comparison.cells[row_of(comparison, "weak_dino"), column_named(comparison, "Linear top-1")].bold
    assert sorted(map(len, comparison.ranked)) == [1, 2]


def test_nothing_is_bold_between_equals(tmp_path):
    """Seeds of one method under two names that mean nothing: no difference may hold."""
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", "dino", seed=seed, images=300, options={"note": "a"})
        write_run(tmp_path / f"b{seed}", "dino", seed=seed + 3, images=300, options={"note": "b"})
    comparison = comparison_of(tmp_path)
    assert set(comparison.tests["test"]) == {"paired, over seeds and images"}
    assert not comparison.tests["holds"].any()
    assert not any(cell.bold for cell in comparison.cells.values())


def test_a_real_difference_over_seeds_is_bold(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", "dino", seed=seed, images=600)
        write_run(tmp_path / f"b{seed}", "random", seed=seed, images=600)
    comparison = comparison_of(tmp_path)
    assert all(comparison.cells[row_of(comparison, "dino"), column].bold for column in comparison.headline)
    assert not any(comparison.cells[row_of(comparison, "random"), column].bold for column in comparison.headline)


def test_miou_is_compared_by_a_paired_bootstrap_of_images(tmp_path):
    for method in ("dino", "weak_dino"):
        write_run(tmp_path / method, method, images=150, segmentation=True)
    comparison = comparison_of(tmp_path)
    column = column_named(comparison, "Segmentation mIoU")
    line = comparison.tests[comparison.tests["column"] == column].iloc[0]
    matrices = [np.load(tmp_path / m / "predictions" / "segmentation.npz")["confusion"] for m in ("dino", "weak_dino")]
    rng = np.random.default_rng(9)
    differences = []
    for _ in range(400):
        drawn = rng.integers(150, size=150)
        first, second = (scores(m[drawn].sum(0))["miou"] for m in matrices)
        differences.append(first - second)
    assert line["test"] == "paired, over images"
    assert line["difference"] == pytest.approx(scores(matrices[0].sum(0))["miou"] - scores(matrices[1].sum(0))["miou"])
    assert (line["high"] - line["low"]) / 2 == pytest.approx(1.96 * np.std(differences), rel=0.15)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"names_hash": np.array("other")}, "evaluated on different images"),
        ({"top1": np.ones(300, bool)}, "where the measurement says"),
        ({"top1": np.ones(299, bool)}, "has 299 images, the measurement 300"),
        ({"top1": np.full(300, np.nan)}, "no vector of finite numbers"),
        (None, "is missing"),
        (b"no archive", "cannot be read"),
    ],
)
def test_what_cannot_be_paired_is_not_compared_and_says_why(tmp_path, change, says):
    for method in ("dino", "random"):
        write_run(tmp_path / method, method, images=300)
    file = tmp_path / "dino" / "predictions" / "linear.npz"
    if change is None:
        file.unlink()
    elif isinstance(change, bytes):
        file.write_bytes(change)
    else:
        with np.load(file) as arrays:
            np.savez(file, **{**arrays, **change})
    comparison = comparison_of(tmp_path)
    column = column_named(comparison, "Linear top-1")
    assert column not in set(comparison.tests["column"])
    assert sum(comparison.untested.values()) == 1
    assert says in next(iter(comparison.untested))
    assert not any(cell.bold for (_, position), cell in comparison.cells.items() if position == column)


def test_unequal_settings_and_protocols_are_marked(tmp_path):
    write_run(tmp_path / "a", "dino", images=100)
    write_run(tmp_path / "b", "barlow_twins", images=100, epochs=10, options={"image_size": 64})
    results = tmp_path / "b" / "results" / "linear.json"
    results.write_text(results.read_text().replace('"epochs": 100', '"epochs": 50'))
    comparison = comparison_of(tmp_path)
    assert comparison.unequal_settings == ["input", "budget"]
    # A learning rate that each run chose on its training data is no difference of protocol.
    assert comparison.unequal_protocols[column_named(comparison, "Linear top-1")] == ["epochs"]


def test_another_start_and_the_labels_it_has_seen_are_marked(tmp_path):
    write_run(tmp_path / "a", "dino", images=100)
    write_run(tmp_path / "b", "barlow_twins", images=100)
    assert "Start" not in [heading.text for heading in results(comparison_of(tmp_path), "t").headings]

    init = {"init": "torchvision:resnet50", "init_sha256": "0676ba61" + "0" * 56, "init_labels": "all"}
    write_run(tmp_path / "c", "dino", images=100, options=init)
    comparison = comparison_of(tmp_path)
    assert comparison.unequal_settings == ["start", "labels"]
    found = {row.label: (row.settings["start"], row.settings["labels"]) for row in comparison.rows}
    assert found == {
        "DINO, vit_s8, init –": ("random", "none"),
        "DINO, vit_s8, init torchvision:resnet50": ("torchvision:resnet50 (0676ba61)", "none; start: all"),
        "Barlow Twins, vit_s8": ("random", "none"),
    }
    table = results(comparison, "t")
    marked = {heading.text: heading.mark for heading in table.headings}
    assert marked["Start"] == marked["Labels"] == UNEQUAL and marked["Data"] == ""


def test_weights_of_unknown_labels_are_told_as_such(tmp_path):
    write_run(tmp_path / "a", "weak_dino", images=100, options={"init": "runs/x/last.pt", "label_fraction": 0.1})
    (row,) = comparison_of(tmp_path).rows
    assert (row.settings["start"], row.settings["labels"]) == ("last.pt (?)", "10% (pairs); start: ?")


def test_training_data_of_weights_from_elsewhere_are_unknown(tmp_path):
    """They are not what the weights were evaluated on; the row is compared all the same, and the difference marked."""
    write_run(tmp_path / "a", "dino", images=100)
    weights = write_run(tmp_path / "b", "barlow_twins", images=100)
    (weights / "log.jsonl").unlink()
    (weights / "config.yaml").write_text(
        "{weights: released.pth, backbone: vit_s8, data: demo, image_size: 32, seed: 0}"
    )
    comparison = comparison_of(tmp_path)
    assert {row.label: row.settings["data"] for row in comparison.rows} == {
        "DINO, vit_s8": "demo",
        "Weights released.pth, vit_s8": "?",
    }
    assert comparison.blocks == [[0, 1]] and comparison.tested == 2  # k-NN and linear probe
    assert "over the 2 tests of this table" in results_caption(comparison)
    comparison.tested = 1
    assert "over the one test of this table" in results_caption(comparison)
    assert "data" in comparison.unequal_settings


def test_other_test_data_is_another_table(tmp_path):
    write_run(tmp_path / "a", data="demo", images=60)
    write_run(tmp_path / "b", data="cifar10", images=60)
    runs, _ = read_runs([tmp_path])
    comparisons = compare(rows_of(runs))
    assert sorted(comparison.data for comparison in comparisons) == ["cifar10", "demo"]
    assert all(len(comparison.rows) == 1 for comparison in comparisons)


def test_raw_pixels_are_compared_with_every_backbone(tmp_path):
    write_run(tmp_path / "a", "dino", "vit_s8", images=400)
    write_run(tmp_path / "b", "dino", "resnet50", images=400)
    pixels = write_run(tmp_path / "p", "random", "vit_nano", images=400)
    shutil.rmtree(pixels / "figures", ignore_errors=True)
    (pixels / "log.jsonl").unlink()
    (pixels / "config.yaml").write_text("{method: pixels, backbone: pixels, data: demo, image_size: 32, seed: 0}")
    comparison = comparison_of(tmp_path)
    reference = row_of(comparison, "pixels")
    assert comparison.rows[reference].settings["budget"] == "0"
    column = comparison.tests[comparison.tests["column"] == column_named(comparison, "Linear top-1")]
    pairs = {frozenset(pair) for pair in zip(column["a"], column["b"], strict=True)}
    assert pairs == {frozenset({0, 1}), frozenset({0, 2}), frozenset({1, 2})}


def test_mean_average_precision_from_scores(tmp_path):
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    targets = rng.random((200, 5)) < 0.3
    for method, noise in (("dino", 0.5), ("barlow_twins", 2.0)):
        run = write_run(tmp_path / method, method, images=200)
        values = targets + noise * rng.normal(size=targets.shape)
        np.savez(run / "predictions" / "map.npz", names_hash=np.array(NAMES_HASH), scores=values, label_sets=targets)
        results = json.loads((run / "results" / "linear.json").read_text())[:1]
        value = 100 * average_precision_score(targets, values)
        results[0].update(metric="map", value=value, low=value - 3, high=value + 3, predictions="predictions/map.npz")
        (run / "results" / "linear.json").write_text(json.dumps(results))
    comparison = comparison_of(tmp_path)
    column = column_named(comparison, "Linear mAP")
    line = comparison.tests[comparison.tests["column"] == column].iloc[0]
    assert comparison.untested == {}
    assert line["test"] == "paired, over images"
    assert line["holds"]
    assert comparison.cells[row_of(comparison, "dino"), column].bold


def test_rows_that_differ_in_many_options_are_lettered(tmp_path):
    for number, lr in enumerate((0.1, 0.2, 0.3)):
        options = {"lr": lr, "out_dim": 64 * (number + 1), "momentum_teacher": 0.9 + 0.01 * number}
        write_run(tmp_path / str(number), images=20, options=options, ended=number != 1)
    page = build_report([tmp_path], tmp_path / "out")
    names = re.findall(r"variant [A-Z]", (page.parent / "tables" / "results.csv").read_text())
    assert names == ["variant A", "variant C"]  # B is not finished, and the others keep their names
    lines = list(csv.reader((page.parent / "tables" / "options.csv").read_text().splitlines()))
    assert ["lr", "0.3", "DINO, vit_s8, variant C"] in lines


def test_options_of_training_do_not_split_untrained_rows(tmp_path):
    write_run(tmp_path / "a", "random", images=20, options={"lr": 0.1})
    write_run(tmp_path / "b", "random", images=20, seed=1, options={"lr": 0.2})
    runs, _ = read_runs([tmp_path])
    assert [row.seeds for row in rows_of(runs)] == [[0, 1]]


def test_many_evaluations_are_drawn_on_several_lines(tmp_path):
    run = write_run(tmp_path / "a", images=40)
    measured = json.loads((run / "results" / "knn.json").read_text())
    heights = []
    for more in ((), ("one", "two", "three")):
        for name in more:
            (run / "results" / f"{name}.json").write_text(json.dumps([{**m, "evaluation": name} for m in measured]))
        comparison = comparison_of(tmp_path)
        assert len(comparison.headline) == 2 + len(more)
        drawn = intervals(comparison, Look(comparison.rows), "intervals")
        heights.append(Image.open(io.BytesIO(drawn.png)).height)
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.02)


def test_no_interval_leaves_its_scale(tmp_path):
    """Two seeds far apart: neither the means' intervals nor the differences' leave 0 to 100 percent, in any table."""
    for method in ("dino", "barlow_twins"):
        for seed, gain in enumerate((-0.25, 0.25)):
            write_run(tmp_path / "runs" / f"{method}-{seed}", method, seed=seed, gain=gain)
    build_report([tmp_path / "runs"], tmp_path / "out")
    for file in (tmp_path / "out" / "tables").glob("*.csv"):
        for row in csv.DictReader(io.StringIO(file.read_text())):
            for heading, value in row.items():
                if heading.endswith((" low", " high")) and value:
                    assert (-100 if file.stem == "differences" else 0) <= float(value) <= 100, (file.stem, heading)


def test_cost_counts_devices_and_the_time_of_evaluations(tmp_path):
    """Four processes of ten minutes are forty device-minutes; each evaluation's time counts once, whatever its metrics."""
    run = write_run(tmp_path / "dino", "dino", images=30, matrices=False)
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"processes": 4}))
    log = (run / "log.jsonl").read_text().splitlines()
    (run / "log.jsonl").write_text(
        "\n".join([*log[:-1], json.dumps(json.loads(log[-1]) | {"minutes": 10.0, "energy_kwh": 0.5})]) + "\n"
    )
    (row,) = rows_of(read_runs([tmp_path])[0])
    assert (row.cost["devices"], row.cost["minutes"], row.cost["evaluation_minutes"]) == (4, 40, None)
    assert row.cost["energy_kwh"] == 0.5
    for name, seconds in (("knn", 30.0), ("linear", 90.0)):
        file = run / "results" / f"{name}.json"
        file.write_text(json.dumps([line | {"seconds": seconds} for line in json.loads(file.read_text())]))
    (row,) = rows_of(read_runs([tmp_path])[0])
    assert row.cost["evaluation_minutes"] == 2.0
    # Heads of one segmentation are measured by one request, which took 90 seconds, under a name each.
    lines = json.loads(file.read_text())
    heads = [line | {"evaluation": f"linear_{head}", "request": "0123456789abcdef"} for head in "ab" for line in lines]
    file.write_text(json.dumps(heads))
    (row,) = rows_of(read_runs([tmp_path])[0])
    assert row.cost["evaluation_minutes"] == 2.0
