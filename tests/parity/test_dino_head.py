"""DINO's head forward and backward, against the authors' (tests/golden/dino_head_bn*.npz)."""

import re

import pytest
import torch

from heads.dino import DINOHead


@pytest.mark.parametrize("use_bn", [False, True])
def test_equals_reference(golden, golden_error, use_bn):
    arrays = golden(f"dino_head_bn{int(use_bn)}")
    state = {name.removeprefix("param/"): torch.tensor(a) for name, a in arrays.items() if name.startswith("param/")}
    out_dim, bottleneck_dim = state["last_layer.weight_v"].shape
    head = DINOHead(
        arrays["x"].shape[1],
        out_dim,
        use_bn=use_bn,
        norm_last_layer=False,
        nlayers=len([name for name in state if re.fullmatch(r"mlp\.\d+\.weight", name) and state[name].ndim == 2]),
        hidden_dim=len(state["mlp.0.weight"]),
        bottleneck_dim=bottleneck_dim,
    )
    head.load_state_dict(state, strict=True)
    x = torch.tensor(arrays["x"], requires_grad=True)
    y = head(x)
    assert golden_error(y, arrays["y"]) < 1e-4
    y.backward(torch.tensor(arrays["grad_y"]))
    assert golden_error(x.grad, arrays["grad_x"]) < 1e-4
    gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert {name.removeprefix("grad/") for name in arrays if name.startswith("grad/")} == gradients.keys()
    for name, gradient in gradients.items():
        assert golden_error(gradient, arrays[f"grad/{name}"]) < 1e-4, name
