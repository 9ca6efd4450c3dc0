"""What can be known is said before anything runs: by a training, its dry run, and for all cells of a grid."""

import shutil

import pytest

import run as command_line
from commands.train import read_options, train
from common.cli import words_of
from common.errors import UserError
from eval.core.checks import refusals
from methods.core.base import METHODS
from training.grids import checks
from training.grids.checks import advice_on_batch, cautions, lacking_space
from training.plan import make_plan

NANO = {"backbone": "vit_nano", "image_size": 16, "data": "imagefolder", "precision": "fp32", "device": "cpu"}


def plan_of(folder, tmp_path, **options):
    asked = read_options(words_of({**NANO, "data_root": str(folder), "out": str(tmp_path / "run"), **options}))
    return make_plan(asked.train, asked.method, asked.evaluations)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "barlow_twins"}, r"40 images to train on \(4 more are held out .*give --batch_size 40 or less"),
        ({"batch_size": 8, "image_size": 18}, "do not divide into patches of 4"),
        ({"method": "dino", "batch_size": 8, "local_size": 15}, "do not divide into patches of 4"),
        ({"method": "dino", "batch_size": 8, "epochs": 2, "warmup_teacher_temp_epochs": 9}, "is more than the run's 2"),
        ({"method": "mocov2", "batch_size": 8, "queue": 4}, "--queue 4 is less than a batch of 8 images"),
        ({"batch_size": 8, "evals": ["knn"], "knn_ks": [45, 50]}, "k = 45, 50, .* numbers from 1 to 44"),
        ({"batch_size": 8, "evals": ["knn_low_shot"], "knn_low_shot_fractions": [0.1]}, "only 4 labelled images"),
        ({"batch_size": 8, "evals": ["segmentation"]}, "has no masks"),
        ({"batch_size": 8, "evals": ["finetune"]}, "--finetune_batch_size 256: imagefolder has 40 labelled"),
        ({"batch_size": 8, "init": "nowhere.pth"}, "no such weights file"),
        ({"data_root": "/nowhere", "batch_size": 8}, "no such folder"),
    ],
)
def test_a_run_that_would_fail_is_refused(options, message, folder, tmp_path):
    with pytest.raises(UserError, match=message):
        if reasons := refusals(plan_of(**{"folder": folder, "tmp_path": tmp_path, **options})):
            raise UserError("; and ".join(reasons))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(set(METHODS.names()) - {"random", "pixels"}))
@pytest.mark.parametrize("backbone", ["vit_nano", "resnet18_cifar"])
def test_batches_of_one(method, backbone, small, folder, tmp_path):
    """Each method trains with one image a forward pass, or refuses in one sentence that says what it needs."""
    options = {"batch_size": 4, "accumulate": 4, "epochs": 0.1, "knn_every": 0, "backbone": backbone}
    config, method_config = small(tmp_path / "run", method, **options)
    reasons = refusals(make_plan(config, method_config))
    if not reasons:
        train(config, method_config)
        return
    assert len(reasons) == 1 and "give --batch_size 8 (the smallest) or more, or --accumulate 2 or less" in reasons[0]
    config, method_config = small(tmp_path / "run", method, **{**options, "accumulate": 2})
    assert not refusals(make_plan(config, method_config))


def test_what_parts_change_is_named(folder, tmp_path):
    def about_parts(**options):
        plan = plan_of(folder, tmp_path, batch_size=8, **options)
        assert not refusals(plan)
        return [caution for caution in cautions(plan) if "--accumulate" in caution]

    assert not about_parts(method="supervised", accumulate=4, backbone="vit_s16")
    assert not about_parts(method="byol")
    (caution,) = about_parts(method="byol", accumulate=4, backbone="vit_s16")
    assert caution.startswith("--accumulate 4: BatchNorm in the projector and the predictor see 2 images at a time")
    (caution,) = about_parts(method="simclr", accumulate=4)
    assert "the negatives, BatchNorm in the projector and BatchNorm in the backbone see 2 images" in caution
    (caution,) = about_parts(method="supervised", backbone="resnet18_cifar", accumulate=2)
    assert caution.startswith("--accumulate 2: BatchNorm in the backbone see 4 images")
    with pytest.raises(UserError, match="--queue 4 is less than a batch of 8 images"):
        raise UserError(*refusals(plan_of(folder, tmp_path, method="mocov2", batch_size=8, accumulate=4, queue=4)))


def test_the_least_that_a_forward_pass_needs(folder, tmp_path):
    (reason,) = refusals(plan_of(folder, tmp_path, method="barlow_twins", batch_size=8, accumulate=8))
    assert "gives Barlow Twins 1 image" in reason and "or --accumulate 4 or less" in reason
    (reason,) = refusals(plan_of(folder, tmp_path, method="byol", batch_size=1))
    assert "BatchNorm (projector.1) would have a single value" in reason and "--batch_size 2 or more" in reason


def test_advice_on_batches():
    assert advice_on_batch(2, 1, 1) == "give --batch_size 2 or more"
    assert advice_on_batch(2, 12, 12) == "give --batch_size 24 (the smallest) or more, or --accumulate 6 or less"


def test_memory_and_disk(folder, tmp_path, monkeypatch):
    plan = plan_of(folder, tmp_path, method="dino", batch_size=8)
    assert not refusals(plan)
    monkeypatch.setattr(checks, "memory_of", lambda device: 2**28)
    assert any("of memory, and 8 images a forward pass take about" in reason for reason in refusals(plan))
    monkeypatch.setattr(checks, "memory_of", lambda device: 2**50)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: type("usage", (), {"free": 2**28}))
    assert any("the checkpoints take" in reason and "are free" in reason for reason in refusals(plan))
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: type("usage", (), {"free": 2**30}))
    assert lacking_space([plan]) is None and "of 3 runs take" in lacking_space([plan] * 3)


def test_settings_of_large_data_sets_are_named(folder, tmp_path):
    for options, names in (
        ({"method": "dino", "batch_size": 32}, ["--batch_size 32 (2 fits)", "--out_dim 65536 (32 fits)"]),
        ({"method": "mocov2", "batch_size": 8}, ["--queue 65536 (16 fits)"]),
        (
            {"method": "swav", "batch_size": 8, "epochs": 1},
            ["--prototypes 3000", "--freeze_prototypes by default (0 fits)"],
        ),
        (
            {"method": "swav", "batch_size": 8, "epochs": 2, "freeze_prototypes": 313},
            ["--prototypes 3000", "--freeze_prototypes 313 (1 fits)"],
        ),
        (
            {"method": "supervised", "batch_size": 8, "lr": 1e-5},
            ["the learning rate rises from 3.13e-07 (--lr 1e-05 × --batch_size 8 / 256) to 1e-05 at the end"],
        ),
        ({"method": "simclr", "batch_size": 8, "epochs": 10, "warmup_epochs": 8}, ["--warmup_epochs 8 (1 fits)"]),
    ):
        (caution,) = checks.cautions(plan_of(folder, tmp_path, **options))
        assert all(name in caution for name in names), caution
    assert not checks.cautions(plan_of(folder, tmp_path, method="byol", batch_size=8))


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({}, ""),
        ({"optimizer": "adamw"}, "lars: --lr 0.2, --weight_decay 1e-06, --bias_lr_scale 0.024 (1 fits)"),
        ({"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4}, "lars: --bias_lr_scale 0.024 (1 fits)"),
        ({"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "bias_lr_scale": 1.0}, ""),
        ({"recipe": "small"}, ""),
        ({"recipe": "small", "optimizer": "sgd"}, "adamw: --lr 0.002, --weight_decay 0.04"),
        ({"method": "dino", "optimizer": "lars", "lr": 0.3}, "adamw: --weight_decay 0.04"),
    ],
)
def test_numbers_of_another_optimizer_are_named(options, numbers, folder, tmp_path):
    """The published rates are LARS'; with AdamW, Barlow Twins' lower one of biases and norms keeps a ResNet's branches at zero."""
    plan = plan_of(folder, tmp_path, **{"method": "barlow_twins", "batch_size": 8, **options})
    said = f"--optimizer {plan.config.optimizer} with numbers that belong to {numbers}; give others"
    assert checks.of_another_optimizer(plan) == (said if numbers else None)


def test_an_untrained_method_has_no_numbers(folder, tmp_path):
    assert not cautions(plan_of(folder, tmp_path, method="random", optimizer="sgd"))


def test_all_cells_are_checked_before_the_first_begins(folder, tmp_path, capsys):
    words = ["compare", "--methods", "dino", "barlow_twins", "--backbones", "vit_nano", "--seeds", "0", "1"]
    words += [*words_of({**NANO, "data_root": str(folder), "batch_size": 64, "out": str(tmp_path / "grid")})]
    for further in ([], ["--dry_run"]):
        assert command_line.main([*words, *further]) == 1
        said = capsys.readouterr().err
        assert "error: 4 of 4 runs would fail, so none begins:" in said
        assert said.count("fewer than one batch") == 1  # once for all cells
        assert "dino-vit_nano-seed0 and 3 more" in said
    assert not (tmp_path / "grid").exists()


def test_a_grid_that_runs_elsewhere_is_checked_as_far_as_its_files_are_here(folder, tmp_path, capsys, monkeypatch):
    """What only the cluster may have is no reason to refuse, and this machine's memory is none to warn."""
    monkeypatch.setattr(checks, "memory_of", lambda device: 2**20)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: type("usage", (), {"free": 0}))
    trained_on = tmp_path / "no-test-split"
    shutil.copytree(folder / "train", trained_on / "train")
    words = ["compare", "--methods", "barlow_twins", "--backbones", "vit_nano", "--seeds", "0", "1", "--dry_run"]
    words += words_of({**NANO, "batch_size": 8, "out": str(tmp_path / "grid"), "launcher": "slurm"})
    knn = ["--evals", "knn", "--knn_ks", "5"]
    for further in (
        ["--data_root", "/nowhere", *knn],
        ["--data_root", str(trained_on), *knn],
        ["--data_root", str(folder), *knn, "--init", "nowhere.pth"],
        ["--data_root", str(folder), "--evals", "knn_low_shot", "--knn_low_shot_lists", "/nowhere/list.txt"],
    ):
        assert command_line.main([*words, *further]) == 0, capsys.readouterr().err
        assert "of memory" not in capsys.readouterr().out
    assert command_line.main([*words, "--data_root", str(folder), *knn, "--knn_ks", "50"]) == 1
    assert "2 of 2 runs would fail" in capsys.readouterr().err
