"""Everything runs on an accelerator: with the CPU's results, without tensors of both devices in one operation, and with nothing
in a training step that waits for the device."""

import copy
import json
import math

import pytest
import torch

import commands.train
import eval.core.context
import eval.core.online  # noqa: F401
import reports.visual.core.network  # noqa: F401
import run as command_line
import training.trainer  # noqa: F401
from data.views.maker import ViewMaker
from heads.segmentation.core.losses import LOSSES, make_loss
from methods.core.base import METHODS, Progress, ViewBatch
from methods.dino import DINOConfig
from training.plan import build_method
from training.resolve import resolve
from training.step import Stepper

TRAINED = [name for name in METHODS.names() if METHODS.get(name).trains]


def test_the_pretended_device_keeps_tensors_apart(accelerator):
    ours = torch.arange(4.0).to(accelerator.device)
    with pytest.raises(RuntimeError):
        ours + torch.ones(4)
    with pytest.raises(TypeError):
        ours.numpy()
    with accelerator.waits() as waits:
        (ours * 2 + ours[1:2]).sum()
        assert not waits
    for ask in (lambda x: x[0].item(), lambda x: x.tolist(), lambda x: x.cpu(), lambda x: x[x > 1]):
        with accelerator.waits() as waits:
            ask(ours)
        assert waits


def small_method(small_runs, name, tmp_path, **options):
    """A small method, its resolved options, and what makes a batch of a step for a device."""
    own = {"drop_path": 0.0} if name in ("dino", "weak_dino") else {}
    config, method_config = small_runs.small_run(
        tmp_path, tmp_path / "unused", name, warmup_epochs=0, backbone="small_vit", **{**own, **options}
    )
    config = resolve(config)
    method = build_method(config, method_config, num_classes=3)
    views = method.views(method_config, config.image_size)

    def batch(step, device):
        generator = torch.Generator().manual_seed(step)
        images = [torch.randn(config.batch_size, 3, v.size, v.size, generator=generator) for v in views]
        labels = torch.arange(config.batch_size) % 3
        return ViewBatch([image.to(device) for image in images], labels.to(device))

    return method, config, batch


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in TRAINED),
        ("dino", {"centering": "sinkhorn_knopp"}),
        ("dino", {"optimizer": "lars"}),
        ("dino", {"targets": "label"}),
        ("weak_dino", {"targets": "label", "label_momentum": 0.9}),
        ("barlow_twins", {"optimizer": "sgd", "clip_grad": 1.0}),
        ("barlow_twins", {"projector": "32-32-64"}),
        ("supervised", {"clip_grad": 1.0, "clip_mode": "global"}),
    ],
)
def test_steps_are_the_cpus_and_wait_for_nothing(accelerator, small_runs, tmp_path, name, options):
    method, config, batch = small_method(small_runs, name, tmp_path, **options)
    losses = {}
    for device in (torch.device("cpu"), accelerator.device):
        torch.manual_seed(0)
        stepper = Stepper(copy.deepcopy(method), config, device)
        stepper.method.train()
        losses[device.type] = []
        for step in range(3):
            views = batch(step, device)
            with accelerator.waits() as waits:
                loss, output = stepper.step([views], Progress(step, 4, config.epochs))
            assert not waits
            assert loss.device == device
            assert all(v.device == device for v in output.metrics.values() if isinstance(v, torch.Tensor) and v.dim())
            losses[device.type].append(loss.item())
        assert all(value.device == device for value in stepper.method.state_dict().values())
    assert losses[accelerator.device.type] == pytest.approx(losses["cpu"], rel=2e-3)
    assert len(set(losses["cpu"])) == 3 and all(map(math.isfinite, losses["cpu"]))


def test_views_are_the_cpus_and_wait_for_nothing(accelerator):
    from data.store.store import ImageBatch

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 6, 6), generator=generator).float()
    pixels = torch.nn.functional.interpolate(pixels, (90, 120), mode="bicubic").clamp(0, 255).round().byte()
    images = ImageBatch.padded(pixels, torch.tensor([[90, 120]] * 4))
    maker = ViewMaker(DINOConfig(local_size=32).views(64), mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    params = maker.sample(8, generator)
    sources = torch.arange(8).remainder(4).expand(len(maker.views), 8)
    ours = images.to(accelerator.device)
    with accelerator.waits() as waits:
        made = maker.make(ours, sources, params)
        assert not waits
    for view, expected in zip(made, maker.make(images, sources, params), strict=True):
        difference = (view.cpu() - expected).abs()
        assert view.device == accelerator.device
        # Levels of 255: both round after each operation, as PIL does, which jitter and solarization may make more of.
        assert difference.mean() < 0.3 and (difference > 2).float().mean() < 0.02


@pytest.mark.parametrize("terms", [*([name] for name in LOSSES), ["cross_entropy", "dice=0.5"]])
def test_losses_of_segmentation_wait_for_nothing(accelerator, terms):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 8, 8, generator=generator)
    masks = torch.randint(0, 4, (2, 8, 8), generator=generator)
    masks[:, :2] = 255
    results = []
    for device in (torch.device("cpu"), accelerator.device):
        ours, targets = logits.clone().to(device).requires_grad_(), masks.to(device)
        with accelerator.waits() as waits:
            loss = make_loss(terms)(ours, targets)
            loss.backward()
            assert not waits
        results.append((loss.item(), ours.grad.norm().item()))
    assert results[1] == pytest.approx(results[0], rel=1e-5)


@pytest.fixture(scope="module")
def images(small_runs, tmp_path_factory):
    return small_runs.make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def trained(small_runs, images, tmp_path_factory):
    """A run of the CPU."""
    run = tmp_path_factory.mktemp("runs") / "dino"
    commands.train.train(*small_runs.small_run(images, run, "dino", backbone="vit_nano", local_size=8, epochs=1))
    return run


@pytest.mark.slow
def test_a_run_there_is_as_one_here_and_continues_here(on_accelerator, small_runs, images, monkeypatch, tmp_path):
    def losses(out, **options):
        options |= {"backbone": "vit_nano", "log_every": 1}
        commands.train.train(*small_runs.small_run(images, tmp_path / out, "barlow_twins", **options))
        records = [json.loads(line) for line in (tmp_path / out / "log.jsonl").read_text().splitlines()]
        assert {"step", "knn", "diagnostics", "end"} <= {record["kind"] for record in records}
        return [record["loss"] for record in records if record["kind"] == "step"]

    there = losses("there")
    (tmp_path / "there" / "checkpoints" / "last.pt").rename(tmp_path / "weights.pt")
    monkeypatch.undo()
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    assert losses("here") == pytest.approx(there, rel=0.1)  # crops differ by rounding
    assert losses("on", init=str(tmp_path / "weights.pt"))[0] < there[0]


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", ["linear", "linear_authors", "finetune", "retrieval"])
def test_evaluations_run(on_accelerator, trained, tmp_path, evaluation):
    words = ["--weights", str(trained), "--precision", "fp32", "--evals", evaluation, "--out", str(tmp_path / "out")]
    short = {"linear": ["--linear_epochs", "1"], "linear_authors": ["--linear_authors_epochs", "1"]}
    short["finetune"] = ["--finetune_epochs", "1", "--finetune_batch_size", "8"]
    assert command_line.main(["evaluate", *words, *short.get(evaluation, [])]) == 0
    assert list((tmp_path / "out" / "results").glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "attention --weights",
        "cross_correlation --recompute True",
        "crops --run",
        "embedding --perplexity 1 --weights",
        "neighbours --k 1 --weights",
        "pca --weights",
        "receptive_field --weights",
    ],
)
def test_pictures_are_drawn(on_accelerator, trained, tmp_path, words):
    assert command_line.main(["visualize", *words.split(), str(trained), "--out", str(tmp_path)]) == 0
    assert list(tmp_path.rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["--heads linear deeplabv3", "--heads setr_pup --finetune True --loss cross_entropy dice"]
)
def test_segmentation_waits_for_nothing_but_records(on_accelerator, shapes, tmp_path, words):
    data = f"--backbone vit_nano --data voc2012 --data_root {shapes} --image_size 32 --precision fp32 --epochs 2 --batch_size 4"
    with on_accelerator.waits() as waits:
        assert command_line.main(["segment", *data.split(), *words.split(), "--out", str(tmp_path)]) == 0
    assert list((tmp_path / "results").glob("*.json"))
    assert waits and not [
        line for line in waits if "heads/" in line or "training/step" in line or "training/segm" in line
    ]
