"""The losses of MoCo v2 and v3 against plain loops in double precision, the queue, and the key encoders."""

import math

import pytest
import torch
import torch.nn.functional as F

from common.errors import UsageError
from methods.core.base import METHODS, Progress, ViewBatch
from training.batches import split


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(queries, keys, negatives, temperature):
    """Mean of ``-log(exp(q·k₊ / T) / Σ exp(q·k / T))`` over the positive and the negatives; all of unit length."""
    losses = []
    for i, query in enumerate(queries.double().tolist()):
        every = [keys.double().tolist()[i], *negatives(i).double().tolist()]
        scores = [sum(a * b for a, b in zip(query, key, strict=True)) / temperature for key in every]
        losses.append(math.log(sum(math.exp(score) for score in scores)) - scores[0])
    return sum(losses) / len(losses)


def test_v2_loss(make_method):
    method = make_method("mocov2", temperature=0.3)
    queries, keys = F.normalize(randn(5, 16)), F.normalize(randn(5, 16, seed=1))
    expected = plain(queries, keys, lambda i: method.queue, 0.3)
    assert method.loss(queries, keys).item() == pytest.approx(expected, rel=1e-5)


def test_v3_loss(make_method):
    method = make_method("mocov3")
    queries, keys = randn(6, 16), randn(6, 16, seed=1)
    unit_queries, unit_keys = F.normalize(queries), F.normalize(keys)
    others = [torch.cat([unit_keys[:i], unit_keys[i + 1 :]]) for i in range(6)]
    expected = 2 * 0.2 * plain(unit_queries, unit_keys, lambda i: others[i], 0.2)
    assert method.contrast(queries, keys).item() == pytest.approx(expected, rel=1e-5)


def test_v3_is_symmetrical(make_method, make_batch):
    method = make_method("mocov3", backbone="linear")
    batch = make_batch(method)
    loss = method(batch).loss
    batch.views.reverse()
    torch.testing.assert_close(method(batch).loss, loss)


def test_the_queue_forgets_the_oldest(make_method):
    method = make_method("mocov2", queue=8)
    assert torch.allclose(method.queue.norm(dim=1), torch.ones(8))
    keys = randn(15, 16, seed=2)
    for start in range(0, 15, 3):
        method.enqueue(keys[start : start + 3])
    rows = {tuple(row) for row in method.queue.tolist()}
    assert rows == {tuple(row) for row in keys[7:].tolist()}


def test_a_batch_larger_than_the_queue(make_method, make_batch):
    method = make_method("mocov2", queue=8)
    parts = split(make_batch(method, batch=10), 2)
    with pytest.raises(UsageError, match="--queue 8 is less than a batch of 10 images"):
        method(parts[0])


def test_a_step_enqueues_its_keys_after_its_loss(make_method, make_batch):
    method = make_method("mocov2", queue=8)
    batch = make_batch(method)
    before = method.queue.clone()
    method(batch)  # as pictures do, without a step: no key of it stays
    method.before_step(Progress(0, 5, 2))
    output = method(batch)
    queries, keys = output.projections
    expected = plain(queries, keys, lambda i: before, 0.2)
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)
    output.loss.backward()
    method.after_step(Progress(0, 5, 2))
    torch.testing.assert_close(method.queue, torch.cat([keys, before[4:]]))


@pytest.mark.parametrize("name, at_start, in_the_middle", [("mocov2", 0.999, 0.999), ("mocov3", 0.99, 0.995)])
def test_key_encoder_follows(make_method, name, at_start, in_the_middle):
    method = make_method(name)
    with torch.no_grad():
        for parameter in (*method.backbone.parameters(), *method.projector.parameters()):
            parameter.add_(1.0)
    for step, momentum in ((0, at_start), (5, in_the_middle)):
        twins = zip(method.backbone.parameters(), method.key_encoder.backbone.parameters(), strict=True)
        expected = [momentum * slow + (1 - momentum) * fast for fast, slow in twins]
        # MoCo v3 follows before it makes keys, MoCo v2, with one momentum throughout, as well after its step.
        (method.before_step if name == "mocov3" else method.after_step)(Progress(step, 5, 2))
        for value, wanted in zip(method.key_encoder.backbone.parameters(), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-7)
    assert not any(p.requires_grad for p in method.key_encoder.parameters())


@pytest.mark.parametrize(
    "backbone", ["vit_nano", "vit_t16", "timm:test_vit", "timm:vit_tiny_r_s16_p8_224", "resnet18_cifar"]
)
@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_are_the_projection_of_patches_and_the_positions(make_method, backbone, frozen):
    """The projection of a ViT's patches is one convolution without overlap; stems of several convolutions are trained."""
    method = make_method("mocov3", backbone, image_size=224, freeze_patch_embedding=frozen)
    kept = {name.removeprefix("model.") for name, p in method.backbone.named_parameters() if not p.requires_grad}
    projection = (
        {"patch_embed.proj.weight", "patch_embed.proj.bias"} if backbone in ("vit_t16", "timm:test_vit") else set()
    )
    positions = {"pos_embed"} if "vit" in backbone else set()
    assert kept == positions | (projection if frozen else set())


@pytest.mark.parametrize(
    ("backbone", "grid", "extra"), [("vit_s16_12heads", 14, 1), ("vit_nano", 8, 1), ("timm:test_vit", 10, 1)]
)
def test_positions_and_initial_weights_of_v3(make_method, backbone, grid, extra):
    """Against plain loops over the two-dimensional sines and cosines, and Glorot's bounds."""
    network = make_method("mocov3", backbone, image_size=160 if "timm" in backbone else 224).backbone.published
    positions = network.pos_embed[0]
    width = positions.shape[1]
    quarter = width // 4
    assert positions.shape[0] == extra + grid**2 and not positions[:extra].any()
    for row, column in ((0, 0), (1, 0), (2, 5), (grid - 1, grid - 2)):
        expected = []
        for place in (row, column):
            for wave in (math.sin, math.cos):
                expected += [wave(place / 10_000 ** (k / quarter)) for k in range(quarter)]
        found = positions[extra + row * grid + column].tolist()
        assert found == pytest.approx(expected, abs=1e-5), (row, column)
    for weight, inputs, outputs in (
        (network.blocks[0].attn.qkv.weight, width, width),
        (network.blocks[0].attn.proj.weight, width, width),
        (network.blocks[-1].mlp.fc1.weight, *network.blocks[-1].mlp.fc1.weight.shape),
    ):
        bound = (6 / (inputs + outputs)) ** 0.5
        assert 0.97 * bound < weight.abs().max() <= bound and weight.std().item() == pytest.approx(
            bound / 3**0.5, rel=0.05
        )
    assert network.cls_token.abs().max() < 1e-5
    if "nano" not in backbone:
        weight = network.patch_embed.proj.weight
        assert 0.97 < weight.abs().max() / (6 / (weight[0].numel() + width)) ** 0.5 <= 1
    assert (network.blocks[0].attn.heads if "heads" in backbone else 12) == 12


def parts_of(changes):
    """Which images belong together, from the images that change with each: a set of frozen sets."""
    return {frozenset(changed) for changed in changes}


@pytest.mark.parametrize(
    ("rows", "splits", "parts"), [(16, 4, 4), (32, 8, 8), (6, 8, 3), (10, 4, 4), (3, 8, 1), (16, 1, 1)]
)
def test_a_query_and_its_key_do_not_share_batch_statistics(make_method, rows, splits, parts):
    """Who shares statistics with whom is measured: a change of one image changes the outputs of its part, and no other's."""
    method = make_method("mocov2", bn_splits=splits, queue=64)
    views = [randn(rows, 3, 8, 8, seed=seed) for seed in (1, 2)]
    labels = torch.zeros(rows, dtype=torch.int64)
    before = method(ViewBatch(views, labels)).projections
    changed = [[], []]
    for image in range(rows):
        for view in (0, 1):
            others = [other.clone() for other in views]
            others[view][image] += randn(3, 8, 8, seed=3)
            after = method(ViewBatch(others, labels)).projections[view]
            changed[view].append({i for i in range(rows) if not torch.equal(after[i], before[view][i])})
    queries, keys = (parts_of(parts) for parts in changed)
    for together in (queries, keys):
        assert len(together) == parts and sum(map(len, together)) == rows
        assert max(map(len, together)) - min(map(len, together)) <= 1 and min(map(len, together)) >= min(2, rows)
    # As many of the images that an image is with as a query are with it as a key as chance would leave, at most.
    common = max(len(changed[0][image] & changed[1][image]) for image in range(rows))
    assert common <= -(-rows // parts**2)


def test_parts_change_nothing_without_batchnorm(make_method, make_batch):
    losses = [
        method(make_batch(method)).loss for method in (make_method("mocov2", "linear", bn_splits=n) for n in (1, 2))
    ]
    assert torch.equal(*losses)


def test_v3_learns_to_tell_images_apart(make_method, train):
    losses = [output.loss.item() for output in train(make_method("mocov3"), steps=40, lr=1e-2)]
    assert losses[-1] < 0.6 * losses[0], losses[::10]


def test_v2_learns_to_tell_images_apart(make_method, train):
    """The queue holds the last step's keys, of the same eight images, so that log 2 is the least. (The first loss is against
    random directions, and says nothing.)"""
    method = make_method("mocov2", backbone="linear", queue=8, momentum_key=0.9)
    outputs = train(method, steps=40, lr=1e-2)
    assert 0.5 < outputs[-1].loss < 0.6 * outputs[1].loss, [output.loss.item() for output in outputs[::10]]
    queries, keys = outputs[-1].projections
    assert (queries @ keys.T).argmax(1).tolist() == list(range(8))


@pytest.mark.parametrize(
    "name, options",
    [
        ("mocov2", {"queue": 0}),
        ("mocov2", {"momentum_key": -0.1}),
        ("mocov2", {"temperature": 0.0}),
        ("mocov3", {"predictor_dim": 0}),
        ("mocov3", {"projector": "a"}),
    ],
)
def test_wrong_options(name, options):
    with pytest.raises(UsageError, match=f"--{next(iter(options))}"):
        METHODS.get(name).Config(**options)
