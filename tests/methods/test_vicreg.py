"""VICReg's three terms against plain loops in double precision."""

import math

import pytest
import torch

from common.errors import UsageError, UserError
from methods.vicreg import VICRegConfig


def plain(first, second):
    """Invariance, variance and covariance of two crops' projections, lists of rows."""
    n, d = len(first), len(first[0])
    invariance = sum((first[b][i] - second[b][i]) ** 2 for b in range(n) for i in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (first, second):
        mean = [sum(row[i] for row in z) / n for i in range(d)]
        for i in range(d):
            for j in range(d):
                c = sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in z) / (n - 1)
                if i == j:
                    variance += max(0.0, 1 - math.sqrt(c + 1e-4)) / d / 2
                else:
                    covariance += c**2 / d
    return invariance, variance, covariance


def test_loss(make_method):
    method = make_method("vicreg", sim_coeff=25.0, std_coeff=10.0, cov_coeff=3.0)
    generator = torch.Generator().manual_seed(0)
    # Features of spreads below and above 1, and correlated.
    z1 = torch.randn(9, 7, generator=generator) * torch.linspace(0.2, 2, 7) + 5
    z1[:, 1] += z1[:, 6]
    z2 = z1 + 0.3 * torch.randn(9, 7, generator=generator)
    loss, metrics = method.loss(z1, z2)
    expected = plain(z1.double().tolist(), z2.double().tolist())
    assert [value.item() for value in metrics.values()] == pytest.approx(expected, rel=1e-4)
    assert list(metrics) == ["invariance", "variance", "covariance"] and min(expected) > 0.01
    assert loss.item() == pytest.approx(25 * expected[0] + 10 * expected[1] + 3 * expected[2], rel=1e-4)


def test_one_feature_has_no_covariance(make_method):
    _, metrics = make_method("vicreg").loss(torch.randn(4, 1), torch.randn(4, 1))
    assert metrics["covariance"] == 0


def test_collapse_costs(make_method):
    """Equal projections of all images: the standard deviations lack nearly all of 1, with a gradient that is finite."""
    z = torch.ones(6, 4, requires_grad=True)
    loss, metrics = make_method("vicreg").loss(z, z)
    loss.backward()
    assert metrics["variance"].item() == pytest.approx(0.99, abs=1e-6) and z.grad.isfinite().all()


def test_wrong_use(make_method, make_batch):
    method = make_method("vicreg", backbone="linear")
    with pytest.raises(UserError, match="at least 2 images"):
        method.loss(torch.ones(1, 4), torch.ones(1, 4))
    for options in ({"sim_coeff": -1.0}, {"cov_coeff": -1.0}, {"projector": "0"}):
        with pytest.raises(UsageError, match=f"--{next(iter(options))}"):
            VICRegConfig(**options)
