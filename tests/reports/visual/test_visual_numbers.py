"""The numbers behind the pictures: attention, receptive fields, features."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from backbones import build_backbone
from backbones.base import Backbone
from backbones.vit import VisionTransformer
from common.errors import UserError
from reports.visual import attention, collapse, embedding, neighbours, pca, receptive_field
from reports.visual.core import images as pictures
from rundir.read import Run

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


# Signs of collapse


def test_ranks_of_features_and_of_projections_are_two_curves():
    steps = [{"kind": "step", "step": step, "effective_rank": 40.0 + step} for step in (1, 2, 3)]
    features = [{"kind": "diagnostics", "step": step, "effective_rank": 20.0} for step in (0, 3)]
    run = Run(Path("run"), {}, steps=steps, diagnostics=[*steps, *features])

    def curve(run, key):
        return [record[key] for record in collapse.records_with(run, key)]

    assert curve(run, "effective_rank") == [20.0, 20.0] and curve(run, "projection_rank") == [41.0, 42.0, 43.0]
    online = Run(Path("run"), {}, steps=steps, diagnostics=[*steps, features[0]])
    assert curve(online, "effective_rank") == [20.0]
    only_steps = Run(Path("run"), {}, steps=steps, diagnostics=steps)
    assert curve(only_steps, "effective_rank") == [] and len(curve(only_steps, "projection_rank")) == 3
