"""DINO's loss against plain loops in double precision, its switches, its teacher, and its collapse."""

import math

import numpy as np
import pytest
import torch

from common.errors import UsageError
from methods.core.base import Progress
from methods.core.multi_crop import agreement, sinkhorn_knopp
from methods.dino import DINO, DINOConfig, DINOLoss, cross_entropy, cross_entropy_by_pairs


def logits(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def pairs(teachers, views):
    return [(t, v) for t in range(teachers) for v in range(views) if t != v]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sinkhorn_by_loops(x, iterations):
    """The paper's pseudo-code, entry by entry."""
    q = np.exp(x)
    for _ in range(iterations):
        for k in range(q.shape[1]):
            q[:, k] /= sum(q[n, k] for n in range(q.shape[0]))
        for n in range(q.shape[0]):
            q[n] /= sum(q[n, k] for k in range(q.shape[1]))
    return q


def loss_by_loops(config, student, teacher, temperature, center):
    """The loss of every pair by itself, in double precision: ``[V, B, K]`` and ``[T, B, K]`` arrays."""
    student, teacher = student.double().numpy(), teacher.double().numpy()
    if config.centering == "center":
        teacher = teacher - center.double().numpy()
    total = 0.0
    if config.centering in ("softmax", "sinkhorn_knopp"):
        iterations = 1 if config.centering == "softmax" else 3
        rows = (teacher / temperature).reshape(-1, teacher.shape[-1])
        targets = sinkhorn_by_loops(rows, iterations).reshape(teacher.shape)
    else:
        targets = softmax(teacher / temperature)
    for t, v in pairs(len(teacher), len(student)):
        for b in range(student.shape[1]):
            if config.loss == "mse":
                p = teacher[t, b] / np.linalg.norm(teacher[t, b])
                q = student[v, b] / np.linalg.norm(student[v, b])
                total += ((p - q) ** 2).sum()
            else:
                total -= (targets[t, b] * np.log(softmax(student[v, b] / config.student_temp))).sum()
    return total / len(pairs(len(teacher), len(student))) / student.shape[1]


@pytest.mark.parametrize(
    ("options", "views"),
    [
        ({}, 5),
        ({}, 2),
        ({"centering": "softmax"}, 4),
        ({"centering": "sinkhorn_knopp"}, 4),
        ({"centering": "none", "student_temp": 0.3}, 3),
        ({"loss": "mse"}, 4),
        ({"loss": "mse", "centering": "none"}, 2),
    ],
)
def test_loss_equals_loops(options, views):
    config = DINOConfig(out_dim=12, **options)
    loss_of = DINOLoss(config)
    center = loss_of.center.clone()
    for call in range(3):  # the centre moves from call to call
        student = logits(views, 4, 12, seed=call)
        teacher = logits(2, 4, 12, seed=10 + call, scale=0.2)
        expected = loss_by_loops(config, student, teacher, 0.05, center)
        loss, metrics = loss_of(student, teacher, 0.05)
        loss_of.update_center()
        assert abs(loss.item() - expected) < 1e-5 * expected
        if config.centering == "center":
            center = 0.9 * center + 0.1 * teacher.mean((0, 1))
        assert torch.allclose(loss_of.center, center, atol=1e-7)
        if config.loss == "cross_entropy":
            assert math.isclose(metrics["teacher_entropy"] + metrics["kl"], loss, rel_tol=1e-5)
            assert metrics["kl"] > 0


@pytest.mark.parametrize(("teachers", "views"), [(2, 5), (2, 2), (1, 3)])
def test_cross_entropy_equals_the_papers_formula(teachers, views):
    targets = logits(teachers, 4, 9, seed=1).double().softmax(-1)
    values = []
    for loss_of in (cross_entropy, cross_entropy_by_pairs):
        student = logits(views, 4, 9, scale=3.0).double().requires_grad_()
        loss = loss_of(student, targets, 0.1)
        values.append((loss.detach(), *torch.autograd.grad(loss, student)))
    for ours, paper in zip(*values, strict=True):
        assert torch.allclose(ours, paper, rtol=1e-6)


def test_agreement_equals_loops():
    targets, outputs = logits(3, 4, 7, seed=1).double(), logits(6, 4, 7, seed=2).double()
    terms = [(targets[t] * outputs[v]).sum(-1).mean() for t, v in pairs(3, 6)]
    assert torch.allclose(agreement(targets, outputs), sum(terms) / len(terms))


def test_loss_in_half_precision_is_computed_in_full():
    config = DINOConfig(out_dim=4096)
    student, teacher = logits(4, 2, 4096).bfloat16(), logits(2, 2, 4096, seed=1).bfloat16()
    half, _ = DINOLoss(config)(student, teacher, 0.04)
    full, _ = DINOLoss(config)(student.float(), teacher.float(), 0.04)
    assert half.dtype == torch.float32 and torch.equal(half, full)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_knopp_equals_loops(iterations):
    x = logits(6, 5, scale=2.0)
    ours = sinkhorn_knopp(x, iterations)
    assert np.allclose(ours.numpy(), sinkhorn_by_loops(x.double().numpy(), iterations), atol=1e-6)
    assert torch.allclose(ours.sum(1), torch.ones(6))


def test_sinkhorn_knopp_does_not_overflow():
    assert sinkhorn_knopp(logits(6, 5, scale=1000.0), 3).isfinite().all()


def test_information_is_zero_for_both_collapses():
    teacher_says_the_same = logits(1, 1, 32, scale=0.1).expand(2, 4, 32)
    for teacher, temperature in ((teacher_says_the_same, 0.001), (teacher_says_the_same, 100.0)):
        _, metrics = DINOLoss(DINOConfig(out_dim=32))(logits(3, 4, 32), teacher, temperature)
        assert abs(metrics["teacher_information"]) < 1e-5
    one_output_each = torch.eye(32)[:4].expand(2, 4, 32)
    _, metrics = DINOLoss(DINOConfig(out_dim=32))(logits(3, 4, 32), one_output_each, 0.01)
    assert math.isclose(metrics["teacher_information"], math.log(4), rel_tol=1e-4)


def test_collapse_without_centring_shows(make_method, train):
    """The canary: the same network and data learn to tell images apart with centring, and collapse without."""
    options = {"backbone": "linear", "freeze_last_layer": 0, "momentum_teacher": 0.9}
    for centering, learns in (("center", True), ("none", False)):
        outputs = train(make_method("dino", centering=centering, **options), steps=80, lr=1e-2)
        information = outputs[-1].metrics["teacher_information"]
        assert information > 0.1 if learns else information < 1e-3, (centering, information)


def test_gradient_flows_into_the_student_only(make_method, make_batch):
    method = make_method("dino")
    method(make_batch(method)).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)


def test_teacher_follows(make_method, make_batch):
    """Parameters by moving average, with the momentum of the step; buffers are the teacher's own."""
    method = make_method("dino", use_bn_in_head=True)
    method(make_batch(method))
    torch.nn.init.ones_(method.student.backbone.layers[0].weight)
    teacher, student = method.teacher.backbone.layers, method.student.backbone.layers
    old, running = teacher[0].weight.clone(), teacher[1].running_mean.clone()
    student[1].running_mean.fill_(7.0)
    method.after_step(Progress(5, 10, 1))  # half way
    momentum = 1 - 0.5 * (1 - 0.996)
    assert torch.allclose(teacher[0].weight, momentum * old + (1 - momentum) * student[0].weight)
    assert torch.equal(teacher[1].running_mean, running)


def test_teacher_copies(make_method):
    method = make_method("dino", teacher="copy")
    torch.nn.init.ones_(method.student.backbone.layers[0].weight)
    method.after_step(Progress(0, 10, 1))
    assert torch.equal(method.teacher.backbone.layers[0].weight, method.student.backbone.layers[0].weight)


def test_teacher_starts_as_the_student(make_method):
    method = make_method("dino", backbone="vit_nano", drop_path=0.5, predictor=True)
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert all(torch.equal(value, student[name]) for name, value in teacher.items())
    assert student.keys() - teacher.keys() == {f"predictor.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    rates = [[block.drop_path for block in n.backbone.blocks] for n in (method.student, method.teacher)]
    assert rates[0][-1] == 0.5
    assert not any(rates[1])


def test_teacher_temperature_is_that_of_the_epoch(make_method):
    method = make_method("dino", warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=3)
    seen = []
    for step in range(10):
        method.before_step(Progress(step, 2, 5))
        seen.append(method._teacher_temp)
    assert np.allclose(seen, np.repeat([*np.linspace(0.04, 0.07, 3), 0.07, 0.07], 2))
    with pytest.raises(UsageError, match="warmup_teacher_temp_epochs 3 is more than the run's 2 epochs"):
        method.before_step(Progress(0, 2, 2))


def test_last_layer_is_frozen_at_first(make_method, make_batch):
    for epoch, frozen in ((0, True), (1, True), (2, False)):
        method = make_method("dino", freeze_last_layer=2, norm_last_layer=False)
        method(make_batch(method)).loss.backward()
        method.after_backward(Progress(epoch * 3, 3, 5))
        last = list(method.student.head.last_layer.parameters())
        assert len(last) == 2 and all((p.grad is None) == frozen for p in last)
        assert method.student.head.mlp[0].weight.grad is not None


def test_head_switches(make_method):
    plain = make_method("dino").student.head
    assert not plain.last_layer.weight_g.requires_grad
    assert make_method("dino", norm_last_layer=False).student.head.last_layer.weight_g.requires_grad
    assert not any(isinstance(m, torch.nn.BatchNorm1d) for m in plain.modules())
    with_bn = make_method("dino", use_bn_in_head=True)
    for network in (with_bn.student, with_bn.teacher):
        assert any(isinstance(m, torch.nn.BatchNorm1d) for m in network.head.modules())
    assert len(make_method("dino", head_layers=4).student.head.mlp) == len(plain.mlp) + 2


def test_views():
    views = DINO.views(DINOConfig(), 224)
    assert [view.size for view in views] == [224] * 2 + [96] * 8
    assert [view.scale for view in views] == [(0.4, 1.0)] * 2 + [(0.05, 0.4)] * 8
    assert [view.blur_p for view in views] == [1.0, 0.1] + [0.5] * 8
    assert [view.solarize_p for view in views] == [0.0, 0.2] + [0.0] * 8
    first = views[0].augmentation
    assert all(view.augmentation is first for view in views)
    assert (first.flip, first.jitter_p, first.grayscale_p, first.blur_sigma) == (0.5, 0.8, 0.2, (0.1, 2.0))
    assert (first.brightness, first.contrast, first.saturation, first.hue) == (0.4, 0.4, 0.2, 0.1)
    assert len(DINO.views(DINOConfig(local_crops=0), 224)) == 2
    assert [DINO.views(DINOConfig(), size)[2].size for size in (32, 64)] == [16, 32]
    assert DINO.views(DINOConfig(local_size=24), 64)[2].size == 24
    changed = DINO.views(DINOConfig(hue=0.3, local_blur_p=0.25, solarize_p=(0.5, 0.0), local_scale=(0.1, 0.2)), 64)
    assert [view.augmentation.hue for view in changed] == [0.3] * 10
    assert changed[0].solarize_p == 0.5 and changed[2].blur_p == 0.25 and changed[2].scale == (0.1, 0.2)


def test_views_of_one_size_pass_the_backbone_together(make_method, make_batch):
    method = make_method("dino", local_crops=3)
    sizes = []
    method.student.backbone.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    method.teacher.backbone.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape)))
    method(make_batch(method))
    assert sizes == [(8, 3, 32, 32), (8, 3, 32, 32), (12, 3, 16, 16)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_dim": 0}, "--out_dim 0: give at least 1"),
        ({"local_size": 0}, "--local_size 0: give at least 1"),
        ({"local_crops": -1}, "--local_crops -1: give 0 to 100"),
        ({"teacher_temp": 0.0}, "--teacher_temp 0.0: give more than 0"),
        ({"momentum_teacher": 1.5}, "--momentum_teacher 1.5: give 0 to 1"),
        ({"drop_path": 1.0}, "--drop_path 1.0: give 0 or more and less than 1"),
        ({"loss": "mse", "centering": "softmax"}, "--loss mse compares outputs, but --centering softmax"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        DINOConfig(**options)
