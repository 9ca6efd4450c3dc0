"""Barlow Twins' loss against plain loops in double precision, and its switches."""

import math

import pytest
import torch
from torch import nn

from common.errors import UsageError, UserError
from methods.barlow_twins import (
    BarlowTwins,
    BarlowTwinsConfig,
    cheaper_by_images,
    cross_correlation,
    diagonal_and_rest,
    diagonal_and_rest_by_images,
    loss_of_the_paper,
)


def correlation_by_loops(z1, z2, normalization):
    z1, z2 = z1.double(), z2.double()
    axis = 1 if normalization == "feature" else 0

    def normalized(z):
        z = z - z.mean(axis, keepdim=True)
        return z if normalization == "none" else z / (z.var(axis, unbiased=False, keepdim=True) + 1e-5).sqrt()

    z1, z2 = normalized(z1), normalized(z2)
    size = z1.shape[1]
    rows = [[sum(z1[b, i] * z2[b, j] for b in range(len(z1))) / len(z1) for j in range(size)] for i in range(size)]
    return torch.tensor(rows)


def loss_by_loops(c, config):
    size = range(len(c))
    on = sum((c[i, i] - 1) ** 2 for i in size)
    off = sum(c[i, j] ** 2 for i in size for j in size if i != j)
    t = config.temperature
    attraction = math.log(sum(math.exp(c[i, i] / t) for i in size))
    repulsion = math.log(sum(math.exp(max(c[i, j], 0) / t) for i in size for j in size if i != j))
    return {
        "full": on + config.lambd * off,
        "on_diagonal": on,
        "off_diagonal": config.lambd * off,
        "cross_entropy": -attraction + config.lambd * repulsion,
    }[config.loss]


@pytest.mark.parametrize("loss", ["full", "on_diagonal", "off_diagonal", "cross_entropy"])
@pytest.mark.parametrize("normalization", ["batch", "feature", "none"])
@pytest.mark.parametrize("batch", [8, 2])  # by the matrix, and by the images
def test_loss_equals_loops(make_method, loss, normalization, batch):
    method = make_method("barlow_twins", projector="6", loss=loss, normalization=normalization, lambd=0.3)
    z1, z2 = torch.randn(2, batch, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    z1_BD, z2_BD = method.normalized(z1), method.normalized(z2)
    expected = correlation_by_loops(z1, z2, normalization)
    assert torch.allclose(cross_correlation(z1_BD, z2_BD).double(), expected, atol=1e-5)
    value, metrics = method.loss(z1_BD, z2_BD)
    reference = loss_by_loops(expected, method.config)
    assert abs(value - reference) < 1e-5 * max(1.0, abs(reference))
    off_diag = expected.square().sum() - expected.diagonal().square().sum()
    assert abs(metrics["off_diag"] / off_diag - 1) < 1e-5
    assert metrics.keys() == {"on_diag", "off_diag"}


@pytest.mark.parametrize("batch", [64, 8])  # by the matrix, and by the images
def test_loss_equals_the_papers_formula(make_method, batch):
    method = make_method("barlow_twins", projector="24", lambd=0.3)
    z1, z2 = torch.randn(2, batch, 24, generator=torch.Generator().manual_seed(0))
    grads = {}
    for name, loss_of in (("ours", lambda *z: method.loss(*z)[0]), ("paper", lambda *z: loss_of_the_paper(*z, 0.3))):
        z_BD = [method.normalized(z).requires_grad_() for z in (z1, z2)]
        loss = loss_of(*z_BD)
        grads[name] = loss.detach(), *torch.autograd.grad(loss, z_BD)
    assert cheaper_by_images(batch, 24) == (batch == 8)
    for ours, paper in zip(grads["ours"], grads["paper"], strict=True):
        assert torch.allclose(ours, paper, rtol=1e-4, atol=1e-6)


def test_terms_and_gradients_by_images_equal_those_by_the_matrix(make_method):
    """In single precision, with a perfect diagonal beside the smallest rest that so few images allow."""
    generator = torch.Generator().manual_seed(0)
    method = make_method("barlow_twins", projector="512")
    z = method.normalized(torch.randn(64, 512, generator=generator))
    found = {}
    for way in ("matrix", "images"):
        z1, z2 = z.clone().requires_grad_(), z.clone().requires_grad_()
        if way == "images":
            assert cheaper_by_images(*z.shape)
            diagonal, off_diag = diagonal_and_rest_by_images(z1, z2)
        else:
            diagonal, rest = diagonal_and_rest(cross_correlation(z1, z2))
            off_diag = rest.square().sum()
        ((diagonal - 1).square().sum() + method.config.lambd * off_diag).backward()
        found[way] = (diagonal.detach(), off_diag.detach(), z1.grad, z2.grad)
    for ours, other in zip(found["images"], found["matrix"], strict=True):
        assert (ours - other).abs().max() < 1e-5 * other.abs().max()


def test_small_correlations_survive_a_large_diagonal():
    """In single precision, the sum of all squares less the diagonal's would be 0 here."""
    diagonal, rest = diagonal_and_rest(torch.eye(512) * 1000 + (1 - torch.eye(512)) * 1e-4)
    assert torch.equal(diagonal, torch.full((512,), 1000.0))
    assert abs(rest.square().sum() / (512 * 511 * 1e-8) - 1) < 1e-4


def test_stop_gradient(make_method, make_batch):
    """Gradients come through the first crop's branch alone."""
    method = make_method("barlow_twins", stop_gradient=True)
    batch = make_batch(method)
    for view in batch.views:
        view.requires_grad_()
    method(batch).loss.backward()
    assert batch.views[0].grad is not None and batch.views[1].grad is None
    symmetric = make_method("barlow_twins")
    symmetric(batch).loss.backward()
    assert batch.views[1].grad is not None


def test_predictor(make_method, make_batch):
    """Another layer on the first crop's branch: the loss of two equal views differs, the second's projection does not."""
    plain, predicting = make_method("barlow_twins"), make_method("barlow_twins", predictor=True)
    predicting.load_state_dict(plain.state_dict(), strict=False)
    batch = make_batch(plain)
    first, second = plain(batch).projections, predicting(batch).projections
    assert torch.equal(first[1], second[1]) and not torch.equal(first[0], second[0])
    assert {name for name in predicting.state_dict() if name not in plain.state_dict()} == {
        f"predictor.{name}" for name in predicting.predictor.state_dict()
    }


def test_batchnorm_in_the_projector_can_go(make_method):
    def norms(method):
        return sum(isinstance(m, nn.BatchNorm1d) for m in method.projector.modules())

    plain, without = make_method("barlow_twins"), make_method("barlow_twins", bn_in_projector=False)
    assert (norms(plain), norms(without)) == (2, 0)
    weights = {name for name, value in plain.projector.state_dict().items() if value.ndim == 2}
    assert without.projector.state_dict().keys() == weights


def test_names_are_the_authors(make_method):
    method = make_method("barlow_twins", "resnet18_cifar")
    names = set(method.state_dict())
    assert {"backbone.conv1.weight", "projector.0.weight", "projector.1.running_var", "projector.6.weight"} <= names
    assert {name for name in names if name.startswith("bn.")} == {
        "bn.running_mean",
        "bn.running_var",
        "bn.num_batches_tracked",
    }
    assert {name.split(".")[0] for name in names} == {"backbone", "projector", "bn"}
    # Zero-initialised residual branches.
    assert not method.backbone.layer1[0].bn2.weight.any()


def test_each_crop_has_its_own_batch_statistics(make_method, make_batch):
    method = make_method("barlow_twins")
    shapes = []
    method.backbone.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    method(make_batch(method))
    assert shapes == [(4, 3, 32, 32)] * 2
    assert method.bn.num_batches_tracked == 2


def test_parameter_groups(make_method):
    weights, biases = make_method("barlow_twins", bias_lr_scale=0.5).parameter_groups()
    assert all(p.ndim > 1 for p in weights["params"]) and all(p.ndim == 1 for p in biases["params"])
    assert "lr_scale" not in weights and "weight_decay" not in weights
    assert biases["lr_scale"] == 0.5 and biases["weight_decay"] == 0.0


def test_published_rates():
    recipe, config = BarlowTwins.recipe, BarlowTwinsConfig()
    assert math.isclose(config.bias_lr_scale * recipe["lr"], 0.0048)
    assert config.lambd == 0.0051 and config.projector == "8192-8192-8192"


def test_views():
    first, second = BarlowTwins.views(BarlowTwinsConfig(), 224)
    assert first.size == second.size == 224 and first.scale == second.scale == (0.08, 1.0)
    assert (first.blur_p, second.blur_p) == (1.0, 0.1) and (first.solarize_p, second.solarize_p) == (0.0, 0.2)
    shared = first.augmentation
    assert second.augmentation is shared
    assert (shared.flip, shared.jitter_p, shared.grayscale_p, shared.blur_sigma) == (0.5, 0.8, 0.2, (0.1, 2.0))
    assert (shared.brightness, shared.contrast, shared.saturation, shared.hue) == (0.4, 0.4, 0.2, 0.1)


def test_one_image_is_refused(make_method, make_batch):
    method = make_method("barlow_twins", normalization="feature", bn_in_projector=False)
    with pytest.raises(UserError, match="at least 2 images"):
        method(make_batch(method, batch=1))


@pytest.mark.parametrize("projector", ["", "64-", "64-x", "0-64", "-64", "64,64"])
def test_wrong_projector(projector):
    with pytest.raises(UsageError, match="give the layers' widths, such as 8192-8192-8192"):
        BarlowTwinsConfig(projector=projector)


def test_wrong_options():
    with pytest.raises(UsageError, match="--temperature 0: give more than 0"):
        BarlowTwinsConfig(temperature=0)
    with pytest.raises(UsageError, match="--lambd -1: give 0 or more"):
        BarlowTwinsConfig(lambd=-1)
