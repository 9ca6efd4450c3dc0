"""The MLP of projection heads: names, sizes, initialisation."""

from functools import partial

import pytest
import torch
from torch import nn

from heads.mlp import MLP, parse_widths


def test_names_and_shapes_of_barlow_twins_projector():
    shapes = {name: tuple(value.shape) for name, value in MLP(6, (8, 10, 12), bias=False).named_parameters()}
    assert shapes == {
        "0.weight": (8, 6),
        "1.weight": (8,),
        "1.bias": (8,),
        "3.weight": (10, 8),
        "4.weight": (10,),
        "4.bias": (10,),
        "6.weight": (12, 10),
    }


def test_layers():
    def kinds(**options):
        return [type(layer).__name__ for layer in MLP(3, [4, 5], **options)]

    assert kinds() == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert kinds(norm=None, activation=nn.GELU) == ["Linear", "GELU", "Linear"]
    assert kinds(norm=nn.Identity) == ["Linear", "Identity", "ReLU", "Linear"]
    assert kinds(last_norm=partial(nn.BatchNorm1d, affine=False))[-1] == "BatchNorm1d"
    assert MLP(3, [4, 5])[0].bias is not None and MLP(3, [4, 5], bias=False)[0].bias is None


def test_initialisation_draws_the_linear_layers_in_order():
    torch.manual_seed(3)
    layers = [nn.Linear(6, 8), nn.Linear(8, 4)]
    torch.manual_seed(3)
    mlp = MLP(6, [8, 4])
    for ours, theirs in zip([mlp[0], mlp[3]], layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("sizes", [(5,), (5, 7), (5, 7, 9, 11)])
def test_forward_and_backward(sizes):
    projector = MLP(6, sizes)
    y = projector(torch.randn(4, 6))
    assert y.shape == (4, sizes[-1])
    assert projector.out_dim == sizes[-1]
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in projector.parameters())


@pytest.mark.parametrize("sizes", [(), (8, 0), (-1,)])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="widths"):
        MLP(6, sizes)


def test_parse_widths():
    assert parse_widths("8192-128") == [8192, 128] and parse_widths(7) == [7]
    for wrong in ("", "8-", "8-0", "-1", "1e3", "a", "٣"):
        with pytest.raises(ValueError, match="give the layers' widths"):
            parse_widths(wrong)
