"""Which runs are seeds of one row, and which are copies of each other."""

import json
import shutil
from pathlib import Path

from methods.core.base import facts_of
from reports.analysis.comparison import compare
from reports.analysis.identity import fill_in_defaults, without_duplicates
from reports.analysis.rows import rows_of
from rundir.paths import ENVIRONMENT
from rundir.read import read_runs
from tests.reports.factory import write_run


def test_copies_from_other_machines_are_no_further_seeds(tmp_path):
    first = write_run(tmp_path / "one" / "dino", images=20)
    second = tmp_path / "two" / "dino"
    shutil.copytree(first, second)
    text = (second / "log.jsonl").read_text().replace("2026-01-05T10", "2026-01-06T10")
    (second / "log.jsonl").write_text(text)
    (second / "results" / "linear.json").unlink()
    config = (second / "config.yaml").read_text().replace("out: runs/dino", "out: /elsewhere/dino")
    (second / "config.yaml").write_text(config)
    runs, problems = read_runs([first, second])
    assert problems == []
    (kept,), notes = without_duplicates(runs)
    assert kept.path == second
    assert len(kept.results) == 6  # linear is taken from the older copy
    assert "the same options and seed as" in notes[0].what
    assert "2 measurements that only it has are used" in notes[0].what
    (row,) = rows_of([kept])
    (comparison,) = compare([row])
    assert all(cell.over_seeds.n == 1 for cell in comparison.cells.values())


def trained_on(run: Path, fingerprint: str) -> Path:
    """Have a run's log begin by the fingerprint of the images that it was trained on, as logs do."""
    log = run / "log.jsonl"
    log.write_text(json.dumps({"kind": "start", "step": 0, "fingerprint": fingerprint}) + "\n" + log.read_text())
    return run


def test_runs_on_other_images_under_the_same_name_are_neither_copies_nor_seeds(tmp_path):
    first = trained_on(write_run(tmp_path / "a"), "aaaaaaaa1111")
    second = trained_on(write_run(tmp_path / "b"), "bbbbbbbb2222")
    third = trained_on(write_run(tmp_path / "c", seed=1), "bbbbbbbb2222")
    runs, notes = without_duplicates(read_runs([first, second, third])[0])
    assert len(runs) == 3 and not notes
    rows = rows_of(runs)
    assert [(row.settings["data"], len(row.runs), row.variant) for row in rows] == [
        ("demo (aaaaaa)", 1, ""),
        ("demo (bbbbbb)", 2, ""),
    ]
    (comparison,) = compare(rows)
    assert comparison.unequal_settings == ["data"] and len(comparison.blocks) == 2


def test_images_stored_at_another_size_are_not_told_apart(tmp_path):
    first = trained_on(write_run(tmp_path / "a"), "aaaaaaaa1111")
    second = trained_on(write_run(tmp_path / "b", options={"image_size": 64}), "bbbbbbbb2222")
    rows = rows_of(read_runs([first, second])[0])
    assert [(row.settings["data"], row.variant) for row in rows] == [
        ("demo", "image_size 32"),
        ("demo", "image_size 64"),
    ]


def test_a_run_made_before_an_option_existed_has_its_default(tmp_path):
    before = write_run(tmp_path / "a")
    same = write_run(tmp_path / "b", seed=1, options={"targets": "image", "extended_from": None})
    other = write_run(tmp_path / "c", seed=1, options={"targets": "label"})
    runs, _ = read_runs([before, same, other])
    fill_in_defaults(runs)
    assert [row.seeds for row in rows_of(runs)] == [[0, 1], [1]]


def test_released_weights_evaluated_before_an_option_existed_keep_their_options(tmp_path):
    """They have no method, whose defaults could be taken."""
    for name, options in (
        ("a", "{weights: a.pth, backbone: vit_s8}"),
        ("b", "{weights: b.pth, backbone: vit_s8, k: 1}"),
    ):
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(options)
    runs, _ = read_runs([tmp_path])
    fill_in_defaults(runs)
    assert [sorted(run.config) for run in runs] == [["backbone", "weights"], ["backbone", "k", "weights"]]


def names_of(folder: Path, cells: dict[str, tuple]) -> list[str]:
    """The names that a report gives rows, from the names of the runs' directories and their method and options."""
    for name, (method, options) in cells.items():
        write_run(folder / name, method, "vit_nano", options=options, matrices=False, images=20)
    return [row.label for row in rows_of(without_duplicates(read_runs([folder])[0])[0])]


def test_rows_have_the_names_that_a_grid_gives_them(tmp_path):
    pairs = {"pairing": "same_label"}
    cells = {
        "dino-vit_nano-seed0": ("dino", {}),
        "barlow_twins-vit_nano-no_labels-seed0": ("barlow_twins", {}),
        "barlow_twins-vit_nano-pairs_10-seed0": ("barlow_twins", {**pairs, "label_fraction": 0.1}),
        "barlow_twins-vit_nano-pairs_100-long-seed0": ("barlow_twins", {**pairs, "epochs": 40}),
        "weak_dino-vit_nano-t0.02-seed0": ("weak_dino", {}),
        "random-vit_nano-t0.02-seed0": ("random", {}),
    }
    assert sorted(names_of(tmp_path, cells)) == [
        "Barlow Twins, vit_nano, no labels",
        "Barlow Twins, vit_nano, pairs 10",
        "Barlow Twins, vit_nano, pairs 100-long",
        "DINO, vit_nano",
        "Untrained, vit_nano",
        "Weak DINO, vit_nano, t0.02",
    ]


def test_rows_have_the_options_that_a_grid_varies_however_many(tmp_path):
    def cell(lr: float, out_dim: int, momentum: float, name: str = "") -> dict[str, tuple]:
        options = {"lr": lr, "out_dim": out_dim, "momentum_teacher": momentum, "hue": lr}  # hue follows
        return {f"dino-vit_nano-{name}lr={lr}-out_dim={out_dim}-momentum_teacher={momentum}-seed0": ("dino", options)}

    cells = cell(1e-05, 8, 0.9) | cell(1e-05, 64, 0.99) | cell(0.1, 8, 0.9) | cell(0.1, 32, 0.9, "few-")
    assert sorted(names_of(tmp_path, cells)) == [
        "DINO, vit_nano, few",
        "DINO, vit_nano, lr 0.1, out_dim 8, momentum_teacher 0.9",
        "DINO, vit_nano, lr 1e-05, out_dim 64, momentum_teacher 0.99",
        "DINO, vit_nano, lr 1e-05, out_dim 8, momentum_teacher 0.9",
    ]


def test_rows_that_differ_only_in_labels_do_not_look_alike(tmp_path):
    cells = {
        "a": ("barlow_twins", {}),
        "b": ("barlow_twins", {"pairing": "same_label", "label_fraction": 0.1}),
    }
    assert names_of(tmp_path, cells) == [
        "Barlow Twins, vit_nano, pairing same_image, label_fraction 1",
        "Barlow Twins, vit_nano, pairing same_label, label_fraction 0.1",
    ]


def test_runs_of_two_versions_of_a_method_are_neither_copies_nor_seeds(tmp_path):
    """A run, and an evaluation of its weights elsewhere, has the version that the method had; before there were any, the first."""
    for name, seed, facts in (
        ("a", 0, None),
        ("b", 1, {"title": "SimCLR"}),
        ("c", 0, facts_of("simclr")),
        ("d", 1, facts_of("simclr")),
        ("e", 2, {**facts_of("simclr"), "version": 1}),  # as runs have it that were made before a version was raised
    ):
        run = write_run(tmp_path / name, "dino", "vit_nano", seed, options={"method": "simclr"}, matrices=False)
        environment = run / ENVIRONMENT
        environment.write_text(json.dumps(json.loads(environment.read_text()) | ({"method": facts} if facts else {})))
    runs, notes = without_duplicates(read_runs([tmp_path])[0])
    assert not notes
    assert [(row.label, [run.name for run in row.runs]) for row in rows_of(runs)] == [
        ("SimCLR, vit_nano, method_version 1", ["a", "b", "e"]),
        ("SimCLR, vit_nano, method_version 2", ["c", "d"]),
    ]
