import copy
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from backbones import build_backbone
from common.errors import UserError
from common.statistics.confusion import confusion_matrix, scores
from data.views.dense import SegmentationAugmentation
from eval.dense.batches import SegmentationBatches, image_samples, whole_samples
from eval.dense.maps import cached_maps, rounded
from eval.dense.task import SegmentationTask, TaskConfig
from eval.features.extract import FrozenBackbone
from heads.segmentation.core.base import SEGMENTATION_HEADS
from methods.core.base import ViewBatch
from rundir.paths import last_checkpoint
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.resolve import resolve
from training.trainer import train_task

CPU = torch.device("cpu")
WHOLE = SegmentationAugmentation(crop_size=32, scale=(1, 1), flip_p=0.0, distort_p=0.0)


def make_task(
    backbone: str = "vit_plain", whole: bool = False, precomputed: bool = False, **options
) -> SegmentationTask:
    torch.manual_seed(0)
    return SegmentationTask(TaskConfig(**options), lambda: build_backbone(backbone, 32), 21, whole, precomputed)


def frozen(backbone: torch.nn.Module) -> FrozenBackbone:
    return FrozenBackbone(backbone=backbone, device=CPU, precision="fp32")


def make_config(out, **options) -> TrainConfig:
    defaults = {"batch_size": 4, "epochs": 3, "lr": 1e-3 * 64, "min_lr": 0.0, "warmup_epochs": 0.0, "weight_decay": 0.0}
    defaults |= {"schedule": "poly", "device": "cpu", "precision": "fp32", "knn_every": 0, "log_every": 1}
    return resolve(
        TrainConfig(backbone="vit_plain", data="voc2012", image_size=32, out=str(out), **{**defaults, **options})
    )


def fit(task, store, config, augmentation=WHOLE, workers=1):
    batches = SegmentationBatches(store, image_samples(store, augmentation), config, CPU, workers)
    train_task(config, {"head": task.config.head}, task, batches)
    return task


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "head", [pytest.param(name, marks=[pytest.mark.slow] * (name != "linear")) for name in SEGMENTATION_HEADS.names()]
)
def test_overfits_four_images(head, stores, tmp_path):
    four = stores[0].subset(np.arange(4))
    # Frozen and untrained features: of the images' colours, every head must make the classes.
    epochs = 60 if head.startswith("linear") else 40
    task = fit(make_task(head=head), four, make_config(tmp_path, epochs=epochs, lr=5e-3 * 64, log_every=30)).eval()
    total = np.zeros((21, 21), np.int64)
    for image in range(4):
        (pixels,), mask = image_samples(four, WHOLE)(image, 0)
        with torch.no_grad():
            logits = task.head(task.backbone.maps(pixels[None], task.head_blocks), (32, 32))
        total += confusion_matrix(logits[0].argmax(0).numpy(), mask.numpy(), 21)
    assert scores(total)["miou"] > 95


@pytest.mark.parametrize("backbone", ["vit_plain", "resnet18"])
def test_a_frozen_backbone_stays_as_it_is(backbone, stores, tmp_path):
    task = make_task(backbone, head="setr_naive", auxiliary=0.4)
    before, head = state(task.backbone), state(task.head)
    fit(task, stores[0], make_config(tmp_path))
    assert equal(before, task.backbone.state_dict())
    assert not equal(head, task.head.state_dict())


@pytest.mark.parametrize("backbone", ["vit_plain", "resnet18"])
def test_gradients_reach_the_backbone_only_when_it_is_fine_tuned(backbone, stores):
    (pixels,), mask = image_samples(stores[0], WHOLE)(0, 0)
    batch = ViewBatch([torch.stack([pixels, pixels])], torch.stack([mask, mask]))
    for finetune in (False, True):
        task = make_task(backbone, head="linear", finetune=finetune).train()
        task(batch).loss.backward()
        got = {name: p.grad is not None for name, p in task.named_parameters()}
        assert all(got[name] for name in got if name.startswith("head."))
        assert all(got[name] == finetune for name in got if name.startswith("backbone."))


def test_void_pixels_change_no_gradient(stores):
    (pixels,), mask = image_samples(stores[0], WHOLE)(0, 0)
    assert (mask == 255).any()
    gradients = []
    for change in (0.0, 5.0):
        task = make_task(head="linear").eval()
        logits = task.head(task.backbone.maps(pixels[None], task.head_blocks), (32, 32))
        shifted = logits + change * (mask == 255)  # whatever is predicted there
        task._loss(shifted, mask[None]).backward()
        gradients.append(task.head.classifier.weight.grad)
    assert torch.equal(*gradients)


def test_resuming_with_more_threads_equals_never_having_stopped(stores, tmp_path, monkeypatch):
    augmentation = SegmentationAugmentation(crop_size=32)
    whole = fit(
        make_task(head="setr_naive", finetune=True), stores[0], make_config(tmp_path / "a", epochs=4), augmentation
    )

    config = make_config(tmp_path / "b", epochs=4)
    stream = SegmentationBatches.stream

    def broken(self, first, end):
        for step, batch in enumerate(stream(self, first, end), first):
            if step == 5:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(SegmentationBatches, "stream", broken)
    with pytest.raises(KeyboardInterrupt):
        fit(make_task(head="setr_naive", finetune=True), stores[0], config, augmentation)
    monkeypatch.setattr(SegmentationBatches, "stream", stream)
    assert load_checkpoint(last_checkpoint(tmp_path / "b"))["step"] == 4
    resumed = fit(make_task(head="setr_naive", finetune=True), stores[0], config, augmentation, workers=3)
    assert equal(whole.state_dict(), resumed.state_dict())
    a, b = ([json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in "ab")
    losses = [[record["loss"] for record in log if record["kind"] == "step"] for log in (a, b)]
    assert losses[0] == losses[1] and len(losses[0]) == 8


def test_batches_for_a_gpu_lie_in_memory_that_it_can_copy_without_a_wait(stores, tmp_path, monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    sample, config = image_samples(stores[0], WHOLE), make_config(tmp_path)
    for device in (CPU, torch.device("cuda")):
        with ThreadPoolExecutor(1) as pool:
            batch = SegmentationBatches(stores[0], sample, config, device)._gather(0, pool)
        expected = [] if device == CPU else [*batch.views, batch.labels]
        assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in expected]


def test_maps_computed_once_train_as_those_of_each_batch_do(stores, tmp_path):
    """Stored in half precision, computed anew and rounded to it, and as an augmentation without scale and crop makes images."""
    flips = SegmentationAugmentation(crop_size=32, scale=(1, 1), flip_p=0.5, distort_p=0.0)
    full = fit(make_task(head="setr_mla"), stores[0], make_config(tmp_path / "images"), flips)
    task = make_task(head="setr_mla")
    arguments = (stores[0], task.blocks, 32, tmp_path / "features", {"weights": "none"})
    maps, files = cached_maps(frozen(task.backbone), *arguments)
    assert len(files) == 2 * len(task.blocks) and all(file.is_file() for file in files)
    assert all(m.dtype == torch.float16 for m in maps.values())
    heads = []
    for name, of_images in (("stored", maps), ("anew", {})):
        task = make_task(head="setr_mla", whole=True, precomputed=bool(of_images))
        config = make_config(tmp_path / name)
        batches = SegmentationBatches(stores[0], whole_samples(stores[0], flips, of_images, task.blocks), config, CPU)
        train_task(config, {}, task, batches)
        heads.append(task.head.state_dict())
    # Of a tensor's norm (biases that began at 0), rounding of float32 makes up to 0.02 where it makes another half of it, and half
    # precision 0.08, since Adam divides small gradients by small ones; other flips would make 0.99.
    stored, anew = heads
    for name, value in full.head.state_dict().items():
        assert (stored[name] - anew[name]).float().norm() <= 0.1 * value.float().norm(), name
        assert (value - stored[name]).float().norm() <= 0.3 * value.float().norm(), name


def test_maps_too_large_for_half_precision_are_refused(stores, tmp_path, monkeypatch):
    backbone = build_backbone("vit_plain", 32).eval()
    maps = backbone.maps
    monkeypatch.setattr(backbone, "maps", lambda images, blocks: [1e5 * m for m in maps(images, blocks)])
    with pytest.raises(UserError, match="too large for half precision"):
        cached_maps(frozen(backbone), stores[0], [3], 32, tmp_path, {})
    with pytest.raises(UserError, match="too large for half precision"):  # where the disk has no room
        rounded([torch.tensor([1.0, -1e5])])


def test_maps_continue_where_they_were_interrupted(stores, tmp_path, monkeypatch):
    backbone = build_backbone("vit_plain", 32).eval()
    arguments = (stores[0], [1, 3], 32)
    whole, _ = cached_maps(frozen(backbone), *arguments, tmp_path / "a", {})
    monkeypatch.setattr("eval.dense.maps.PIXELS", 3 * 32**2)  # batches of three images
    calls = []
    maps = backbone.maps

    def counted(images, blocks):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return maps(images, blocks)

    monkeypatch.setattr(backbone, "maps", counted)
    with pytest.raises(KeyboardInterrupt):
        cached_maps(frozen(backbone), *arguments, tmp_path / "b", {})
    continued, _ = cached_maps(frozen(backbone), *arguments, tmp_path / "b", {})
    assert calls == [1, 6, 6, 4, 1, 4]  # one image for the shapes, then pairs; the last four are computed once more
    for block in (1, 3):
        assert torch.allclose(whole[block].float(), continued[block].float(), atol=2e-3)


def test_maps_that_do_not_fit_the_disk_are_not_stored(stores, tmp_path, monkeypatch, capsys):
    arguments = (frozen(build_backbone("vit_plain", 32)), stores[0], [3], 32, tmp_path, {})
    maps, _ = cached_maps(*arguments)
    (file,) = tmp_path.glob("*.npy")
    begun = file.with_suffix(".npy.part")
    for free in (1000, maps[3].nbytes - 16):  # nothing would be left for the heads
        file.rename(begun) if file.exists() else begun.write_bytes(b"begun")
        monkeypatch.setattr(
            "shutil.disk_usage", lambda folder, free=free: type("Usage", (), {"free": free - begun.stat().st_size})
        )
        assert cached_maps(*arguments) is None
        assert "computed anew for each batch" in capsys.readouterr().err and not begun.exists()


def test_learning_rates_by_layer():
    task = make_task(head="linear", finetune=True, backbone_lr_scale=0.1, layer_decay=0.5)
    rates = {id(p): group["lr_scale"] for group in task.parameter_groups() for p in group["params"]}
    backbone = task.backbone
    assert rates[id(task.head.classifier.weight)] == 1
    assert rates[id(backbone.norm.weight)] == pytest.approx(0.1)  # after the last block: the top layer
    assert rates[id(backbone.blocks[3].mlp.fc1.weight)] == pytest.approx(0.1)
    assert rates[id(backbone.blocks[0].mlp.fc1.weight)] == pytest.approx(0.1 / 8)
    assert rates[id(backbone.pos_embed)] == rates[id(backbone.patch_embed.proj.weight)] == pytest.approx(0.1 / 16)
    assert len(rates) == len(list(task.parameters()))
    fixed = {id(p) for group in task.parameter_groups() if group.get("weight_decay") == 0 for p in group["params"]}
    assert fixed == {id(p) for name, p in task.named_parameters() if p.ndim == 1 or name.endswith(".bias")}

    resnet = make_task("resnet18", head="linear", finetune=True, layer_decay=0.5, backbone_lr_scale=1.0)
    rates = {id(p): group["lr_scale"] for group in resnet.parameter_groups() for p in group["params"]}
    assert rates[id(resnet.backbone.conv1.weight)] == 1 / 16
    assert rates[id(resnet.backbone.layer1[0].conv1.weight)] == 1 / 8
    assert rates[id(resnet.backbone.layer4[0].conv1.weight)] == 1


def test_a_frozen_backbone_has_no_parameter_group():
    task = make_task(head="linear")
    assert {id(p) for group in task.parameter_groups() for p in group["params"]} == {
        id(p) for p in task.head.parameters()
    }


def test_auxiliary_heads_add_their_losses(stores):
    (pixels,), mask = image_samples(stores[0], WHOLE)(0, 0)
    batch = ViewBatch([pixels[None]], mask[None])
    plain, more = make_task(head="linear").eval(), make_task(head="linear", auxiliary=0.4).eval()
    more.head.load_state_dict(plain.head.state_dict())
    more.backbone.load_state_dict(plain.backbone.state_dict())
    maps = more.backbone.maps(batch.views[0], more.auxiliary_blocks)
    others = [more._loss(head([m], (32, 32)), batch.labels) for head, m in zip(more.auxiliary, maps, strict=True)]
    assert len(others) == 3
    assert more(batch).loss.item() == pytest.approx(plain(batch).loss.item() + 0.4 * sum(others).item(), rel=1e-5)


def test_fewer_images_than_a_batch(stores):
    with pytest.raises(UserError, match="--batch_size 8 or less"):
        SegmentationBatches(stores[0], image_samples(stores[0], WHOLE), make_config("x", batch_size=16), CPU)
