import json

import numpy as np
import pytest
import torch

from backbones import build_backbone
from common.errors import UserError
from eval.features import cache
from eval.features import extract as features
from eval.features.extract import compute_features
from training.machine.devices import autocast


def calls_of(monkeypatch, context):
    """Counts the images that pass through the backbone."""
    seen = []
    original = features.compute_features

    def counted(backbone, images, kinds):
        seen.append(len(images))
        return original(backbone, images, kinds)

    monkeypatch.setattr(features, "compute_features", counted)
    return seen


def test_kinds():
    torch.manual_seed(0)
    backbone = build_backbone("vit_nano", 16).eval()
    images = torch.randn(3, 3, 16, 16)
    found = compute_features(backbone, images, ["pooled", "last1", "last2", "cls+mean"])
    tokens = backbone.tokens(images, range(backbone.depth))
    for number in (1, 2):
        torch.testing.assert_close(found[f"last{number}"], torch.cat([t[:, 0] for t in tokens[-number:]], 1))
    torch.testing.assert_close(found["cls+mean"], torch.cat([tokens[-1][:, 0], tokens[-1][:, 1:].mean(1)], 1))
    for precision in ("fp32", "bf16"):  # whatever else is asked for in the same pass
        with autocast(torch.device("cpu"), precision):
            alone, beside = (compute_features(backbone, images, kinds)["pooled"] for kinds in (["pooled"], found))
        assert torch.equal(alone, beside)
    with pytest.raises(UserError, match="choose a ViT"):
        compute_features(build_backbone("resnet18", 32), images, ["last2"])
    with pytest.raises(UserError, match="block -3"):
        compute_features(backbone, images, ["last3"])


def test_extracted_once_and_equal_to_a_direct_pass(make_test_context, monkeypatch):
    context = make_test_context()
    seen = calls_of(monkeypatch, context)
    context.prepare("train", ["pooled", "last2"])
    assert sum(seen) == len(context.train)
    train = context.features("train", "pooled")
    assert sum(seen) == len(context.train)
    again = make_test_context()
    assert (again.features("train", "pooled") == train).all()
    torch.testing.assert_close(again.features("train", "last2")[:, -train.shape[1] :], train)
    assert sum(seen) == len(context.train)

    from data.views.central import eval_images

    with torch.no_grad():
        direct = context.backbone(eval_images(context.train.batch(np.arange(5)), 16))
    torch.testing.assert_close(train[:5], direct)


def test_other_weights_data_or_sizes_have_other_files(make_test_context, monkeypatch):
    context, other = make_test_context(), make_test_context(seed=1)
    seen = calls_of(monkeypatch, context)
    first, second = context.features("test"), other.features("test")
    assert not torch.equal(first, second)
    larger = make_test_context()
    larger.image_size = 20
    assert not torch.equal(larger.features("test"), first)
    assert sum(seen) == 3 * len(context.test)


@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "no checksum", "other rows"])
def test_damaged_files_are_rebuilt(make_test_context, monkeypatch, damage):
    context = make_test_context()
    whole = context.features("test").clone()
    (file,) = (context.run_dir / "features").glob("*.npy")
    content = bytearray(file.read_bytes())
    if damage == "cut short":
        file.write_bytes(content[:-100])
    elif damage == "a bit flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "no checksum":
        file.with_suffix(".json").unlink()
    else:
        np.save(file, whole.numpy()[:-1])
        file.with_suffix(".json").write_text(json.dumps({"crc32": __import__("zlib").crc32(file.read_bytes())}))
    again = make_test_context()
    seen = calls_of(monkeypatch, again)
    assert (again.features("test") == whole).all()
    assert sum(seen) == len(context.test)


class Stop(Exception):
    pass


def test_an_extraction_killed_at_its_end_computes_nothing_again(make_test_context, monkeypatch):
    """All rows are there, and the file has not got its name."""
    expected = make_test_context(out="whole").features("test").clone()

    def stops(self):
        self.commit()
        raise Stop

    context = make_test_context()
    with monkeypatch.context() as patch:
        patch.setattr(cache.ArrayCache, "finish", stops)
        with pytest.raises(Stop):
            context.features("test")
    again = make_test_context()
    seen = calls_of(monkeypatch, again)
    assert torch.equal(again.features("test"), expected) and not seen


@pytest.mark.parametrize("damage", [None, "lost bytes", "other bytes"])
def test_an_interrupted_extraction_continues(make_test_context, monkeypatch, damage):
    whole = make_test_context(out="whole")
    expected = whole.features("train", "last2").clone()

    monkeypatch.setattr(cache, "COMMIT_EVERY", 0)
    monkeypatch.setattr(features, "PIXELS", 16 * 16**2)
    context = make_test_context()
    original = features.compute_features
    done = []

    def stops(backbone, images, kinds):
        if sum(done) >= 48:
            raise Stop
        done.append(len(images))
        return original(backbone, images, kinds)

    monkeypatch.setattr(features, "compute_features", stops)
    with pytest.raises(Stop):
        context.features("train", "last2")
    (part,) = (context.run_dir / "features").glob("*.part")
    content = bytearray(part.read_bytes())
    if damage == "lost bytes":
        part.write_bytes(content[:-10])
    elif damage == "other bytes":
        content[-10] ^= 1
        part.write_bytes(content)
    elif damage is None:
        part.write_bytes(content + b"not committed")

    monkeypatch.setattr(features, "compute_features", original)
    again = make_test_context()
    seen = calls_of(monkeypatch, again)
    torch.testing.assert_close(again.features("train", "last2"), expected)
    assert sum(seen) == len(context.train) - (48 if damage is None else 0)
    assert {path.suffix for path in (context.run_dir / "features").iterdir()} == {".npy", ".json"}
    assert len(list((context.run_dir / "features").iterdir())) == 2


def test_features_that_are_not_finite_are_refused(make_test_context):
    context = make_test_context()
    with torch.no_grad():
        context.backbone.norm.bias[3] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        context.features("test")


def test_weights_hash_tells_weights_apart(make_test_context):
    one, same, other = make_test_context(), make_test_context(), make_test_context(seed=1)
    assert one.weights_hash == same.weights_hash != other.weights_hash
    with torch.no_grad():
        same.backbone.cls_token[0, 0, 0] += 1e-6
    del same.weights_hash
    assert one.weights_hash != same.weights_hash


def test_bf16_is_near_fp32(make_test_context):
    context, half = make_test_context(), make_test_context()
    half.precision = "bf16"
    exact, rounded = context.features("test"), half.features("test")
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert torch.cosine_similarity(exact, rounded).min() > 0.999


def test_a_full_disk_is_told_with_the_file_and_leaves_what_was_written(tmp_path, monkeypatch):
    caches = [cache.ArrayCache(tmp_path / name, 6) for name in ("a.npy", "b.npy")]
    full = [False]

    class Disk(cache.Pieces):
        def write(self, content):
            if full[0]:
                raise OSError(28, "No space left on device")
            return super().write(content)

    def batches(done):
        for row in range(done, 6, 2):
            yield [np.full((2, 3), row, np.float32)] * 2
            full[0] = row == 0  # the next one is not written

    monkeypatch.setattr(cache, "Pieces", Disk)
    monkeypatch.setattr(cache, "COMMIT_EVERY", 0)
    with pytest.raises(OSError, match="No space left") as error:
        cache.fill(caches, batches)
    assert error.value.filename == str(caches[0].part)
    assert all(one._file.closed and one.resume() == 2 for one in caches)
    full[0] = None
    cache.fill(caches, lambda done: ([np.full((2, 3), row, np.float32)] * 2 for row in range(done, 6, 2)))
    assert caches[1].load()[:, 0].tolist() == [0, 0, 2, 2, 4, 4]
