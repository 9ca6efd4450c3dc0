"""SwAV's loss against plain loops in double precision, and its prototypes."""

import math

import pytest
import torch

from common.errors import UsageError
from methods.core.base import Progress
from methods.swav import SwAV, SwAVConfig


def assignments(scores, epsilon, iterations):
    """The paper's listing 1 in plain loops: ``Q[k][b]`` is normalised over samples, then over prototypes, by turns."""
    n, prototypes = len(scores), len(scores[0])
    q = [[math.exp(scores[b][k] / epsilon) for b in range(n)] for k in range(prototypes)]
    for _ in range(iterations):
        q = [[x / sum(row) / prototypes for x in row] for row in q]
        totals = [sum(q[k][b] for k in range(prototypes)) for b in range(n)]
        q = [[x / totals[b] / n for b, x in enumerate(row)] for row in q]
    return [[q[k][b] * n for k in range(prototypes)] for b in range(n)]


@pytest.mark.parametrize("iterations", [1, 3])
def test_loss(make_method, iterations):
    method = make_method("swav", sinkhorn_iterations=iterations)
    scores = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    views = scores.double().tolist()
    total, pairs = 0.0, 0
    for t in range(2):
        q = assignments(views[t], 0.05, iterations)
        for v in range(4):
            if v == t:
                continue
            pairs += 1
            for target, row in zip(q, views[v], strict=True):
                partition = math.log(sum(math.exp(x / 0.1) for x in row))
                total -= sum(weight * (x / 0.1 - partition) for weight, x in zip(target, row, strict=True)) / len(q)
    assert method.loss(scores).item() == pytest.approx(total / pairs, rel=1e-5)


def test_no_gradient_through_assignments(make_method):
    scores = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)) / 5
    scores.requires_grad_()
    make_method("swav").loss(scores).backward()
    # Of a cross-entropy whose targets sum to 1, the gradient of each row sums to 0.
    torch.testing.assert_close(scores.grad.sum(-1), torch.zeros(2, 4), rtol=0, atol=1e-6)


def test_prototypes_are_unit_vectors_and_frozen_at_first(make_method, make_batch):
    method = make_method("swav", freeze_prototypes=2)
    weight = method.prototypes.weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(12))
    with torch.no_grad():
        weight.mul_(3.0)
    for step, frozen in ((1, True), (2, False)):
        progress = Progress(step, 5, 2)
        method.before_step(progress)
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(12))
        method.zero_grad()
        method(make_batch(method)).loss.backward()
        method.after_backward(progress)
        assert (weight.grad is None) == frozen


def test_views():
    sizes = [(view.name, view.size, view.scale) for view in SwAV.views(SwAVConfig(), 224)]
    assert sizes[:2] == [("global1", 224, (0.14, 1.0)), ("global2", 224, (0.14, 1.0))]
    assert sizes[2:] == [(f"local{i}", 96, (0.05, 0.14)) for i in range(1, 7)]


def test_training_lowers_the_loss(make_method, train):
    losses = [output.loss.item() for output in train(make_method("swav", backbone="linear"), steps=60, lr=1e-2)]
    assert losses[-1] < 0.6 * losses[0], losses[::10]


@pytest.mark.parametrize("options", [{"prototypes": 0}, {"epsilon": 0.0}, {"freeze_prototypes": -1}, {"local_size": 0}])
def test_wrong_options(options):
    with pytest.raises(UsageError, match=f"--{next(iter(options))}"):
        SwAVConfig(**options)
