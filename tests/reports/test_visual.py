"""``run.py visualize``: the numbers behind the pictures, and every command on a tiny run."""

import itertools
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import run as command_line
from backbones import build_backbone
from backbones.base import Backbone
from backbones.vit import VisionTransformer
from common.errors import UserError
from common.images import IMAGENET_MEAN, IMAGENET_STD
from data.datasets import open_dataset
from reports.visual import attention, crops, embedding, neighbours, pca, receptive_field
from reports.visual.core import images as pictures
from reports.visual.core import video
from reports.visual.core.network import plan_of
from reports.visual.core.runs import training_options
from reports.visual.cross_correlation import projections_of
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


# Attention


@pytest.mark.parametrize("size", ["96x96", "240x160", "160x256"])
def test_attention_equals_reference(request, monkeypatch, size):
    with np.load(request.config.getoption("--golden") / "vit_patch16.npz") as file:
        arrays = {key: file[key] for key in file.files}
    model = VisionTransformer(16, width=48, depth=3, heads=3).eval()
    model.load_state_dict(
        {k.removeprefix("param/"): torch.tensor(v) for k, v in arrays.items() if k.startswith("param/")}
    )
    images = torch.tensor(arrays[f"in_{size}"]).float()
    monkeypatch.setattr(pictures, "normalised", lambda pixels, device: images[:1])
    height, width = images.shape[-2:]
    found = attention.cls_attention(model, np.zeros((height, width, 3), np.uint8))
    reference = arrays[f"cls_attention_{size}"][0, :, 1:].reshape(3, height // 16, width // 16)
    assert np.abs(found - reference).max() < 1e-4 * max(0.1, np.abs(reference).max())
    masks = attention.masks_of(found, 0.6)
    share = (found * masks).sum((1, 2)) / found.sum((1, 2))
    assert (share >= 0.6 - 1e-6).all()
    assert (share - 0.6 < found.max((1, 2)) / found.sum((1, 2))).all()  # no patch more than it takes


# Receptive fields


class Convolutions(Backbone):
    """Some 3 × 3 convolutions; ``maps`` gives the last one's output."""

    depth, width, stride = 1, 1, 1

    def __init__(self, count, channels=1):
        super().__init__()
        sizes = [3] + [channels] * count
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)))

    def maps(self, images, blocks=(-1,)):
        return [self.layers(images) for _ in blocks]


def test_field_of_one_convolution_is_its_kernel():
    model = Convolutions(1)
    images = torch.randn(3, 3, 11, 11)
    fields, _ = receptive_field.effective_receptive_fields(model, images, ["blocks.0"])
    expected = np.zeros((11, 11))
    expected[4:7, 4:7] = model.layers[0].weight.detach()[0].abs().sum(0)
    np.testing.assert_allclose(fields[0], expected, atol=1e-6)


@pytest.mark.parametrize("count, side", [(2, 5), (3, 7)])
def test_fields_grow_by_two_with_each_convolution(count, side):
    model = Convolutions(count, channels=4)
    fields, _ = receptive_field.effective_receptive_fields(model, torch.randn(2, 3, 15, 15), ["blocks.0"])
    rows, columns = np.nonzero(fields[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7 - side // 2, 7 + side // 2) * 2


def test_fields_of_normed_tokens_are_not_lost():
    """The sum of a LayerNorm's outputs is constant, so its gradient is none; the signed sum has one."""
    torch.manual_seed(0)
    model = VisionTransformer(4, width=48, depth=3, heads=3, position_size=16).eval().requires_grad_(False)
    images = torch.randn(2, 3, 16, 16)
    fields, units = receptive_field.effective_receptive_fields(model, images, ["blocks.0", "blocks.2"])
    assert units == [(8, 8, 4, 4)] * 2
    assert (fields.max(axis=(1, 2)) > 1e-3).all()
    assert (fields > 0).all()  # attention sees the whole image
    assert fields[0, 8:12, 8:12].min() > fields[0, :8, :8].max()  # and the unit's own patch counts most


def test_layers_of_a_resnet_are_its_residual_blocks():
    model = build_backbone("resnet18_cifar", 32).eval().requires_grad_(False)
    names = receptive_field.layer_names(model)
    assert names == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    images = torch.randn(1, 3, 32, 32)
    fields, units = receptive_field.effective_receptive_fields(model, images, ["layer1.0", "layer4.1"])
    assert units == [(16, 16, 1, 1), (16 - 3.5, 16 - 3.5, 8, 8)]
    rows, _ = np.nonzero(fields[0])
    assert (rows.min(), rows.max()) == (13, 19)  # three 3 × 3 convolutions
    assert (fields[1] > 0).mean() > 0.9
    last = receptive_field.layer_maps(model, images, ["layer4.1"])[0]
    torch.testing.assert_close(last, model.maps(images)[0])


# Features


def test_components_equal_singular_vectors():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(48, 3)) * [5, 3, 1]
    mixing = np.linalg.qr(rng.normal(size=(8, 3)))[0]
    maps = [(latent[:24] @ mixing.T).reshape(4, 6, 8), (latent[24:] @ mixing.T).reshape(6, 4, 8)]
    scores, explained = pca.components(maps)
    assert [s.shape for s in scores] == [(4, 6, 3), (6, 4, 3)]
    cells = latent @ mixing.T
    cells = cells - cells.mean(0)
    left, values, _ = np.linalg.svd(cells, full_matrices=False)
    together = np.concatenate([s.reshape(-1, 3) for s in scores])
    np.testing.assert_allclose(np.abs(together), np.abs(left[:, :3] * values[:3]), atol=1e-5)
    np.testing.assert_allclose(explained, values[:3] ** 2 / (values**2).sum(), atol=1e-6)
    with pytest.raises(UserError, match="too few or all equal"):
        pca.components([np.ones((4, 4, 8))])


def test_neighbours_equal_brute_force():
    bank, queries = torch.randn(50, 6), torch.randn(7, 6)
    similarities, rows = neighbours.nearest(bank, queries, 5)
    for query, values, places in zip(queries, similarities, rows, strict=True):
        cosines = [float(query @ row / query.norm() / row.norm()) for row in bank]
        best = sorted(range(50), key=lambda i: -cosines[i])[:5]
        assert places.tolist() == best
        assert values.tolist() == pytest.approx([cosines[i] for i in best], abs=1e-5)


def test_embedding_keeps_groups_apart():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(3), 12, axis=0) * 10
    features = (groups + rng.normal(0, 0.1, groups.shape)).astype(np.float32)
    places = embedding.embed(features, 5, 0)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) // 12 == np.arange(36) // 12).all()
    with pytest.raises(UserError, match="too much for 36 images"):
        embedding.embed(features, 36, 0)


# Images


def test_fitting_resizes_the_short_side_and_cuts_the_rest():
    gradient = np.tile(np.arange(50, dtype=np.uint8)[None, :, None], (21, 1, 3))
    picture = pictures.InputImage("a.png", gradient)
    cut = pictures.fitted(picture, 8, 0)
    assert cut.shape == (16, 48, 3)
    np.testing.assert_array_equal(cut, gradient[2:18, 1:49])
    assert pictures.fitted(picture, 8, 42).shape == (40, 96, 3)
    with pytest.raises(UserError, match="less than one patch of 32"):
        pictures.fitted(picture, 32, 0)


def test_chosen_images_are_of_different_classes(toy):
    store = open_dataset("imagefolder", "train", toy, 18)
    assert sorted(store.labels[pictures.choose(store, 3, seed=1)]) == [0, 1, 2]
    assert len(set(pictures.choose(store, 100, seed=1))) == 30


# Runs


def test_crops_are_those_of_the_first_step(toy, weak_run):
    plan = plan_of(training_options(weak_run))
    config, method_config = plan.config, plan.method_config
    assert (config.pairing, method_config.local_crops) == ("same_label", 2)
    store = open_dataset("imagefolder", "train", toy, 32)
    store = store.subset(hold_out(len(store), config.knn_every)[0])
    samples = crops.first_samples(plan, 3)
    from methods.core.base import METHODS

    views = list(METHODS.get("weak_dino").views(method_config, 16))
    batches = Batches(store, views, config, torch.device("cpu"))
    made = batches.make(batches.gather(0)).views
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    for anchor, sample in enumerate(samples):
        assert [crop.other for crop in sample] == [False, True, True, True]
        assert len({crop.label for crop in sample}) == 1
        for view, crop in zip(made, sample, strict=True):
            expected = ((view[anchor] * std + mean) * 255).round().clamp(0, 255)
            assert (expected - torch.tensor(crop.pixels).permute(2, 0, 1)).abs().max() < 1e-3


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


# Videos


def frames(count, size=(20, 28)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def test_folders_and_animations_are_read_in_order(tmp_path):
    made = frames(3)
    for number, frame in enumerate(made):
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
    opened = video.open_frames(tmp_path)
    assert (opened.count, opened.is_video) == (3, False)
    for _ in range(2):  # it can be read twice
        np.testing.assert_array_equal(np.stack(list(opened.read())), np.stack(made))
    with video.video_writer(tmp_path / "out" / "a.gif", 8, (20, 28)) as write:
        for frame in made:
            write(frame)
    again = video.open_frames(tmp_path / "out" / "a.gif")
    assert (again.count, again.fps) == (3, pytest.approx(8, rel=0.1))
    assert [frame.shape for frame in again.read()] == [(20, 28, 3)] * 3


def test_video_files(tmp_path):
    pytest.importorskip("av", reason="PyAV, the extra 'video', is not installed")
    flat = [np.full((32, 48, 3), 40 * number, np.uint8) for number in range(5)]
    with video.video_writer(tmp_path / "a.mp4", 12, (32, 48)) as write:
        for frame in flat:
            write(frame)
    opened = video.open_frames(tmp_path / "a.mp4")
    assert (opened.is_video, opened.fps) == (True, 12)
    found = list(opened.read())
    assert len(found) == 5
    assert all(np.abs(a.astype(int) - b).max() < 12 for a, b in zip(found, flat, strict=True))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read as a video"):
        video.open_frames(tmp_path / "cut.mp4")


def test_video_files_without_pyav_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"\0" * 64)
    with pytest.raises(UserError, match='the extra "video"'):
        video.open_frames(tmp_path / "a.mp4")


# Commands


@pytest.mark.parametrize(
    "words, files",
    [
        (["attention", "--weights", "RUN", "--count", "2"], 2),
        (["pca", "--weights", "RUN", "--images", "IMAGES", "--image_size", "32"], 1),
        (["pca", "--backbone", "resnet18_cifar", "--images", "IMAGES"], 1),
        (["neighbours", "--weights", "RUN", "--k", "3", "--count", "2"], 1),
        (["neighbours", "--weights", "RUN", "--images", "IMAGES"], 1),
        (["embedding", "--weights", "RUN", "--perplexity", "2"], 2),
        (["receptive_field", "--weights", "RUN", "--count", "2", "--layers", "blocks.0", "blocks.1"], 1),
        (["crops", "--run", "RUN", "--count", "1"], 1),
        (["cross_correlation", "RUN"], 5),
        (["cross_correlation", "RUN", "--recompute", "--palette", "study"], 1),
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
