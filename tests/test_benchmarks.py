"""The benchmarks compare the same thing: their plain references give the same numbers as ours, step after step."""

import json
import threading

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from backbones import build_backbone
from backbones.vit import VisionTransformer, as_on_accelerator
from benchmarks import run, startup
from benchmarks.bench import Bench
from benchmarks.large_data.__main__ import _seen
from benchmarks.memory import count_ours, peak_of
from benchmarks.reference import barlow_twins as plain_barlow_twins
from benchmarks.reference import dino as plain_dino
from benchmarks.reference import evaluation as plain
from benchmarks.reference.augmentation import augmentation
from benchmarks.reference.transformer import VisionTransformer as PlainTransformer
from benchmarks.run import BENCHMARKS, Benchmark, chosen, main
from benchmarks.scaling import exponent
from benchmarks.timing import Limit, Measurement, Spread, measure
from benchmarks.training import our_stepper
from common.schedules import cosine
from common.statistics.confusion import bootstrap_scores
from data.store.store import ImageBatch
from data.views.maker import ViewMaker
from data.views.spec import Augmentation, View
from eval.core.probe import Heads
from eval.features.votes import knn_classify
from methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from methods.core.base import Progress, ViewBatch
from methods.dino import DINO, DINOConfig
from training.config import TrainConfig
from training.resolve import resolve
from training.step import Stepper

CPU = torch.device("cpu")


def stepper_of(method, **options):
    config = TrainConfig(**{**method.recipe, "batch_size": 4, "image_size": 32, "precision": "fp32", **options})
    stepper = Stepper(method, resolve(config), CPU)
    method.train()
    return stepper


def progress_at(step, stepper):
    """Past the warm-up."""
    return Progress(step=2000 + step, steps_per_epoch=100, epochs=stepper.config.epochs)


def random_views(sizes, batch=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, size, size, generator=generator) for size in sizes]


@pytest.mark.parametrize(("patch", "stem"), [(8, ()), (4, (8, 16))])
def test_dino_step_equals_the_plain_one(patch, stem):
    torch.manual_seed(0)
    sizes = {"patch_size": patch, "width": 24, "depth": 2, "heads": 2, "position_size": 32}
    config = DINOConfig(out_dim=32, hidden_dim=16, bottleneck_dim=8, drop_path=0.0)
    method = DINO(config, lambda **hints: VisionTransformer(**sizes, stem=stem, **hints), num_classes=0)
    stepper = stepper_of(method, lr=0.05)
    student, teacher = (plain_dino.Network(PlainTransformer(**sizes, inner=stem), 32, 16, 8) for _ in range(2))
    student.copy_weights(method.student.state_dict())
    teacher.copy_weights(method.teacher.state_dict())
    step = plain_dino.PlainStep(student, teacher, plain_dino.Loss(32), CPU)
    for number in range(3):
        views = random_views([32, 32, 16, 16, 16], seed=number)
        progress = progress_at(number, stepper)
        lr, weight_decay = stepper.rates(progress)
        momentum = cosine(0.996, 1.0, progress.step, progress.total_steps)
        expected = step(views, lr=lr, weight_decay=weight_decay, momentum=momentum)
        loss, _ = stepper.step([ViewBatch(views, torch.full((4,), -1))], progress)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    # Keys' biases have no gradient but rounding, which AdamW takes for one.
    for ours, other in ((method.teacher, teacher), (method.student, student)):
        expected = plain_dino.Network(PlainTransformer(**sizes, inner=stem), 32, 16, 8)
        expected.copy_weights(ours.state_dict())
        torch.testing.assert_close(expected.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-4)


def test_barlow_twins_step_equals_the_plain_one():
    torch.manual_seed(0)
    config = BarlowTwinsConfig(projector="16-16-16")
    method = BarlowTwins(config, lambda **hints: build_backbone("resnet18", 32, **hints), num_classes=0)
    stepper = stepper_of(method)
    model = plain_barlow_twins.BarlowTwins(torchvision.models.resnet18(), (16, 16, 16))
    model.load_state_dict(method.state_dict())
    step = plain_barlow_twins.PlainStep(model, CPU)
    for number in range(2):
        views = random_views([64, 64], batch=8, seed=number)
        progress = progress_at(number, stepper)
        lr, _ = stepper.rates(progress)
        expected = step(views, lr=lr)
        loss, _ = stepper.step([ViewBatch(views, torch.full((8,), -1))], progress)
        torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


def test_whole_crop_equals_torchvisions():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    view = View(
        name="whole",
        size=48,
        scale=(1.0, 1.0),
        augmentation=Augmentation(ratio=(1.0, 1.0), flip=0.0, jitter_p=0.0, grayscale_p=0.0),
    )
    expected = augmentation(view)(Image.fromarray(pixels))
    maker = ViewMaker([view])
    batch = ImageBatch.padded(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(), torch.tensor([[64, 64]]))
    (made,) = maker.make(batch, torch.zeros(1, 1, dtype=torch.int64), maker.sample(1, torch.Generator().manual_seed(0)))
    assert (made[0] - expected).abs().max() <= 1.01 / 255 / 0.224  # a grey level


def test_knn_votes_equal_the_one_hot_ones():
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.nn.functional.normalize(torch.randn(n, 16, generator=generator)) for n in (300, 40))
    labels = torch.randint(5, (300,), generator=generator)
    found = knn_classify(bank, labels, queries, [20, 60], 0.07, 5)
    for k in (20, 60):
        expected = plain.knn(bank, labels, queries, k, 0.07, 5, rows=7)
        voted = torch.tensor([len(labels[(query @ bank.T).topk(k).indices].unique()) == 5 for query in queries])
        assert voted.sum() > 20
        assert torch.equal(found[k][voted], expected[voted])
        assert torch.equal(found[k][:, 0], expected[:, 0])


def test_heads_equal_one_classifier_after_the_other():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(64, 12, generator=generator), torch.randint(3, (64,), generator=generator)
    heads = Heads(12, 3, [0.1, 0.01], CPU)
    probes = [plain.LinearProbe(12, 3, rate, CPU) for rate in (0.1, 0.01)]
    for head, probe in enumerate(probes):
        probe.layer.weight.data.copy_(heads.weight_DMC[:, head].T)
        probe.epoch(features, labels, batch_size=16)
    for part, truth in zip(features.split(16), labels.split(16), strict=True):
        heads.step(part, truth, 1.0)
    for head, probe in enumerate(probes):
        torch.testing.assert_close(heads.weight_DMC[:, head].T, probe.layer.weight.detach())
        torch.testing.assert_close(heads.bias_MC[head], probe.layer.bias.detach())


def test_bootstrap_equals_the_loop():
    matrices = np.random.default_rng(1).integers(0, 50, (30, 4, 4))
    expected = plain.miou_of_resamples(matrices, 25, seed=3)
    np.testing.assert_allclose(bootstrap_scores(matrices, 25, seed=3)["miou"], expected)


def test_ratios_are_of_the_same_round():
    now = 0.0

    def spender(*seconds):
        left = iter(seconds)

        def work():
            nonlocal now
            now += next(left)

        return work

    # A machine whose speed changes from round to round; the first does not count.
    contenders = {"ours": spender(9, 1, 2, 4), "slow": spender(9, 3, 6, 12)}
    limits = {"ours": Limit("top speed", ceiling=100.0, per_unit=5.0)}
    fast, slow = measure("case", contenders, 3, 12, "things/s", limits, clock=lambda: now)
    assert fast.ratios == {"slow": Spread(3, 3, 3)}
    assert (fast.value, slow.value) == (Spread(6, 3, 12), Spread(2, 1, 4))
    assert fast.reached == pytest.approx(6 * 5 / 100)
    assert slow.ratios == {} and slow.reached is None


def test_exponents_of_powers():
    points = [{"value": n, "seconds": 2 * n**1.5} for n in (2, 4, 16)]
    assert exponent(points, "seconds") == pytest.approx(1.5)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_counted_memory_is_that_of_a_real_step(precision):
    counted = count_ours("dino", "vit_t16", 2, precision, out_dim=256, local_crops=2)
    stepper = our_stepper("dino", "vit_t16", 2, CPU, precision, out_dim=256, local_crops=2)
    as_on_accelerator(stepper.method)

    def step():
        views = ViewBatch(random_views([224, 224, 96, 96], 2), torch.zeros(2, dtype=torch.int64))
        stepper.step([views], Progress(2000, 1000, stepper.config.epochs))

    assert counted == pytest.approx(peak_of(stepper.method, step), rel=0.01)


def test_command_writes_what_it_measured(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert main(["--only", "bootstrap", "--quick", "--device", "cpu", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    ours, reference = written["measurements"]
    assert ours["benchmark"] == reference["benchmark"] == "bootstrap"
    assert ours["ratios"]["reference"]["low"] <= ours["ratios"]["reference"]["median"]
    assert ours["reached"] is None
    assert written["about"]["quick"] is True and written["about"]["cores"] >= 1
    assert "bootstrap" in capsys.readouterr().out


def rows_of(case, contender="ours"):
    return [Measurement(case, contender, Spread(1, 1, 1), "s")]


def rates(fp32, bf16):
    return lambda bench, precision, side: {"fp32": fp32, "bf16": bf16}[precision]


def test_what_was_measured_stays_when_a_later_benchmark_fails_or_is_stopped(tmp_path, monkeypatch, capsys):
    def fails(bench):
        """Measures, then fails."""
        yield rows_of("measured before")
        raise RuntimeError("the disk is gone")

    def works(bench):
        """Measures."""
        yield rows_of("measured after")

    def stopped(bench):
        """Is stopped."""
        yield rows_of("measured at last")
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "_product", rates(1e9, 1e9))
    benchmarks = {"fails": Benchmark(fails, 60), "works": Benchmark(works, 60)}
    monkeypatch.setattr(run, "BENCHMARKS", benchmarks)
    out = tmp_path / "bench.json"
    assert main(["--device", "cpu", "--out", str(out)]) == 1
    assert [m["case"] for m in json.loads(out.read_text())["measurements"]] == ["measured before", "measured after"]
    printed = capsys.readouterr()
    assert "measured before" in printed.out and "the disk is gone" in printed.err
    assert "error: fails failed" in printed.err

    monkeypatch.setattr(run, "BENCHMARKS", {"stopped": Benchmark(stopped, 60), "works": Benchmark(works, 60)})
    assert main(["--device", "cpu", "--out", str(out)]) == 130
    assert [m["case"] for m in json.loads(out.read_text())["measurements"]] == ["measured at last"]


@pytest.mark.parametrize(("bf16", "timed"), [(5e9, ["fp32"]), (150e9, ["fp32", "bf16"])])
def test_precisions_without_fast_products_are_not_timed(bf16, timed, tmp_path, monkeypatch, capsys):
    seen = []

    def look(bench):
        """Looks at what is timed."""
        seen.append(bench.precisions)
        yield rows_of("case")

    monkeypatch.setattr(Bench, "_product", rates(100e9, bf16))
    monkeypatch.setattr(run, "BENCHMARKS", {"look": Benchmark(look, 120, steps=True)})
    assert main(["--device", "cpu", "--rounds", "5", "--out", str(tmp_path / "bench.json")]) == 0
    assert seen == [timed]
    printed = capsys.readouterr().out
    assert ("bf16 is not timed: its products take 20.0 times as long" in printed) == (timed == ["fp32"])
    assert f"about {10 if timed == ['fp32'] else 16} minutes in all: look" in printed


def test_parts_of_names_choose(capsys):
    assert chosen(["vit_s16", "knn"]) == [n for n in BENCHMARKS if n.endswith("vit_s16") or n.startswith("knn_")]
    assert chosen([""]) == list(BENCHMARKS)
    assert main(["--only", "knn", "resnet51"]) == 2
    error = capsys.readouterr().err
    assert "unknown benchmark 'resnet51'" in error and all(name in error for name in BENCHMARKS)


def test_folder_that_is_no_checkout_is_told(tmp_path, capsys):
    assert main(["--only", "bootstrap", "--reference", str(tmp_path), "--out", str(tmp_path / "bench.json")]) == 1
    assert "main_dino.py" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


@pytest.mark.parametrize(("out", "reason"), [("", "a folder"), ("file/bench.json", "cannot be written (")])
def test_figures_that_could_not_be_written_are_told_before_anything_is_measured(
    tmp_path, capsys, monkeypatch, out, reason
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(run, "measure", lambda *arguments: pytest.fail("it is measured"))
    assert main(["--only", "bootstrap", "--device", "cpu", "--out", str(tmp_path / out)]) == 1
    assert capsys.readouterr().err.startswith(f"error: --out {tmp_path / out}: {reason}")


def test_every_benchmark_says_what_it_measures():
    assert all(len(benchmark.what.split()) > 2 for benchmark in BENCHMARKS.values())


def test_what_fails_says_why_and_leaves_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "ROOT", tmp_path)
    with pytest.raises(RuntimeError, match=r"run.py ended with status 2:\n.*can't open file"):
        startup._run("run.py")
    with pytest.raises(RuntimeError, match=r"the demo took no step:\n.*can't open file"):
        startup._until_first_step(tmp_path / "demo", tmp_path)
    before, once = threading.active_count(), iter([None])
    with pytest.raises(StopIteration):
        _seen(lambda: next(once))
    assert threading.active_count() == before
