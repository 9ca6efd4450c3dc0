import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eval.core.probe import Heads, _near, head_scores, held_out, quality, scaler, train_heads


def data(seed=0, n=64, width=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator), torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_heads_equal_classifiers_trained_one_by_one_by_torch(multi_label, masked):
    x, y = data()
    y = F.one_hot(y, 4).float() if multi_label else y
    used = torch.rand(64, 3, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
    rates, factors = [0.01, 0.3, 2.0], [1.0, 0.7, 0.2, 0.05]
    heads = Heads(5, 4, rates, torch.device("cpu"), weight_decay=0.02, multi_label=multi_label, seed=3)
    first = heads.weight_DMC.clone()
    losses = [heads.step(x, y, factor, used) for factor in factors]
    assert 0.005 < first.std() < 0.02
    for head, rate in enumerate(rates):
        layer = nn.Linear(5, 4)
        with torch.no_grad():
            layer.weight.copy_(first[:, head].T)
            layer.bias.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9, weight_decay=0.02)
        rows = used[:, head] if masked else slice(None)
        for step, factor in enumerate(factors):
            optimizer.param_groups[0]["lr"] = rate * factor
            logits = layer(x[rows])
            loss = (
                F.binary_cross_entropy_with_logits(logits, y[rows]) if multi_label else F.cross_entropy(logits, y[rows])
            )
            assert losses[step][head].item() == pytest.approx(loss.item(), rel=1e-5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(heads.weight_DMC[:, head], layer.weight.detach().T, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(heads.bias_MC[head], layer.bias.detach(), rtol=1e-4, atol=1e-6)


def test_a_diverging_head_harms_no_other():
    x, y = data()
    alone, beside = Heads(5, 4, [0.1], torch.device("cpu")), Heads(5, 4, [0.1, 1e300], torch.device("cpu"))
    for heads in (alone, beside):
        train_heads(heads, x, y, 5, 16, 0, "")
    torch.testing.assert_close(alone.weight_DMC[:, 0], beside.weight_DMC[:, 0])
    assert quality(head_scores(beside, x, 1), y) == -1
    assert quality(head_scores(beside, x, 0), y) > 0


def test_some_rows_are_trained_on_as_a_copy_of_them_is():
    x, y = data()
    rows = torch.arange(0, len(x), 3)
    copied, chosen = Heads(5, 4, [0.1], torch.device("cpu")), Heads(5, 4, [0.1], torch.device("cpu"))
    train_heads(copied, x[rows], y[rows], 3, 16, 0, "")
    train_heads(chosen, x, y, 3, 16, 0, "", rows=rows)
    assert torch.equal(copied.weight_DMC, chosen.weight_DMC)


def test_a_separable_problem_is_learned():
    x, _ = data(n=600, width=10)
    y = x[:, :4].argmax(1)
    heads = Heads(10, 4, [0.3], torch.device("cpu"))
    train_heads(heads, x, y, 40, 64, 0, "")
    assert quality(head_scores(heads, x, 0), y) > 0.97


@pytest.mark.parametrize(("size", "fits"), [(65, True), (66, False)])
def test_features_go_to_a_gpu_where_half_of_its_free_memory_holds_them(monkeypatch, size, fits):
    memory = {"mem_get_info": (100, 1000), "memory_reserved": 50, "memory_allocated": 20}
    for name, value in memory.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda device, value=value: value)
    features = SimpleNamespace(nbytes=size, to=lambda device: "there")
    assert _near(features, torch.device("cuda")) == ("there" if fits else features)


def test_learning_rates_follow_half_a_cosine_over_all_steps(monkeypatch):
    factors = []
    monkeypatch.setattr(Heads, "step", lambda self, x, y, factor: factors.append((factor, len(x))))
    x, y = data(n=10)
    train_heads(Heads(5, 4, [1.0], torch.device("cpu")), x, y, 3, 4, 0, "")
    assert [size for _, size in factors] == [4, 4, 2] * 3
    expected = [0.5 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert [factor for factor, _ in factors] == pytest.approx(expected)


def test_held_out_is_stratified_and_a_function_of_the_seed():
    labels = torch.tensor([0] * 100 + [1] * 40 + [2] * 10)[
        torch.randperm(150, generator=torch.Generator().manual_seed(0))
    ]
    for seed in range(20):
        chosen = held_out(labels, 0.1, seed)
        counts = np.bincount(labels.numpy()[chosen], minlength=3)
        assert (np.abs(counts - [10, 4, 1]) <= 1).all()
        assert (chosen == held_out(labels, 0.1, seed)).all()
    assert (held_out(labels, 0.1, 0) != held_out(labels, 0.1, 1)).any()
    several = torch.rand(80, 3) > 0.5
    assert 7 <= held_out(several.float(), 0.1, 0).sum() <= 9


def test_scaler():
    x, _ = data(n=200)
    x = x * torch.tensor([1.0, 100.0, 1e-3, 2.0, 0.0]) + torch.tensor([0.0, 1e4, 5.0, -3.0, 7.0])
    mean, std = scaler(x)
    torch.testing.assert_close(mean, x.double().mean(0).float())
    torch.testing.assert_close(std[:4], x.double().std(0, correction=0)[:4].float(), rtol=1e-3, atol=0)
    assert std[4] == 1
