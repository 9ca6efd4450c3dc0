"""Diagnostics of features that are known, and warnings that come once and only with reason."""

import math

import numpy as np
import pytest
import torch

from training.diagnostics import (
    PATIENCE,
    CollapseWatch,
    alignment,
    cross_correlation,
    effective_rank,
    feature_std,
    summarize_correlation,
    uniformity,
)


def test_effective_rank():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(400, 8, generator=generator)
    assert 7.8 < effective_rank(spread) <= 8
    line = torch.randn(400, 1, generator=generator) * torch.ones(1, 8)
    assert abs(effective_rank(line) - 1) < 1e-3
    assert effective_rank(torch.full((20, 8), 3.7)) == 0
    assert effective_rank(torch.randn(5, 100, generator=generator)) <= 4 + 1e-9
    assert math.isnan(effective_rank(torch.full((3, 3), math.nan)))


def test_spread_alignment_uniformity():
    features = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    assert 0.95 < feature_std(features) < 1.05
    assert feature_std(torch.ones(10, 4)) == 0
    assert alignment(features, 3 * features) < 1e-10
    assert abs(alignment(features, -features) - 4) < 1e-4
    assert uniformity(torch.ones(10, 4)) == 0
    assert -4 < uniformity(features) < -3.5


def test_cross_correlation():
    z = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    z[:, 4] = 2.0  # constant
    expected = np.corrcoef(z[:, :4].T.numpy(), z[:, :4].flip(1).T.numpy())[:4, 4:]
    matrix = cross_correlation(z, z.flip(1))
    np.testing.assert_allclose(matrix[:4, 1:].numpy(), expected, atol=1e-5)
    assert (matrix[4] == 0).all() and (matrix[:, 0] == 0).all()


def test_summary_keeps_true_entries():
    matrix = torch.eye(600) + 0.1 * (1 - torch.eye(600))
    picture, on, off = summarize_correlation(matrix, side=256)
    assert picture.shape == (256, 256) and (np.diag(picture) == 1).all()
    assert abs(on - 1) < 1e-6 and abs(off - 0.1) < 1e-4


def step(number, loss=1.0, **values):
    return {"kind": "step", "step": number, "loss": loss, "effective_rank": 20.0, "rank_limit": 63, **values}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"loss": math.log(1024)}, "flat_loss"),
        ({"effective_rank": 1.2}, "collapse"),
        ({"teacher_information": 0.0}, "collapse"),
    ],
)
def test_a_warning_comes_once_and_after_some_patience(values, name):
    watch = CollapseWatch(1024, warmup_steps=10)
    found = [watch.look(step(11 + i, **values)) for i in range(3 * PATIENCE)]
    assert [bool(f) for f in found].index(True) == PATIENCE - 1
    assert sum(map(len, found)) == 1 and found[PATIENCE - 1][0][0] == name
    assert "What usually helps" in found[PATIENCE - 1][0][1]


def test_no_warning_without_reason():
    watch = CollapseWatch(1024, warmup_steps=10)
    assert not any(watch.look(step(i, loss=math.log(1024))) for i in range(10))  # warm-up
    assert not any(watch.look(step(11 + i, loss=math.log(1024) * (1 + i % 2 / 10))) for i in range(20))
    assert not any(watch.look(step(40 + i, teacher_information=0.3)) for i in range(20))


def test_a_resumed_run_goes_on_counting():
    records = [step(i, effective_rank=1.0) for i in range(PATIENCE - 1)]
    watch = CollapseWatch(None, 0)
    watch.replay(records)
    assert watch.look(step(PATIENCE, effective_rank=1.0))
    watch = CollapseWatch(None, 0)
    watch.replay([*records, step(9, effective_rank=1.0), {"kind": "warning", "step": 9, "name": "collapse"}])
    assert not watch.look(step(10, effective_rank=1.0))
