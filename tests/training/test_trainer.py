"""Whole runs: what they leave, that they continue exactly, and what stops them."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from commands.train import train
from common.errors import UsageError, UserError
from eval.knn import KNNConfig
from rundir.paths import last_checkpoint
from training.checkpoint import backbone_prefix, load_checkpoint
from training.plan import build_method, make_plan


def records_of(run, kind=None):
    lines = (run / "log.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if kind in (None, r["kind"])]


def untimed(records):
    """Records without what a clock or the machine says."""
    clocked = ("seconds", "images_per_second", "minutes", "peak_memory_gib", "finished")
    return [{k: v for k, v in r.items() if k not in clocked} for r in records]


def assert_equal_states(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key not in ("seconds", "config"):
                assert_equal_states(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal_states(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


class StopAt:
    """Makes the method send this process a signal in a given step, and count its steps."""

    def __init__(self, monkeypatch, method, step, number=signal.SIGTERM):
        from methods.core.base import METHODS

        kind = METHODS.get(method)
        original = kind.before_step
        self.steps = []

        def before_step(this, progress):
            self.steps.append(progress.step)
            if progress.step == step:
                os.kill(os.getpid(), number)
            original(this, progress)

        monkeypatch.setattr(kind, "before_step", before_step)


@pytest.mark.parametrize(
    ("method", "options"),
    [("dino", {"accumulate": 2}), ("weak_dino", {"precision": "bf16"}), ("barlow_twins", {"backbone": "small_cnn"})],
)
def test_a_stopped_run_continues_exactly(method, options, small, tmp_path, monkeypatch):
    whole = train(*small(tmp_path / "whole", method, **options))
    with monkeypatch.context() as patch:
        StopAt(patch, method, step=6)  # in the middle of the second epoch
        with pytest.raises(SystemExit) as stop:
            train(*small(tmp_path / "parts", method, **options))
    assert stop.value.code == 128 + signal.SIGTERM
    assert load_checkpoint(last_checkpoint(tmp_path / "parts"))["step"] == 7
    parts = train(*small(tmp_path / "parts", method, **options))
    assert_equal_states(load_checkpoint(last_checkpoint(whole)), load_checkpoint(last_checkpoint(parts)))
    assert untimed(records_of(whole)) == untimed(records_of(parts))
    assert json.loads((parts / "environment.json").read_text())["resumed"][0]["step"] == 7
    with (
        np.load(whole / "figures" / "cross_correlation.npz") as a,
        np.load(parts / "figures" / "cross_correlation.npz") as b,
    ):
        assert a["epochs"].tolist() == [0, 1, 2, 3]
        for name in a.files:
            assert np.array_equal(a[name], b[name])


def test_a_run_that_streams_equals_one_from_the_store(small, tmp_path, monkeypatch):
    whole = train(*small(tmp_path / "whole", "weak_dino", epochs=1))
    cache = tmp_path / "cache"
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(cache))
    with monkeypatch.context() as patch:
        StopAt(patch, "weak_dino", step=2)
        with pytest.raises(SystemExit):
            train(*small(tmp_path / "parts", "weak_dino", epochs=1, stream=True))
    parts = train(*small(tmp_path / "parts", "weak_dino", epochs=1, stream=True))
    assert sum(file.stat().st_size for file in cache.rglob("*.bin")) == 0
    assert_equal_states(load_checkpoint(last_checkpoint(whole)), load_checkpoint(last_checkpoint(parts)))
    assert untimed(records_of(whole)) == untimed(records_of(parts))


def test_what_was_logged_after_the_checkpoint_is_forgotten(small, tmp_path):
    """As after a power cut: the log is ahead of the checkpoint."""
    whole = train(*small(tmp_path / "whole"))
    run = train(*small(tmp_path / "run", epochs=3))
    expected = records_of(run)
    state = load_checkpoint(last_checkpoint(run))
    log = run / "log.jsonl"
    log.write_text(log.read_text() + json.dumps({"kind": "step", "step": 99, "epoch": 9}) + '\n{"kind": "st')
    lines = [line for line in log.read_text().split("\n") if '"end"' not in line]
    log.write_text("\n".join(lines))
    train(*small(tmp_path / "run"))
    assert untimed(records_of(run)) == untimed(expected) == untimed(records_of(whole))
    assert_equal_states(load_checkpoint(last_checkpoint(run)), state)


def test_a_finished_run_says_so_and_stays(small, tmp_path, capsys):
    run = train(*small(tmp_path / "run", epochs=1))
    before = (run / "log.jsonl").read_text(), last_checkpoint(run).read_bytes()
    capsys.readouterr()
    train(*small(tmp_path / "run", epochs=1))
    assert "training ended already" in capsys.readouterr().out
    assert before == ((run / "log.jsonl").read_text(), last_checkpoint(run).read_bytes())


def test_another_configuration_is_refused_and_named(small, tmp_path):
    train(*small(tmp_path / "run", epochs=1))
    with pytest.raises(UserError, match=r"epochs was 1, now 2; .*out_dim was 64, now 32"):
        train(*small(tmp_path / "run", epochs=2, out_dim=32))
    train(*small(tmp_path / "run", epochs=1, log_every=1, checkpoint_every=5))  # these change no result


def test_config_file_gives_the_same_options(small, tmp_path):
    config, method_config = small(tmp_path / "run", epochs=1)
    run = train(config, method_config)
    options = yaml.safe_load((run / "config.yaml").read_text())
    assert options["out"] == str(run) and options["out_dim"] == 64 and options["warmup_epochs"] == 0.1
    assert options["weight_decay_end"] == 0.4 and options["precision"] == "fp32"


def test_the_log_tells_what_a_report_needs(small, tmp_path):
    run = train(*small(tmp_path / "run"))
    end = records_of(run, "end")[0]
    assert end["images_seen"] == 3 * 5 * 8 and end["minutes"] > 0 and end["peak_memory_gib"] > 0
    assert end["parameters"] > 0 and end["flops"] > 0 and end["training_flops"] > end["flops"]
    assert [r["epoch"] for r in records_of(run, "knn")] == [0, 1, 2, 3]
    steps = records_of(run, "step")
    assert [r["step"] for r in steps] == [1, 2, 4, 6, 8, 10, 12, 14, 15]
    assert all(r["images_seen"] == 8 * r["step"] and r["images_per_second"] > 0 for r in steps)
    found = records_of(run, "diagnostics")[-1]
    assert found["effective_rank"] > 0 and found["uniformity"] < 0 < found["alignment"]
    start = records_of(run, "start")[0]
    assert start["images"] == 40 and start["held_out"] == 4 and start["left_out_each_epoch"] == 0


def test_the_checkpoint_says_where_the_backbone_is(small, tmp_path):
    run = train(*small(tmp_path / "run", epochs=1))
    state = load_checkpoint(last_checkpoint(run))
    assert state["backbone_prefix"] == "teacher.backbone." and state["backbone_name"] == "small_vit"
    config, method_config = small(tmp_path / "other")
    method = build_method(config, method_config, 2)
    assert backbone_prefix(method) == "teacher.backbone."
    method.load_state_dict(state["method"])


@pytest.mark.parametrize("method", ["supervised", "random"])
def test_every_method_trains(method, small, tmp_path):
    run = train(*small(tmp_path / method, method, epochs=1))
    assert records_of(run, "end")[0]["images_seen"] == (0 if method == "random" else 40)
    assert np.isfinite([r["loss"] for r in records_of(run, "step")]).all()


def test_a_tiny_set_is_overfitted(small, tmp_path):
    """44 images: the supervised loss goes to nothing, Barlow Twins' correlations towards the identity."""
    run = train(
        *small(
            tmp_path / "supervised",
            "supervised",
            epochs=40,
            checkpoint_every=40,
            batch_size=20,
            lr=0.05,
            knn_every=0,
            scale=(0.9, 1.0),
            drop_path=0.0,
        )
    )
    losses = [r["loss"] for r in records_of(run, "step")]
    assert losses[0] > 0.5 and losses[-1] < 0.02
    options = {
        "optimizer": "adamw",
        "lr": 0.1,
        "epochs": 60,
        "checkpoint_every": 60,
        "batch_size": 22,
        "knn_every": 0,
        "weight_decay": 0.0,
    }
    options |= {
        "global_scale": (0.95, 1.0),
        "jitter_p": 0.0,
        "grayscale_p": 0.0,
        "blur_p": (0, 0),
        "solarize_p": (0, 0),
    }
    run = train(*small(tmp_path / "barlow", "barlow_twins", backbone="small_cnn", flip=0.0, **options))
    steps = records_of(run, "step")
    assert steps[-1]["off_diag"] < 0.35 * steps[0]["off_diag"] and steps[-1]["on_diag"] < 1


@pytest.mark.parametrize(("centering", "warned"), [("none", True), ("center", False)])
def test_collapse_canary(centering, warned, small, tmp_path):
    """DINO without centring gives every image the same output; it must be caught, and DINO with it must not."""
    run = train(
        *small(
            tmp_path / "run",
            centering=centering,
            epochs=20,
            checkpoint_every=20,
            lr=0.01,
            warmup_epochs=1,
            log_every=5,
            knn_every=0,
            freeze_last_layer=0,
            momentum_teacher=0.99,
        )
    )
    warnings = records_of(run, "warning")
    assert [w["name"] for w in warnings] == (["collapse"] if warned else [])
    assert not warned or "centring" in warnings[0]["message"]


def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path, monkeypatch):
    from training.step import Stepper

    original = Stepper.step

    def step(this, batches, progress):
        if progress.step == 7:
            batches[0].views[0].fill_(float("nan"))
        return original(this, batches, progress)

    monkeypatch.setattr(Stepper, "step", step)
    with pytest.raises(
        UserError, match=r"the loss is not finite any more after step 8 .* is from before, after step 5\."
    ):
        train(*small(tmp_path / "run", knn_every=0))
    state = load_checkpoint(last_checkpoint(tmp_path / "run"))
    assert state["step"] == 5
    assert all(t.isfinite().all() for t in state["method"].values())


def test_a_plan_trains_nothing(small, tmp_path):
    config, method_config = small(tmp_path / "run", batch_size=16)
    plan = make_plan(config, method_config)
    assert not (tmp_path / "run").exists()
    assert ([len(images) for images in plan.images], plan.steps_per_epoch, plan.left_out) == ([40, 4], 2, 8)
    assert plan.total_steps == 6 and plan.images_seen == 96
    method = build_method(config, method_config, 2)
    assert plan.costs["parameters"] == sum(p.numel() for p in method.backbone.parameters())
    assert plan.costs["trained_parameters"] == sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert plan.costs["training_flops"] > 3 * plan.costs["flops"]
    assert all(value > 0 for value in plan.costs["memory"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 64}, "fewer than one batch"),
        ({"batch_size": 8, "accumulate": 3}, "multiple of 3"),
        ({"warmup_epochs": 9}, "warmup_epochs 9"),
        ({"epochs": 0}, "epochs 0: give more than 0"),
        ({"lr": -1.0}, "lr -1.0"),
        ({"precision": "fp16"}, "needs a CUDA device"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"paired_views": [1]}, "pairing same_label"),
        ({"label_fraction": 0.0}, "label_fraction"),
    ],
)
def test_wrong_options_give_a_sentence(options, message, small, tmp_path):
    with pytest.raises((UsageError, UserError), match=message):
        train(*small(tmp_path / "run", **options))


def test_pairing_by_label_may_start_later(small, tmp_path):
    """Before, the run is the same as one without it; after, views come from other images."""
    from training.plan import Plan
    from training.resolve import resolve

    config, method_config = small(tmp_path / "run", "dino", pairing="same_label", pairing_start=1.4)
    batches = Plan(resolve(config), method_config).batches()
    first = round(1.4 * batches.steps_per_epoch)
    assert all((row == row[0]).all() for row in batches.gather(first - 1).sources.T.tolist() for row in [np.array(row)])
    assert (batches.gather(first).sources[0] != batches.gather(first).sources[1]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pairing_start": 1.0}, "add that option"), ({"pairing_start": 99.0, "pairing": "same_label"}, "give 0 to")],
)
def test_a_start_of_pairing_has_to_make_sense(options, message, small, tmp_path):
    with pytest.raises(UsageError, match=message):
        make_plan(*small(tmp_path / "run", "dino", **options))


def test_a_run_goes_on_with_the_images_that_it_began_with(folder, small, tmp_path):
    """Wherever they lie; under the same name there may be others."""
    run = train(*small(tmp_path / "run", "random"))
    others = shutil.copytree(folder, tmp_path / "others")
    moved = shutil.copytree(folder, tmp_path / "moved")
    first = sorted((others / "train" / "red").iterdir())[0]
    shutil.copy(sorted((others / "train" / "green").iterdir())[0], first)
    evaluations = {"knn": KNNConfig(ks=[1])}
    with pytest.raises(UserError, match=r"was begun on other images than those of imagefolder in .*others"):
        train(*small(run, "random", data_root=str(others)), evaluations)
    assert yaml.safe_load((run / "config.yaml").read_text())["data_root"] == str(folder)
    train(*small(run, "random", data_root=str(moved)), evaluations)
    assert (run / "results" / "knn.json").is_file()


def test_a_run_that_began_before_photos_were_turned_says_how_they_differ(folder, small, tmp_path):
    run = train(*small(tmp_path / "run", "random"))
    record, *rest = (run / "log.jsonl").read_text().splitlines(keepends=True)
    record = {name: value for name, value in json.loads(record).items() if name != "source"}
    (run / "log.jsonl").write_text(json.dumps(record) + "\n" + "".join(rest))
    others = shutil.copytree(folder, tmp_path / "others")
    exif = Image.Exif()
    exif[0x0112] = 6
    first = sorted((others / "train" / "red").iterdir())[0]
    Image.open(first).save(first, exif=exif)
    with pytest.raises(UserError, match="of which 1 are turned upright by their EXIF orientation"):
        train(*small(run, "random", data_root=str(others)), {"knn": KNNConfig(ks=[1])})


def test_a_stopped_run_does_not_continue_on_other_images(folder, small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        StopAt(patch, "barlow_twins", step=2)
        with pytest.raises(SystemExit):
            train(*small(tmp_path / "run", "barlow_twins"))
    others = shutil.copytree(folder, tmp_path / "others")
    sorted((others / "train" / "red").iterdir())[0].unlink()
    with pytest.raises(UserError, match="was begun on other images"):
        train(*small(tmp_path / "run", "barlow_twins", data_root=str(others)))
