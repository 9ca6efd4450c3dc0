import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from eval.attention_jaccard import AttentionJaccardConfig, best_jaccard
from eval.core.run import run_evaluations
from reports.analysis.columns import columns_of


def test_best_head_of_each_object_void_left_out():
    objects = torch.zeros(4, 6, dtype=torch.uint8)
    objects[:2, :2], objects[2:, 4:], objects[0, 5] = 1, 2, 255
    masks = torch.zeros(2, 4, 6, dtype=torch.bool)
    masks[0, :2, :3] = True  # 4 of the first object's 4 pixels, and 2 more
    masks[1, 2:, 4:] = True  # the second object, exactly, and a void pixel
    masks[1, 0, 5] = True
    assert best_jaccard(masks, objects) == pytest.approx((4 / 6 + 1) / 2)
    assert np.isnan(best_jaccard(masks, torch.full((4, 6), 255, dtype=torch.uint8)))


def measure(context, **options):
    configs = {"attention_jaccard": AttentionJaccardConfig(**options)}
    return run_evaluations(["attention_jaccard"], configs, context, again=True)


def test_equals_a_loop(make_context):
    context = make_context()
    (found,) = measure(context)
    values = []
    for image in range(len(context.test)):
        pixels = torch.tensor(context.test.original_image(image)).permute(2, 0, 1)
        mask = context.test.mask(image)
        scale = 32 / max(mask.shape)
        rows, columns = (round(round(side * scale) / 4) for side in mask.shape)
        from common.images import normalise
        from data.views.dense import resize_image

        inputs = normalise(resize_image(pixels, (4 * rows, 4 * columns)))[None]
        with torch.no_grad():
            attention = context.backbone.cls_attention(inputs)[0, :, 1:].reshape(-1, rows, columns).numpy()
        best = []
        for value in sorted(set(np.unique(mask)) - {0, 255}):
            of_heads = []
            for head in attention:
                order = np.argsort(-head.ravel(), kind="stable")
                count = np.searchsorted(np.cumsum(head.ravel()[order]) / head.sum(), 0.6) + 1
                small = np.zeros(head.size, bool)
                small[order[:count]] = True
                y = ((np.arange(mask.shape[0]) + 0.5) * rows / mask.shape[0]).astype(int)
                x = ((np.arange(mask.shape[1]) + 0.5) * columns / mask.shape[1]).astype(int)
                big = small.reshape(rows, columns)[y][:, x] & (mask != 255)
                of_heads.append((big & (mask == value)).sum() / (big | (mask == value)).sum())
            best.append(max(of_heads))
        values.append(np.mean(best))
    assert found.value == pytest.approx(100 * np.mean(values), abs=0.5)
    assert found.low <= found.value <= found.high and found.n == 5
    assert found.protocol["objects"].startswith("all pixels of a class")


def test_instances_where_every_image_has_them(make_context, monkeypatch, tmp_path):
    context = make_context()
    (by_class,) = measure(context)
    folder = tmp_path / "copy"
    (folder / "SegmentationObject").mkdir(parents=True)
    for image, name in enumerate(context.test.names):
        instances = np.zeros_like(context.test.mask(image))
        instances[:8, :8], instances[16:24, 16:24] = 1, 2
        file = folder / "SegmentationObject" / f"{name.split('/')[1][:-4]}.png"
        Image.fromarray(instances).save(file)
    monkeypatch.setattr(type(context.test), "root", folder)
    (found,) = measure(context)
    assert found.protocol["objects"] == "instances" and found.value != by_class.value
    file.unlink()
    assert measure(context)[0].protocol["objects"].startswith("all pixels of a class")
    names = [column.metric_name for column in columns_of([[[by_class]], [[found]]])]
    assert names == ["Jaccard", "Jaccard (objects all pixels of a class in an image)"]
    Image.new("RGB", (3, 3)).save(file)
    with pytest.raises(UserError, match="the mask is a RGB image"):
        measure(context)


def test_a_resnet_has_no_attention(make_context):
    with pytest.raises(UserError, match="resnet18 has no CLS attention"):
        measure(make_context("resnet18"))


def test_a_mass_out_of_range(make_context):
    with pytest.raises(UserError, match="mass"):
        measure(make_context(), mass=0.0)
