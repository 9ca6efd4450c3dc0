"""DINO's head: names, initialisation, options."""

import pytest
import torch

from common.errors import UsageError
from heads.dino import DINOHead


def test_names_and_shapes_are_the_authors():
    shapes = {
        name: tuple(value.shape)
        for name, value in DINOHead(8, 20, hidden_dim=16, bottleneck_dim=4).state_dict().items()
    }
    assert shapes == {
        "mlp.0.weight": (16, 8),
        "mlp.0.bias": (16,),
        "mlp.2.weight": (16, 16),
        "mlp.2.bias": (16,),
        "mlp.4.weight": (4, 16),
        "mlp.4.bias": (4,),
        "last_layer.weight_g": (20, 1),
        "last_layer.weight_v": (20, 4),
    }
    assert "mlp.4.running_mean" in DINOHead(8, 20, use_bn=True, hidden_dim=16).state_dict()
    assert set(DINOHead(8, 20, nlayers=1).state_dict()) == {
        "mlp.weight",
        "mlp.bias",
        "last_layer.weight_g",
        "last_layer.weight_v",
    }


def test_initialisation():
    torch.manual_seed(0)
    head = DINOHead(256, 512)
    assert head.mlp[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (head.mlp[0].bias == 0).all()
    assert (head.last_layer.weight_g == 1).all()
    bound = 256**-0.5  # nn.Linear's own, uniform
    assert head.last_layer.weight_v.abs().max() <= bound
    assert head.last_layer.weight_v.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_gain_is_learned_unless_normed(norm_last_layer):
    head = DINOHead(8, 20, norm_last_layer=norm_last_layer, hidden_dim=16, bottleneck_dim=4)
    head(torch.randn(6, 8)).square().sum().backward()
    assert (head.last_layer.weight_g.grad is None) == norm_last_layer
    assert head.last_layer.weight_v.grad.abs().sum() > 0


def test_logits_are_cosines_times_gain():
    torch.manual_seed(0)
    head = DINOHead(8, 20, hidden_dim=16, bottleneck_dim=4)
    head.last_layer.weight_g.data.uniform_(0.5, 2)
    x = torch.randn(6, 8)
    cosines = torch.cosine_similarity(head.mlp(x)[:, None], head.last_layer.weight_v[None], dim=-1)
    assert torch.allclose(head(x), cosines * head.last_layer.weight_g.T, atol=1e-6)


def test_no_layers():
    with pytest.raises(UsageError, match="at least 1 layer, not 0"):
        DINOHead(8, 20, nlayers=0)
