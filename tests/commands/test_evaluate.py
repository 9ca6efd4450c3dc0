"""``run.py evaluate`` and contexts for any weights."""

import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from backbones import build_backbone
from commands.evaluate import EvaluateCommand, evaluate_weights
from common.errors import UsageError, UserError
from eval.core.context import make_context
from eval.core.options import WeightsOptions
from eval.knn import KNNConfig
from methods.core.base import METHODS
from rundir.results import read_results
from training.checkpoint import save_checkpoint

KNN = {"knn": KNNConfig(ks=[5])}


@pytest.fixture
def command(colours, tmp_path):
    return EvaluateCommand(
        backbone="vit_nano", data="imagefolder", data_root=str(colours), image_size=16, out=str(tmp_path / "out")
    )


@pytest.fixture
def run(colours, tmp_path):
    """A run directory with a checkpoint, as a training leaves it."""
    torch.manual_seed(5)
    kind = METHODS.get("random")
    method = kind(kind.Config(), lambda **hints: build_backbone("vit_nano", 16, **hints), 6)
    options = {"method": "random", "backbone": "vit_nano", "data": "imagefolder", "data_root": str(colours), "seed": 5}
    about = {"backbone_name": "vit_nano", "image_size": 16, "config": options, "step": 0}
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt", method, None, **about)
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(options))
    return tmp_path / "run"


def test_untrained(command, tmp_path, capsys):
    (m,) = [m for m in evaluate_weights(command, KNN) if m.metric == "top1"]
    assert read_results(tmp_path / "out" / "results" / "knn.json")[0] == m
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (config["method"], config["backbone"], config["data"]) == ("random", "vit_nano", "imagefolder")
    assert (tmp_path / "out" / "environment.json").exists()
    assert f"{m.value:.2f}" in capsys.readouterr().out


def test_seeds_give_other_untrained_weights(command, tmp_path):
    one = evaluate_weights(command, KNN)[0]
    other = evaluate_weights(replace(command, seed=1, out=str(tmp_path / "other")), KNN)[0]
    assert one.weights != other.weights


def test_a_run_knows_its_backbone_data_and_size(run):
    measurements = evaluate_weights(EvaluateCommand(weights=str(run)), KNN)
    assert measurements[0].protocol["image_size"] == 16
    assert read_results(run / "results" / "knn.json") == measurements
    assert yaml.safe_load((run / "config.yaml").read_text())["method"] == "random"  # still the training's
    file = run / "checkpoints" / "last.pt"
    context = make_context(WeightsOptions(weights=str(file), device="cpu", precision="fp32", out=run.parent / "x"))
    assert context.weights_hash == measurements[0].weights
    assert "tensors loaded" in context.weights


def test_weights_files_need_a_backbone_and_data(command, run, tmp_path):
    torch.save(build_backbone("vit_nano", 16).state_dict(), tmp_path / "plain.pth")
    plain = replace(command, weights=str(tmp_path / "plain.pth"))
    evaluate_weights(plain, KNN)
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert "method" not in config
    assert config["weights"].endswith("plain.pth")
    for name in ("nothing.pth", "dinov2:vit_s14"):
        absent = replace(command, weights=name, backbone=None)
        with pytest.raises(
            UserError, match=rf"{name}: no such weights file or run directory; names .* begin with dino:"
        ):
            evaluate_weights(absent, KNN)
    with pytest.raises(UsageError, match=r"--backbone is needed, since .*plain\.pth does not name its own"):
        evaluate_weights(replace(plain, backbone=None), KNN)
    with pytest.raises(UsageError, match="--data is needed"):
        evaluate_weights(replace(plain, data=None), KNN)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"backbone": None}, "--backbone is needed, since no --weights are given"),
        ({"image_size": 100_000}, "--image_size 100000: give 8 to 4096 pixels"),
        ({"backbone": "vit_s9"}, "did you mean vit_s"),
        ({"data": "demmo"}, "did you mean demo"),
        ({"data_root": "nowhere"}, "nowhere"),
        ({"weights": "nothing.pth"}, "nothing.pth: no such"),
        ({"image_size": 17}, "17×17"),
        ({"device": "tpu"}, "unknown device"),
    ],
)
def test_what_is_wrong_is_said(command, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate_weights(replace(command, **changes), KNN)


def test_a_folder_that_is_no_run(command, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"folder without checkpoints/last\.pt"):
        evaluate_weights(replace(command, weights=str(tmp_path / "folder")), KNN)


def test_results_of_other_weights_are_not_mixed(command):
    evaluate_weights(command, KNN)
    with pytest.raises(UserError, match="holds results of other weights"):
        evaluate_weights(replace(command, backbone="resnet18"), KNN)
    with pytest.raises(UserError, match="holds results of other weights"):
        evaluate_weights(replace(command, seed=3), KNN)


def test_weights_that_were_moved_are_the_same(run, command, tmp_path):
    away = replace(command, weights=str(run / "checkpoints" / "last.pt"))
    measured = evaluate_weights(away, KNN)
    moved = shutil.copytree(run, tmp_path / "moved") / "checkpoints" / "last.pt"
    assert evaluate_weights(replace(away, weights=str(moved)), KNN) == measured
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["weights"] == str(moved)
    state = torch.load(moved, weights_only=True)
    state["method"] = {name: value + 1 for name, value in state["method"].items()}
    torch.save(state, moved)
    assert evaluate_weights(away, KNN) == measured
    with pytest.raises(UserError, match="holds results of other weights"):
        evaluate_weights(replace(away, weights=str(moved)), KNN)


def test_pixels(command, tmp_path):
    measurements = evaluate_weights(replace(command, backbone="pixels"), KNN)
    assert measurements[0].value > 50
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["method"] == "pixels"


def test_another_out_keeps_what_the_run_knows(small, tmp_path):
    """Method, data, labels and cost; a report shows the run and the evaluation of its weights as one row."""
    from commands.train import train
    from reports.analysis.identity import without_duplicates
    from reports.analysis.rows import rows_of
    from rundir.read import read_runs

    options = {"epochs": 1, "label_fraction": 0.5, "seed": 3, "knn_every": 0}
    run = train(*small(tmp_path / "run", "weak_dino", **options))
    away = EvaluateCommand(weights=str(run), out=str(tmp_path / "away"), device="cpu")
    evaluate_weights(away, KNN)
    evaluate_weights(replace(away, weights=str(run / "checkpoints" / "last.pt"), out=str(tmp_path / "file")), KNN)
    (row,), (training,) = (rows_of(read_runs([path])[0]) for path in (tmp_path / "away", run))
    assert row.method == "weak_dino" and row.seeds == [3]
    assert row.settings == training.settings and row.settings["labels"] == "50% (pairs)"
    assert row.cost["images_seen"] == training.cost["images_seen"] > 0
    runs, notes = without_duplicates(read_runs([run, tmp_path / "away", tmp_path / "file"])[0])
    assert [kept.path for kept in runs] == [run] and runs[0].has_log and runs[0].results
    assert "an evaluation of the weights of" in notes[0].what
    student = replace(away, key="student", out=str(tmp_path / "student"))
    evaluate_weights(student, KNN)
    assert len(rows_of(read_runs([run, tmp_path / "student"])[0])) == 2
    with pytest.raises(UserError, match="holds results of other weights"):
        evaluate_weights(replace(student, key=None), KNN)
