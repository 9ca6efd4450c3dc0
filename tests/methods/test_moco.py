"""The losses of MoCo v2 and v3 against plain loops in double precision, the queue, and the key encoders."""

import math

import pytest
import torch
import torch.nn.functional as F

from common.errors import UsageError
from methods.core.base import METHODS, Progress
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
        method.after_step(Progress(step, 5, 2))
        for value, wanted in zip(method.key_encoder.backbone.parameters(), expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-7)
    assert not any(p.requires_grad for p in method.key_encoder.parameters())


def test_frozen_patch_embedding(make_method):
    for frozen in (True, False):
        method = make_method("mocov3", backbone="vit_nano", freeze_patch_embedding=frozen)
        trained = {name for name, p in method.backbone.named_parameters() if p.requires_grad}
        assert any("patch_embed" in name for name in trained) != frozen
        assert any("block" in name for name in trained)


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
