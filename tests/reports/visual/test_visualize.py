"""``run.py visualize``: what is read back from runs, and every command on a tiny run."""

import numpy as np
import pytest
import torch
from PIL import Image

import run as command_line
from common.errors import UserError
from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.datasets import open_dataset
from reports.visual import crops
from reports.visual.core import images as pictures
from reports.visual.core.network import plan_of
from reports.visual.core.runs import training_options
from reports.visual.cross_correlation import projections_of
from tests.reports.visual.test_visual_images import frames
from training.batches import Batches, hold_out
from training.config import TrainConfig
from training.diagnostics import cross_correlation

COLOURS = {"red": (200, 60, 60), "green": (60, 180, 60), "blue": (60, 60, 200)}


@pytest.fixture(scope="session")
def visual_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_COMPARE_CACHE", str(tmp_path_factory.mktemp("visual-cache")))
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory, visual_cache):
    """``imagefolder`` data of three colours under noise: 30 images to train on, 6 to test with."""
    root = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 6)):
        for number in range(count):
            name = list(COLOURS)[number % 3]
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(COLOURS[name] + rng.normal(0, 40, (24, 30, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def train(toy, out, method, *options):
    words = f"--method {method} --backbone vit_nano --data imagefolder --data_root {toy} --image_size 16 --batch_size 8"
    words += f" --epochs 2 --knn_every 1 --device cpu --precision fp32 --out {out}"
    assert command_line.main([*words.split(), *options]) == 0
    return out


@pytest.fixture(scope="session")
def barlow_run(toy, tmp_path_factory):
    return train(toy, tmp_path_factory.mktemp("runs") / "barlow", "barlow_twins", "--projector", "24-24")


@pytest.fixture(scope="session")
def weak_run(toy, tmp_path_factory):
    options = {"out_dim": 32, "hidden_dim": 16, "bottleneck_dim": 8, "local_crops": 2, "local_size": 8}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return train(toy, tmp_path_factory.mktemp("runs") / "weak", "weak_dino", *words)


def visualize(capsys, *words):
    """Run the command; returns status, printed paths and the message on standard error."""
    capsys.readouterr()
    status = command_line.main(["visualize", *map(str, words)])
    seen = capsys.readouterr()
    return status, seen.out.split(), seen.err


# Runs


def test_chosen_images_are_of_different_classes(toy):
    store = open_dataset("imagefolder", "train", toy, 18)
    assert sorted(store.labels[pictures.choose(store, 3, seed=1)]) == [0, 1, 2]
    assert len(set(pictures.choose(store, 100, seed=1))) == 30


def test_crops_are_those_of_the_first_step(toy, weak_run):
    plan = plan_of(training_options(weak_run))
    config, method_config = plan.config, plan.method_config
    assert (config.pairing, method_config.local_crops) == ("same_label", 2)
    store = open_dataset("imagefolder", "train", toy, 32)
    store = store.subset(hold_out(len(store), config.knn_every)[0])
    from methods.core.base import METHODS

    views = list(METHODS.get("weak_dino").views(method_config, 16))
    batches = Batches(store, views, config, torch.device("cpu"))
    drawn = crops.batches_of(plan)
    samples = crops.samples_of(drawn, drawn.images_of(0), 0, 3)
    made = next(batches.stream(0, 1)).views
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    for anchor, sample in enumerate(samples):
        assert [crop.kind for crop in sample] == ["anchor", "other", "other", "other"]
        assert len({crop.words.split("\n")[1] for crop in sample}) == 1
        for view, crop in zip(made, sample, strict=True):
            expected = ((view[anchor] * std + mean) * 255).round().clamp(0, 255)
            assert (expected - torch.tensor(crop.pixels).permute(2, 0, 1)).abs().max() < 1e-3


def test_crops_show_anchors_with_and_without_a_usable_label(toy, weak_run):
    """Whatever anchors the step begins with; and a step before the pairs begin is not taken for one with pairs."""
    options = training_options(weak_run)
    for seed in range(4):
        batches = crops.batches_of(plan_of({**options, "label_fraction": 0.4, "seed": seed}))
        anchors = batches.images_of(0)
        usable = batches.usable[anchors]
        assert usable.any() and not usable.all()
        samples = crops.samples_of(batches, anchors, 0, 3)
        kinds = [sample[0].kind for sample in samples]
        assert sorted(kinds) == ["alone", "anchor", "anchor"] if usable.sum() > 1 else ["alone", "alone", "anchor"]
        for sample in samples:
            alone = sample[0].kind == "alone"
            assert {crop.kind for crop in sample} == ({"alone"} if alone else {"anchor", "other"})
            assert all(crop.words.endswith("label not used") == alone for crop in sample)
    late = crops.batches_of(plan_of({**options, "label_fraction": 0.4, "pairing_start": 1}))
    assert late.pairing_start == late.steps_per_epoch
    before = crops.samples_of(late, late.images_of(0), 0, 3)
    assert {crop.kind for sample in before for crop in sample} == {"anchor"}


def test_both_kinds_are_taken_where_both_are():
    mixed = np.array([False, False, False, True, True, False])
    assert crops.both_kinds(mixed, 3).tolist() == [0, 3, 4]
    assert crops.both_kinds(mixed, 1).tolist() == [3]
    assert crops.both_kinds(mixed, 5).tolist() == [0, 1, 2, 3, 4]
    assert crops.both_kinds(~np.zeros(4, bool), 2).tolist() == [0, 1]
    assert crops.both_kinds(np.zeros(4, bool), 2).tolist() == [0, 1]
    assert crops.both_kinds(mixed, 9).tolist() == list(range(6))


def test_recomputed_correlation_equals_what_training_kept(barlow_run, monkeypatch):
    """On the images and crops that the run's own diagnostics look at: those held out."""
    monkeypatch.setattr("training.plan.hold_out", lambda n, every: hold_out(n, every)[::-1])
    first, second, _ = projections_of(barlow_run, 100, torch.device("cpu"))
    with np.load(barlow_run / "figures" / "cross_correlation.npz") as kept:
        np.testing.assert_allclose(cross_correlation(first, second), kept["matrices"][-1].astype(np.float32), atol=2e-3)


def test_options_of_a_run_are_read_back(barlow_run):
    plan = plan_of(training_options(barlow_run))
    config, method_config = plan.config, plan.method_config
    assert isinstance(config, TrainConfig)
    assert (config.method, config.optimizer, config.batch_size) == ("barlow_twins", "lars", 8)
    assert method_config.projector == "24-24"
    assert method_config.blur_p == (1.0, 0.1)


# Commands


@pytest.mark.parametrize(
    "words, files",
    [
        (["attention", "--weights", "RUN", "--count", "2"], 4),
        (["pca", "--weights", "RUN", "--images", "IMAGES", "--image_size", "32"], 2),
        (["pca", "--backbone", "resnet18_cifar", "--images", "IMAGES"], 2),
        (["neighbours", "--weights", "RUN", "--k", "3", "--count", "2"], 2),
        (["neighbours", "--weights", "RUN", "--images", "IMAGES"], 2),
        (["embedding", "--weights", "RUN", "--perplexity", "2"], 2),
        (["receptive_field", "--weights", "RUN", "--count", "2", "--layers", "blocks.0", "blocks.1"], 2),
        (["crops", "--run", "RUN", "--count", "1"], 2),
        (["cross_correlation", "RUN"], 7),
        (["cross_correlation", "RUN", "--recompute", "--palette", "study"], 2),
        (["collapse", "RUN", "WEAK"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_writes_pictures(capsys, tmp_path, toy, barlow_run, weak_run, words, files):
    known = {"RUN": barlow_run, "WEAK": weak_run, "IMAGES": toy / "val" / "red"}
    status, written, error = visualize(capsys, *[known.get(word, word) for word in words], "--out", tmp_path)
    assert status == 0, error
    assert len(written) == files
    for path in written:
        if path.endswith((".png", ".gif")):
            pixels = np.asarray(Image.open(path).convert("L"))
            assert min(pixels.shape) > 250
            assert pixels.min() < 100 < pixels.max()
    assert not list(tmp_path.rglob("*.tmp"))


def test_attention_over_a_folder_of_frames(capsys, tmp_path, barlow_run):
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames(3)):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    status, (path,), error = visualize(
        capsys, "attention", "--weights", barlow_run, "--video", tmp_path / "frames", "--out", tmp_path / "out"
    )
    assert status == 0, error
    with Image.open(path) as image:
        assert image.n_frames == 3
    words = [
        "attention",
        "--weights",
        barlow_run,
        "--video",
        tmp_path / "frames",
        "--fps",
        0,
        "--out",
        tmp_path / "none",
    ]
    status, _, error = visualize(capsys, *words)
    assert status == 2 and "--fps 0.0: give more than 0" in error


@pytest.mark.parametrize(
    "words, message",
    [
        (["attention", "--backbone", "resnet18_cifar", "--images", "IMAGE"], "has no CLS attention"),
        (["attention", "--weights", "RUN", "--images", "DAMAGED"], "damaged.png: no usable image"),
        (["attention", "--weights", "RUN", "--images", "nothing.png"], "nothing.png: no such file or folder"),
        (["attention", "--weights", "RUN", "--backbone", "vit_s16", "--images", "IMAGE"], "weights of vit_nano"),
        (["attention", "--weights", "RUN", "--mass", "0"], "--mass 0"),
        (["attention", "--weights", "RUN", "--image_size", "2"], "at least one patch"),
        (["attention", "--images", "IMAGE"], "--backbone is needed"),
        (["attention", "--backbone", "vit_nano"], "--images or --data is needed"),
        (["attention", "--weights", "RUN", "--video", "IMAGE"], "a single image"),
        (["receptive_field"], "--weights or --backbone is needed"),
        (["receptive_field", "--weights", "RUN", "--layers", "block.1"], "did you mean blocks."),
        (["neighbours", "--weights", "RUN", "--k", "99"], "--k 99: give 1 to 30"),
        (["embedding", "--weights", "RUN"], "--perplexity 30 is too much for 6 images"),
        (["embedding", "--weights", "RUN", "--classes", "redd"], "did you mean red?"),
        (["crops"], "--run, or --method and --data"),
        (
            ["cross_correlation", "nowhere"],
            "nowhere/config.yaml: cannot be read (No such file or directory); give a run directory",
        ),
        (["collapse", "nowhere"], "nowhere"),
        (["atention"], "did you mean attention?"),
        (["pca", "--weights", "RUN", "--images", "IMAGE", "--out", "IMAGE"], "give another --out"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_sentence(capsys, tmp_path, toy, barlow_run, words, message):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((toy / "val" / "red" / "0.png").read_bytes()[:200])
    known = {"RUN": barlow_run, "DAMAGED": damaged, "IMAGE": toy / "val" / "red" / "0.png"}
    out = [] if "--out" in words else ["--out", tmp_path / "out"]
    status, written, error = visualize(capsys, *[known.get(word, word) for word in words], *out)
    assert status in (1, 2)
    assert not written
    last = error.splitlines()[-1]  # above it only what was decoded
    assert last.startswith("error: ")
    assert error.count("error") == 1
    assert message in last
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.png"))


def test_raw_pixels_have_no_network_to_look_into():
    from reports.visual.core.network import load_network

    with pytest.raises(UserError, match="pixels has no parameters"):
        load_network(None, "pixels", None, 32, "cpu", 0)
