"""BYOL's loss against plain loops in double precision, and its target."""

import math

import pytest
import torch

from common.errors import UsageError
from methods.byol import BYOLConfig, distance
from methods.core.base import Progress


def test_distance_is_that_of_unit_vectors():
    generator = torch.Generator().manual_seed(0)
    p, t = torch.randn(5, 8, generator=generator), torch.randn(5, 8, generator=generator)
    total = 0.0
    for a, b in zip(p.double().tolist(), t.double().tolist(), strict=True):
        length_a, length_b = (math.sqrt(sum(x * x for x in row)) for row in (a, b))
        total += sum((x / length_a - y / length_b) ** 2 for x, y in zip(a, b, strict=True))
    assert distance(p, t).item() == pytest.approx(total / 5, rel=1e-5)


def test_loss_is_of_both_views_swapped(make_method, make_batch):
    method = make_method("byol")
    with torch.no_grad():  # a target unlike the online network
        for parameter in method.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = make_batch(method)
    online = [method.predictor(method.projector(method.backbone(view))).double() for view in batch.views]
    target = [method.target.projector(method.target.backbone(view)).double() for view in batch.views]
    expected = 0.0
    for p, t in ((online[0], target[1]), (online[1], target[0])):
        for a, b in zip(p, t, strict=True):
            expected += (((a / a.norm()) - (b / b.norm())) ** 2).sum().item() / len(p)
    assert method(batch).loss.item() == pytest.approx(expected, rel=1e-4)


def test_target_follows_and_has_no_gradient(make_method, make_batch):
    method = make_method("byol")
    twins = zip(method.backbone.parameters(), method.target.backbone.parameters(), strict=True)
    assert all(torch.equal(online, target) for online, target in twins)
    method(make_batch(method)).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in method.target.parameters())
    with torch.no_grad():
        for parameter in (*method.backbone.parameters(), *method.projector.parameters()):
            parameter.add_(1.0)
    before = [p.clone() for p in method.target.parameters()]
    step, total = 3, 10
    method.after_step(Progress(step, 5, 2))
    # The paper's section 3.2: τ = 1 - (1 - τ_base) · (cos(π k / K) + 1) / 2.
    momentum = 1 - (1 - 0.996) * (math.cos(math.pi * step / total) + 1) / 2
    for old, new in zip(before, method.target.parameters(), strict=True):
        torch.testing.assert_close(new, old + (1 - momentum), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"momentum_target": 1.5}, {"predictor_dim": 0}, {"projector": ""}])
def test_wrong_options(options):
    with pytest.raises(UsageError, match=f"--{next(iter(options))}"):
        BYOLConfig(**options)
