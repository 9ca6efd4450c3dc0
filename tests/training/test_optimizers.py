"""Batched LARS and clipping equal the references' loops; groups get the rates they ask for."""

import copy

import pytest
import torch

from common.errors import UsageError
from methods.core.base import Progress, ViewBatch
from training.optimizers import LARS, build_optimizer, clip_gradients, set_rates
from training.plan import build_method
from training.resolve import resolve
from training.step import Stepper


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (5,), (2, 3, 2, 2), (3, 3), (6, 2)]
    made = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in made:
        p.grad = torch.randn(p.shape, generator=generator)
    made[3].data.zero_()  # no norm to adapt to
    made[4].grad = None  # frozen for this step
    return made


def reference_lars(weights, gradients, mus, lr, weight_decay, momentum, eta):
    """The authors' loop, in the words of its formula, one tensor at a time."""
    for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        if g is None:
            continue
        if w.ndim != 1:
            g = g + weight_decay * w
            if w.norm() > 0 and g.norm() > 0:
                g = g * (eta * w.norm() / g.norm())
        mus[i] = momentum * mus[i] + g
        weights[i] = w - lr * mus[i]


def test_lars_equals_the_loop():
    ours = parameters()
    optimizer = LARS(ours, lr=0.3, weight_decay=0.01, momentum=0.9, eta=0.02)
    weights = [p.detach().clone() for p in ours]
    mus = [torch.zeros_like(w) for w in weights]
    for step in range(3):
        for p, fresh in zip(ours, parameters(step + 1), strict=True):
            p.grad = fresh.grad
        reference_lars(weights, [p.grad for p in ours], mus, 0.3, 0.01, 0.9, 0.02)
        optimizer.step()
    for p, w in zip(ours, weights, strict=True):
        torch.testing.assert_close(p.detach(), w)
    assert ours[4] not in optimizer.state


def reference_larc(weights, gradients, mus, lr, weight_decay, momentum, eta):
    """apex's LARC without clipping around torch's SGD, in the words of its formula: it adapts and decays biases and norms, too."""
    for i, (w, g) in enumerate(zip(weights, gradients, strict=True)):
        if g is None:
            continue
        if w.norm() != 0 and g.norm() != 0:
            rate = eta * w.norm() / (g.norm() + w.norm() * weight_decay + 1e-8)
            g = (g + weight_decay * w) * rate
        mus[i] = momentum * mus[i] + g
        weights[i] = w - lr * mus[i]


@pytest.mark.parametrize(("name", "loop"), [("lars", reference_lars), ("larc", reference_larc)])
def test_lars_and_larc_differ_in_1d_tensors_and_in_gradients_of_zero(name, loop):
    ours = parameters()
    optimizer = build_optimizer(name, [{"params": ours}], 0.9)
    weights = [p.detach().clone() for p in ours]
    mus = [torch.zeros_like(w) for w in weights]
    for step in range(3):
        for p, fresh in zip(ours, parameters(step + 1), strict=True):
            p.grad = fresh.grad
        ours[0].grad.zero_()
        loop(weights, [p.grad for p in ours], mus, 0.3, 0.2, 0.9, 0.001)
        set_rates(optimizer, 0.3, 0.2)
        optimizer.step()
    for p, w in zip(ours, weights, strict=True):
        torch.testing.assert_close(p.detach(), w)
    assert torch.equal(ours[0], parameters()[0]) == (name == "larc")


def test_adamw_equals_torchs_loop_and_continues():
    """In one pass over weights and moments; from its state dict it goes on to the same bits."""
    whole, parts, loop = parameters(), parameters(), parameters()
    optimizer, first = (build_optimizer("adamw", [{"params": made}], 0.9) for made in (whole, parts))
    reference = torch.optim.AdamW(loop, weight_decay=0.1, lr=0.01, foreach=False)
    for step in range(4):
        for p, q, r, fresh in zip(whole, parts, loop, parameters(step), strict=True):
            p.grad = q.grad = r.grad = fresh.grad
        if step == 2:
            state = copy.deepcopy(first.state_dict())
            first = build_optimizer("adamw", [{"params": parts}], 0.9)
            first.load_state_dict(state)
        for one in (optimizer, first):
            set_rates(one, 0.01, 0.1)
            one.step()
        reference.step()
    for p, q, r in zip(whole, parts, loop, strict=True):
        assert torch.equal(p, q)
        torch.testing.assert_close(p, r)
    assert not torch.equal(whole[0], parameters()[0])


@pytest.mark.parametrize("max_norm", [0.5, 2.0, 100.0])
def test_clipping_each_tensor_equals_the_loop(max_norm):
    ours = parameters()
    expected = []
    for p in ours[:4]:
        factor = max_norm / (p.grad.norm() + 1e-6)
        expected.append(p.grad * factor if factor < 1 else p.grad.clone())
    clip_gradients(ours, max_norm, "tensor")
    for p, gradient in zip(ours[:4], expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=0)


def test_global_clipping_bounds_the_common_norm():
    ours = parameters()
    before = [p.grad.clone() for p in ours[:4]]
    clip_gradients(ours, 0.5, "global")
    norm = torch.cat([p.grad.flatten() for p in ours[:4]]).norm()
    assert abs(norm - 0.5) < 1e-4
    torch.testing.assert_close(ours[0].grad / before[0], (ours[2].grad / before[2]).flatten()[0].expand(4, 3))


def test_no_clipping_without_a_norm():
    ours = parameters()
    before = [p.grad.clone() for p in ours[:4]]
    clip_gradients(ours, 0.0, "tensor")
    assert all(torch.equal(p.grad, g) for p, g in zip(ours[:4], before, strict=True))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "larc"])
def test_groups_get_their_own_rates(name):
    a, b, c = parameters()[:3]
    groups = [
        {"params": [a]},
        {"params": [b], "weight_decay": 0.0},
        {"params": [c], "lr_scale": 0.5, "weight_decay": 0.3},
    ]
    optimizer = build_optimizer(name, groups, momentum=0.9)
    set_rates(optimizer, lr=0.2, weight_decay=0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.2, 0.1]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0, 0.3]
    optimizer.step()


def test_unknown_optimizer():
    with pytest.raises(UsageError, match="did you mean adamw"):
        build_optimizer("adam", [], 0.9)


def test_moments_of_another_layout_are_taken_over_as_the_weights_lie(small, tmp_path):
    """Weights that were shared out over processes are contiguous, those of a ResNet in one process have channels innermost."""
    config, own = small(tmp_path / "run", "supervised", backbone="resnet18_cifar", warmup_epochs=0)
    config = resolve(config)
    batch = ViewBatch([torch.randn(8, 3, 16, 16)], torch.arange(8) % 2)
    steppers = [Stepper(build_method(config, own, num_classes=2), config, torch.device("cpu")) for _ in range(2)]
    steppers[0].step([batch], Progress(0, 4, 3))
    state = {
        "method": steppers[0].method.state_dict(),
        "optimizer": copy.deepcopy(steppers[0].optimizer.state_dict()),
        "scaler": {},
    }
    for moments in state["optimizer"]["state"].values():
        for name in moments:
            moments[name] = moments[name].contiguous()
    steppers[1].load(state)
    for stepper in steppers:
        stepper.step([batch], Progress(1, 4, 3))
    torch.testing.assert_close(steppers[0].method.state_dict(), steppers[1].method.state_dict())
