"""Copy detection on tiny data in the layout of Copydays."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.statistics.retrieval_map import trapezoid_precision
from eval.copydays import CopydaysConfig, CopyDetection, Whitening, descriptors
from eval.core.context import EvalContext, make_context
from eval.core.options import WeightsOptions
from eval.core.run import run_evaluations


def photo(seed: int, noise: float = 0.0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3))
    pixels = np.kron(coarse, np.ones((10, 10, 1))) + np.random.default_rng(seed + 1000).normal(0, noise, (40, 50, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "copydays"
    for folder in ("original", "strong", "whitening", "distractors"):
        (root / folder).mkdir(parents=True)
    for i in range(6):
        photo(i).save(root / "original" / f"{2000 + i}00.jpg")
        for copy in range(1 + i % 2):
            photo(i, noise=60).save(root / "strong" / f"{2000 + i}{copy + 1:02d}.jpg")
    photo(7).save(root / "original" / "200503.jpg")  # a second one that belongs to 2005
    for i in range(40):
        photo(100 + i).save(root / "whitening" / f"{i}.png")
    for i in range(30):
        photo(200 + i).save(root / "distractors" / f"{i}.jpeg")
    return root


@pytest.fixture
def context(root: Path, tmp_path: Path) -> EvalContext:
    return make_context(
        WeightsOptions(
            backbone="vit_nano",
            data="copydays",
            data_root=str(root),
            image_size=32,
            device="cpu",
            precision="fp32",
            out=tmp_path / "run",
        )
    )


def test_descriptors_equal_their_definition():
    tokens = torch.randn(2, 10, 6)
    found = descriptors(tokens).numpy()
    for image, row in zip(tokens.numpy().astype(np.float64), found, strict=True):
        np.testing.assert_allclose(row[:6], image[0], rtol=1e-6)
        np.testing.assert_allclose(row[6:], np.mean(np.maximum(image[1:], 1e-6) ** 4, axis=0) ** 0.25, rtol=1e-5)


def test_whitening_equals_its_formula():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 8)) @ rng.normal(size=(8, 8)) + 3
    features[:, 7] = features[:, 6]  # a direction without any energy, whose eigenvalue is raised
    others = rng.normal(size=(9, 8))
    found = Whitening(torch.from_numpy(features))(torch.from_numpy(others)).numpy()
    _, singular, vt = np.linalg.svd(features / np.sqrt(50), full_matrices=False)
    values = np.maximum(singular**2, 1e-5 * singular[0] ** 2)
    expected = (others - features.mean(0)) @ vt.T / np.sqrt(values)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-6)  # whatever the axes' order and signs
    whitened = Whitening(torch.from_numpy(features[:, :7]))
    moved = (whitened(torch.from_numpy(features[:, :7])) + whitened.mean @ whitened.matrix).numpy()
    np.testing.assert_allclose(moved.T @ moved / 50, np.eye(7), atol=1e-8)


def by_hand(context, root, size, whitening, distractors):
    """The authors' program with numpy."""
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def features(folder):
        rows = []
        for file in sorted((root / folder).iterdir()):
            image = Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
            pixels = (np.asarray(image).transpose(2, 0, 1) / 255 - mean) / std
            with torch.inference_mode():
                tokens = context.backbone.tokens(torch.tensor(pixels[None]).float())[0][0].double().numpy()
            rows.append(np.concatenate([tokens[0], np.mean(tokens[1:].clip(1e-6) ** 4, axis=0) ** 0.25]))
        return np.stack(rows)

    database, queries = features("original"), features("strong")
    if distractors:
        database = np.concatenate([database, features("distractors")])
    if whitening:
        learnt = features("whitening")
        values, vectors = np.linalg.eigh(learnt.T @ learnt / len(learnt))
        values[values < 1e-5 * values.max()] = 1e-5 * values.max()
        projection = np.diag(values**-0.5) @ vectors.T
        database, queries = ((x - learnt.mean(0)) @ projection.T for x in (database, queries))
    database, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (database, queries))
    originals = sorted(file.name for file in (root / "original").iterdir())
    precisions = []
    for name, row in zip(sorted(file.name for file in (root / "strong").iterdir()), queries @ database.T, strict=True):
        positives = [place for place, other in enumerate(originals) if other[:4] == name[:4]]
        ranks = [rank for rank, place in enumerate(np.argsort(-row)[:20]) if place in positives]
        area = 0.0
        for found, rank in enumerate(ranks):
            area += ((found / rank if rank else 1.0) + (found + 1) / (rank + 1)) / 2 / len(positives)
        precisions.append(area)
    return precisions


@pytest.mark.parametrize("whitening, distractors", [(True, True), (True, False), (False, True), (False, False)])
def test_equals_the_definition(context, root, whitening, distractors):
    config = CopydaysConfig(
        size=32,
        whitening=str(root / "whitening") if whitening else None,
        distractors=str(root / "distractors") if distractors else None,
    )
    (m,) = run_evaluations(["copydays"], {"copydays": config}, context)
    expected = by_hand(context, root, 32, whitening, distractors)
    assert m.value == pytest.approx(100 * np.mean(expected), abs=1e-3)
    assert (m.metric, m.n) == ("map_strong", 9)
    assert m.protocol["whitening"].startswith("40 images" if whitening else "none")
    with np.load(context.run_dir / m.predictions) as arrays:
        np.testing.assert_allclose(arrays["map_strong"], expected, atol=1e-5)


def test_other_distractors_are_another_request(context, root, capsys):
    config = CopydaysConfig(size=32, distractors=str(root / "distractors"))
    first = run_evaluations(["copydays"], {"copydays": config}, context)
    assert "no --copydays_whitening, so this is not the published protocol" in capsys.readouterr().err
    assert run_evaluations(["copydays"], {"copydays": config}, context) == first
    shutil.copy(root / "strong" / "200001.jpg", root / "distractors" / "0.jpeg")
    second = run_evaluations(["copydays"], {"copydays": config}, context)
    assert second[0].request != first[0].request
    assert second[0].value < first[0].value  # what is nearest to that copy is itself now


def test_positives_beyond_the_ranking_add_nothing():
    assert trapezoid_precision(np.array([0]), 2) == 0.5
    assert trapezoid_precision(np.array([], int), 3) == 0
    assert trapezoid_precision(np.array([0, 1]), 2) == 1


def test_what_is_wrong_is_named(context, root, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        run_evaluations(["copydays"], {"copydays": CopydaysConfig(whitening="nowhere")}, context)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no images"):
        CopyDetection(CopydaysConfig(size=32, distractors=str(tmp_path / "empty"))).run(context)
    resnet = make_context(
        WeightsOptions(
            backbone="resnet18",
            data="copydays",
            data_root=str(root),
            image_size=32,
            device="cpu",
            precision="fp32",
            out=tmp_path / "other",
        )
    )
    with pytest.raises(UserError, match="resnet18 has no CLS and patch tokens"):
        CopyDetection(CopydaysConfig(size=32)).run(resnet)
    photo(0).save(root / "strong" / "999901.jpg")
    with pytest.raises(UserError, match=r"999901\.jpg: no file in .* starts with 9999"):
        make_context(
            WeightsOptions(
                backbone="vit_nano",
                data="copydays",
                data_root=str(root),
                image_size=32,
                device="cpu",
                precision="fp32",
                out=tmp_path / "run",
            )
        )
