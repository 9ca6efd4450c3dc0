"""SimCLR's and SupCon's losses against plain loops in double precision."""

import math

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from pytorch_metric_learning.reducers import MeanReducer

from common.errors import UsageError, UserError
from methods.core.base import METHODS, ViewBatch


def views(images, seed=0, width=16):
    """Projections: first views of all images, then the second."""
    return torch.randn(2 * images, width, generator=torch.Generator().manual_seed(seed))


def plain(z, temperature, alike):
    """Mean over views i of ``-1 / |P(i)| · Σ_{p in P(i)} log(exp(s_ip / T) / Σ_{a ≠ i} exp(s_ia / T))``; ``alike(a, b)`` says
    whether two images belong together."""
    rows = z.double().tolist()
    count = len(rows) // 2

    def cosine(a, b):
        product = sum(x * y for x, y in zip(a, b, strict=True))
        return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    losses = []
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        scores = {j: math.exp(cosine(row, rows[j]) / temperature) for j in others}
        own = [j for j in others if j % count == i % count or alike(i % count, j % count)]
        losses.append(-sum(math.log(scores[j] / sum(scores.values())) for j in own) / len(own))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_loss(make_method, temperature):
    z, labels = views(7), torch.zeros(7, dtype=torch.int64)  # equal labels, which must not matter
    loss = make_method("simclr", temperature=temperature).contrast(z, labels)
    assert loss.item() == pytest.approx(plain(z, temperature, lambda a, b: False), rel=1e-5)
    # The library's own NT-Xent, which has the same value, with more memory.
    theirs = NTXentLoss(temperature)(z, torch.arange(7).repeat(2))
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 0, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6], [4] * 7])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_loss_and_gradient_equal_the_librarys(make_method, labels, temperature):
    """pytorch-metric-learning's, with every loss in its mean; without any negative it is 0."""
    labels, results = torch.tensor(labels), []
    ours = make_method("supcon", temperature=temperature)
    theirs = SupConLoss(temperature, reducer=MeanReducer())
    for loss_of in (lambda z: ours.contrast(z, labels), lambda z: theirs(z, labels.repeat(2))):
        z = (3 * views(7)).requires_grad_()
        loss = loss_of(z)
        results.append((loss.detach(), torch.autograd.grad(loss, z, allow_unused=True)[0]))
    (loss, gradient), (their_loss, their_gradient) = results
    torch.testing.assert_close(loss, their_loss, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(gradient, their_gradient, rtol=1e-5, atol=1e-8)
    assert (loss == 0) == (len(set(labels.tolist())) == 1)


def test_supcon_loss_of_single_labels(make_method):
    """Two images without a label are alike to none, and not to each other."""
    z, labels = views(8), torch.tensor([0, 1, 0, -1, 2, 1, 0, -1])
    loss = make_method("supcon").contrast(z, labels)
    expected = plain(z, 0.1, lambda a, b: labels[a] == labels[b] >= 0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert abs(expected - plain(z, 0.1, lambda a, b: labels[a] == labels[b])) > 1e-2


def test_supcon_loss_of_several_labels(make_method):
    z = views(5, seed=1)
    labels = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0]]).float()
    sets = [{i for i, on in enumerate(row) if on} for row in labels.tolist()]
    loss = make_method("supcon").contrast(z, labels)
    assert loss.item() == pytest.approx(plain(z, 0.1, lambda a, b: bool(sets[a] & sets[b])), rel=1e-5)


def test_supcon_without_labels_is_simclr(make_method, make_batch):
    simclr, supcon = make_method("simclr"), make_method("supcon")
    supcon.projector = simclr.projector  # they differ in their norms
    batch = make_batch(simclr)
    hidden = ViewBatch(batch.views, torch.full_like(batch.labels, -1))
    expected = simclr(batch).loss
    assert torch.equal(supcon(hidden).loss, expected) and not torch.equal(supcon(batch).loss, expected)


def test_training_tells_images_apart(make_method, train):
    losses = [output.loss.item() for output in train(make_method("simclr"), steps=40, lr=1e-2)]
    assert losses[-1] < 0.25 * losses[0], losses[::10]


def test_wrong_use(make_method, make_batch):
    method = make_method("simclr")
    with pytest.raises(UserError, match="at least 2 images"):
        method(make_batch(method, batch=1))
    with pytest.raises(UsageError, match="SupCon needs labels"):
        make_method("supcon", num_classes=0)
    for options in ({"temperature": 0.0}, {"projector": "12-x"}):
        with pytest.raises(UsageError, match=f"--{next(iter(options))}"):
            METHODS.get("simclr").Config(**options)
