"""Retrieval on tiny data in the layout of revisited Oxford."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from common.errors import UsageError, UserError
from data.datasets import open_benchmark
from data.sets.core.revisited import _connected
from eval.core.context import EvalContext, make_context
from eval.core.options import WeightsOptions
from eval.core.run import run_evaluations
from eval.revisited import RevisitedConfig, RevisitedRetrieval, multi_scale_features, shrink

COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])
IMAGES = 18


def write_data(root: Path, change=lambda truth: None) -> Path:
    """Images of three colours, of different sizes. A query's box shows its colour, the rest of it another one."""
    rng = np.random.default_rng(0)
    folder = root / "roxford5k"
    (folder / "jpg").mkdir(parents=True)

    def save(name, colour, size, box=None):
        pixels = np.zeros((*size, 3)) + COLOURS[(colour + 1) % 3 if box else colour] + rng.normal(0, 20, (*size, 3))
        if box:
            left, top, right, bottom = box
            pixels[top:bottom, left:right] = COLOURS[colour]
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "jpg" / f"{name}.jpg", quality=95)

    for i in range(IMAGES):
        save(f"image_{i}", i % 3, (30 + i, 44 - i))
    truth = {"imlist": [f"image_{i}" for i in range(IMAGES)], "qimlist": [f"query_{q}" for q in range(3)], "gnd": []}
    for q in range(3):
        save(f"query_{q}", q, (60, 48), (24, 36, 48, 60))
        own = np.arange(q, IMAGES, 3)
        grades = (
            {"easy": own[:2], "hard": own[2:5], "junk": own[5:]}
            if q
            else {"easy": own[:5], "hard": [], "junk": own[5:]}
        )
        truth["gnd"].append({"bbx": [24.0, 36.2, 47.8, 60.0], **grades})
    change(truth)
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(truth, protocol=2))
    return root


@pytest.fixture
def context(tmp_path: Path) -> EvalContext:
    root = write_data(tmp_path)
    return make_context(
        WeightsOptions(
            backbone="vit_nano",
            data="roxford5k",
            data_root=str(root),
            image_size=32,
            device="cpu",
            precision="fp32",
            out=tmp_path / "run",
        )
    )


def features_by_hand(context, file, size, scales, box=None):
    """One image, as the benchmark's and the authors' code prepare it."""
    image = Image.open(file).convert("RGB")
    factor = min(1, size / max(image.size))
    if box is not None:
        image = image.crop([round(float(value)) for value in box])
        size = round(factor * max(image.size))
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    levels = torch.tensor(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    total = 0
    for scale in scales:
        pixels = (levels - mean) / std
        if scale != 1:
            pixels = F.interpolate(pixels, scale_factor=scale, mode="bilinear", align_corners=False)
        height, width = pixels.shape[-2] // 4 * 4, pixels.shape[-1] // 4 * 4
        with torch.inference_mode():
            total += context.backbone(pixels[..., :height, :width])
    total = total / len(scales)
    return F.normalize(total, dim=1)[0].double().numpy()


def map_by_hand(similar, ok, junk):
    """Average precision of each query by trapezoids, an image at a time."""
    result = []
    for query, (wanted, ignored) in enumerate(zip(ok, junk, strict=True)):
        if len(wanted) == 0:
            continue
        area, hits, seen, before = 0.0, 0, 0, 1.0
        for image in np.argsort(-similar[:, query], kind="stable"):
            if image in ignored:
                continue
            if image in wanted:
                hits += 1
                before = (hits - 1) / seen if seen else 1.0
                area += (before + hits / (seen + 1)) / 2 / len(wanted)
            seen += 1
        result.append(area)
    return result


@pytest.mark.parametrize("options", [{}, {"multi_scale": True}, {"whole_queries": True, "size": 20}])
def test_equals_the_definition(context, options):
    config = RevisitedConfig(**{"size": 32, **options})
    found = {m.metric: m for m in RevisitedRetrieval(config).run(context)}
    data = context.test
    scales = (1.0, 2**-0.5, 0.5) if config.multi_scale else (1.0,)
    boxes = [None] * 3 if config.whole_queries else data.boxes
    gallery = np.stack([features_by_hand(context, file, config.size, scales) for file in data.images])
    queries = np.stack(
        [
            features_by_hand(context, file, config.size, scales, box)
            for file, box in zip(data.queries, boxes, strict=True)
        ]
    )
    similar = gallery @ queries.T
    easy, hard, junk = (data.places[grade] for grade in ("easy", "hard", "junk"))
    medium = map_by_hand(similar, [np.concatenate(pair) for pair in zip(easy, hard, strict=True)], junk)
    difficult = map_by_hand(similar, hard, [np.concatenate(pair) for pair in zip(junk, easy, strict=True)])
    assert found["map_medium"].value == pytest.approx(100 * np.mean(medium), abs=1e-4)
    assert found["map_hard"].value == pytest.approx(100 * np.mean(difficult), abs=1e-4)
    assert (found["map_medium"].n, found["map_hard"].n) == (3, 2)
    assert found["map_hard"].protocol["left_out"] == 1
    with np.load(context.run_dir / found["map_hard"].predictions) as arrays:
        np.testing.assert_allclose(arrays["map_hard"], difficult, atol=1e-6)


def test_the_box_is_what_is_searched_for(context):
    config = RevisitedConfig(size=32)
    by_box = {m.metric: m.value for m in run_evaluations(["revisited"], {"revisited": config}, context)}
    whole = RevisitedRetrieval(RevisitedConfig(size=32, whole_queries=True)).run(context)
    assert by_box["map_medium"] > 95
    assert whole[0].value < 80  # most of each query shows what another one searches for


def test_an_interrupted_extraction_continues(context, monkeypatch):
    backbone, calls = context.backbone.forward, []

    def interrupted(images):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return backbone(images)

    evaluation = RevisitedRetrieval(RevisitedConfig(size=32))
    monkeypatch.setattr(context.backbone, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluation.run(context)
    again = evaluation.run(context)
    assert len(calls) == 8 + (IMAGES - 7) + 3
    assert evaluation.run(context) == again
    assert len(calls) == 8 + (IMAGES - 7) + 3  # from the cache


def test_pixels_that_fill_no_patch_are_left_out(context):
    images = torch.randn(1, 3, 30, 41)
    with torch.inference_mode():
        found = multi_scale_features(context.backbone, (1.0,), images)
        torch.testing.assert_close(found, context.backbone(images[..., :28, :40]))
        with pytest.raises(UserError, match="smaller than a patch of 4"):
            multi_scale_features(context.backbone, (1.0,), images[..., :3])
    assert shrink(Image.new("RGB", (100, 50)), 40).size == (40, 20)
    assert shrink(Image.new("RGB", (100, 50)), 400).size == (100, 50)


def drop_hard(truth):
    del truth["gnd"][1]["hard"]


def beyond(truth):
    truth["gnd"][1]["hard"] = [99]


def short(truth):
    truth["gnd"].pop()


def boundless(truth):
    truth["gnd"][0]["bbx"][2] = float("inf")


def unknown(truth):
    truth["imlist"][3] = "nothing"


@pytest.mark.parametrize(
    "change, message",
    [
        (drop_hard, r"gnd_roxford5k\.pkl: no ground truth of roxford5k .*'hard'"),
        (beyond, "numbers and places have to agree"),
        (boundless, "numbers and places have to agree"),
        (short, "3 queries, 2 with ground truth"),
        (unknown, r"nothing\.jpg: missing, one of 1 images"),
    ],
)
def test_wrong_data_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        open_benchmark("roxford5k", write_data(tmp_path, change))


def test_a_box_outside_and_damaged_images(tmp_path):
    def outside(truth):
        truth["gnd"][0]["bbx"] = [100.0, 0.0, 120.0, 20.0]

    root = write_data(tmp_path, outside)
    context = make_context(
        WeightsOptions(
            backbone="vit_nano",
            data="roxford5k",
            data_root=str(root),
            image_size=32,
            device="cpu",
            precision="fp32",
            out=tmp_path / "run",
        )
    )
    evaluation = RevisitedRetrieval(RevisitedConfig(size=32))
    with pytest.raises(UserError, match=r"query_0\.jpg: the box .* lies outside"):
        evaluation.run(context)
    (root / "roxford5k/jpg/image_2.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"image_2\.jpg: no usable image"):
        evaluation.run(context)
    with pytest.raises(UsageError, match="--revisited_size 0"):
        run_evaluations(["revisited"], {"revisited": RevisitedConfig(size=0)}, context)


def test_queries_of_a_landmark_are_one_group():
    """Sets that share a member are linked, directly or through others."""
    sets = [np.array(members, np.int64) for members in ([1, 2], [5], [2, 3], [], [3, 9], [7], [9, 7])]
    assert _connected(sets).tolist() == [0, 1, 0, 3, 0, 0, 0]
