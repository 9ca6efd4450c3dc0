"""Barlow Twins' projector: names, sizes."""

import pytest
import torch

from common.errors import UsageError
from heads.barlow import BarlowProjector


def test_names_and_shapes_are_the_authors():
    shapes = {name: tuple(value.shape) for name, value in BarlowProjector(6, (8, 10, 12)).named_parameters()}
    assert shapes == {
        "0.weight": (8, 6),
        "1.weight": (8,),
        "1.bias": (8,),
        "3.weight": (10, 8),
        "4.weight": (10,),
        "4.bias": (10,),
        "6.weight": (12, 10),
    }


@pytest.mark.parametrize("sizes", [(5,), (5, 7), (5, 7, 9, 11)])
def test_forward_and_backward(sizes):
    projector = BarlowProjector(6, sizes)
    y = projector(torch.randn(4, 6))
    assert y.shape == (4, sizes[-1])
    assert projector.out_dim == sizes[-1]
    y.square().sum().backward()
    assert all(parameter.grad is not None for parameter in projector.parameters())


@pytest.mark.parametrize("sizes", [(), (8, 0), (-1,)])
def test_bad_sizes(sizes):
    with pytest.raises(UsageError, match="projector sizes"):
        BarlowProjector(6, sizes)
