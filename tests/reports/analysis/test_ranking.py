"""Which rows are ranked together, which protocols are equal, and which columns the first table shows."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from eval.core.base import facts_of
from reports.analysis.columns import columns_of, headline_of
from reports.analysis.comparison import compare
from reports.analysis.rows import rows_of
from reports.page.comparison_tables import differences, results_caption
from reports.page.summary import findings
from rundir.read import read_runs
from rundir.results import Measurement
from tests.reports.factory import write_run


def comparison_of(folder):
    runs, _ = read_runs([folder])
    (comparison,) = compare(rows_of(runs))
    return comparison


def change(run: Path, evaluation: str, old: str, new: str) -> None:
    file = run / "results" / f"{evaluation}.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def words(comparison) -> str:
    return " ".join(f"{finding.lead}: {finding.words}" for finding in findings(comparison))


def test_supervised_takes_neither_bold_nor_the_sentence(tmp_path):
    for method in ("dino", "barlow_twins", "weak_dino", "supervised", "random"):
        write_run(tmp_path / method, method, images=2000)
    comparison = comparison_of(tmp_path)
    assert "DINO is best in every evaluation" in words(comparison)
    assert "above Barlow Twins" in words(comparison)
    assert "Supervised is best" not in words(comparison) and "comparisons with supervised training" in words(comparison)
    assert "Weak DINO, vit_s8 used labels" in words(comparison)
    assert re.search(r"Beside the best row without: k-NN .* \d\.\d above DINO \(holds, p", words(comparison))
    bold = {comparison.rows[row].method for (row, _), cell in comparison.cells.items() if cell.bold}
    assert bold == {"dino"}
    assert "Rows that used labels are ranked among themselves" in results_caption(comparison)


def test_rows_that_used_labels_are_ranked_among_themselves(tmp_path):
    write_run(tmp_path / "a", "weak_dino", images=1000)
    write_run(tmp_path / "b", "weak_dino", images=1000, options={"label_fraction": 0.1}, gain=-0.2)
    write_run(tmp_path / "c", "dino", images=1000)
    comparison = comparison_of(tmp_path)
    assert sorted(map(len, comparison.ranked)) == [1, 2]
    bold = {comparison.rows[row].settings["labels"] for (row, _), cell in comparison.cells.items() if cell.bold}
    assert bold == {"all (pairs)"}
    assert "vit_s8, with labels: Weak DINO" in words(comparison)


def test_the_only_row_with_labels_is_set_beside_the_best_without(tmp_path):
    """Also where it is the worse one."""
    write_run(tmp_path / "dino", "dino", images=1000)
    write_run(tmp_path / "barlow", "barlow_twins", images=1000)
    write_run(tmp_path / "weak", "weak_dino", images=1000, gain=-0.2)
    write_run(tmp_path / "weak_alone", "weak_dino", "vit_nano", images=1000)
    comparison = comparison_of(tmp_path)
    (beside,) = [finding.words for finding in findings(comparison) if finding.lead == "With labels"]
    assert beside.startswith("Weak DINO, vit_s8 used labels") and "above" not in beside
    for column in comparison.headline:
        cells = {comparison.rows[row].label: cell for row, cell in comparison.column(column).items()}
        below = cells["DINO, vit_s8"].over_seeds.mean - cells["Weak DINO, vit_s8"].over_seeds.mean
        name = re.escape(comparison.columns[column].name)
        assert re.search(rf"{name} \d\d\.\d, {below:.1f} below DINO \(holds, p", beside)


def test_of_very_many_pairs_those_with_a_reference_stay(tmp_path, monkeypatch):
    """Else the summary calls tested differences open."""
    for method in ("dino", "barlow_twins", "supervised", "random"):
        write_run(tmp_path / method, method, images=1000)
    write_run(tmp_path / "other", "barlow_twins", images=1000, options={"lr": 0.1})
    every = comparison_of(tmp_path)
    monkeypatch.setattr("reports.analysis.comparison.LISTED_PAIRS", 0)
    few = comparison_of(tmp_path)
    assert len(few.tests) < len(every.tests) == few.tested
    assert words(few) == words(every) and "than the untrained backbone in every evaluation" in words(few)


def test_unequal_protocols_stand_in_the_sentence_and_the_table_of_pairs(tmp_path):
    write_run(tmp_path / "a", "dino", images=100)
    change(write_run(tmp_path / "b", "barlow_twins", images=100), "linear", '"epochs": 100', '"epochs": 1')
    comparison = comparison_of(tmp_path)
    assert "protocols of Linear top-1 are not equal: epochs 1" in words(comparison)
    unequal = {line[0].text: line[7].text for line in differences(comparison, "t").rows}
    assert unequal["Linear top-1"] == "epochs" and unequal["k-NN top-1 (k 20)"] == "–"


def test_what_follows_from_the_backbone_is_no_inequality(tmp_path):
    """Raw pixels have other features than a ViT, as has a ResNet: no mark at a bold number, nor at the heading."""
    for name, method, backbone in (("a", "dino", "vit_s8"), ("b", "random", "vit_s8"), ("c", "dino", "resnet50")):
        run = write_run(tmp_path / name, method, backbone, images=400)
        change(
            run,
            "linear",
            '"epochs": 100',
            f'"features": "{"last4" if backbone == "vit_s8" else "pooled"}", "epochs": 100',
        )
    pixels = write_run(tmp_path / "p", "random", "vit_nano", images=400)
    change(pixels, "linear", '"epochs": 100', '"features": "pooled", "epochs": 100')
    shutil.rmtree(pixels / "figures", ignore_errors=True)
    (pixels / "log.jsonl").unlink()
    (pixels / "config.yaml").write_text("{method: pixels, backbone: pixels, data: demo, image_size: 32, seed: 0}")
    comparison = comparison_of(tmp_path)
    assert comparison.unequal_protocols == {}
    bold = [cell for cell in comparison.cells.values() if cell.bold]
    assert bold and not any(cell.unequal for cell in bold)
    # On one backbone, other features are a choice.
    change(tmp_path / "b", "linear", '"last4"', '"pooled"')
    assert "features" in str(comparison_of(tmp_path).unequal_protocols)


def measured(evaluation: str, metric: str, **protocol) -> Measurement:
    facts = facts_of(evaluation, metric)
    return Measurement(evaluation, metric, 50.0, None, None, 10, protocol, {"name": "demo"}, facts=facts)


def headlines(*runs) -> list[str]:
    columns = list(columns_of([runs]))
    return [columns[position].name for position in headline_of(columns)]


@pytest.mark.parametrize("evaluation", ["knn_low_shot", "finetune"])
def test_every_part_of_the_labels_is_a_headline_whatever_the_seed_drew(evaluation):
    def run(seed):
        parts = [(f"{part} of each class, drawn by seed {seed}", n) for part, n in (("1%", 5), ("10%", 50))]
        return [
            measured(evaluation, "top1", k=k, labels=labels, labelled_images=n) for k in (10, 20) for labels, n in parts
        ]

    names = headlines(run(0), run(1))
    if evaluation == "finetune":
        names = headlines(*([m for m in run(seed) if m.protocol["k"] == 20] for seed in (0, 1)))
    assert len(names) == 2 and "1% of each class" in names[0] and "10% of each class" in names[1]


def test_evaluations_declare_their_headlines():
    revisited = [measured("revisited", f"map_{setting}", setting=setting) for setting in ("medium", "hard")]
    revisited.append(measured("revisited", "precision_at_1_medium", setting="medium"))
    assert len(headlines(revisited)) == 2
    svm = [measured("svm", metric) for metric in ("map", "map_interpolated", "map_11_point")]
    assert headlines(svm) == ["SVM mAP (VOC)"]
    assert len(headlines([measured("mine", "first"), measured("mine", "second")])) == 1


def test_untested_pairs_are_counted_once_with_the_reason(tmp_path):
    for method in ("dino", "barlow_twins", "random"):
        write_run(tmp_path / method, method, images=100)
    for method in ("dino", "barlow_twins"):
        (tmp_path / method / "predictions" / "linear.npz").unlink()
    comparison = comparison_of(tmp_path)
    assert sum(comparison.untested.values()) == 3
    assert (
        "linear.npz is missing (not comparable with the other rows) (2 pairs)" in differences(comparison, "t").caption
    )


def test_groups_of_samples_are_what_is_drawn(tmp_path):
    """Objects of 10 videos: right or wrong for whole videos at once, as 200 images they would differ."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 20)
    for method in ("dino", "barlow_twins"):
        run = write_run(tmp_path / method, method, images=200)
        outcomes = rng.random(10)[groups] < 0.5
        line = json.loads((run / "results" / "linear.json").read_text())[0]
        line.update(
            evaluation="davis", metric="jf_mean", value=100 * float(outcomes.mean()), predictions="predictions/d.npz"
        )
        (run / "results" / "davis.json").write_text(json.dumps([line]))
        arrays = {"names_hash": np.array("videos"), "jf_mean": outcomes.astype(np.float32)}
        np.savez(run / "predictions" / "d.npz", **arrays)
    comparison = comparison_of(tmp_path)
    assert any("do not tell the videos" in reason for reason in comparison.untested)
    for method in ("dino", "barlow_twins"):
        file = tmp_path / method / "predictions" / "d.npz"
        with np.load(file) as arrays:
            np.savez(file, **arrays, groups=groups)
    comparison = comparison_of(tmp_path)
    (column,) = (i for i, column in enumerate(comparison.columns) if column.evaluation == "davis")
    (line,) = comparison.tests[comparison.tests["column"] == column].itertuples()
    assert line.test == "paired, over images" and line.p > 0.05
