"""Barlow Twins' cross-correlation, loss and both gradients, against the authors' (barlow_loss.npz)."""

import torch
from torch import nn

from methods.barlow_twins import BarlowTwins, BarlowTwinsConfig


class Width64(nn.Module):
    width = 64


def test_equals_reference(golden, golden_error):
    arrays = golden("barlow_loss")
    config = BarlowTwinsConfig(projector="64", lambd=float(arrays["lambd"]))
    method = BarlowTwins(config, lambda **_: Width64(), num_classes=0)
    z1 = torch.tensor(arrays["z1"], requires_grad=True)
    z2 = torch.tensor(arrays["z2"], requires_grad=True)
    correlation = method.cross_correlation(z1, z2)
    loss, metrics = method.loss(correlation)
    loss.backward()
    assert golden_error(correlation, arrays["cross_correlation"]) < 1e-5
    assert golden_error(metrics["on_diag"], arrays["on_diag"]) < 1e-5
    assert golden_error(metrics["off_diag"], arrays["off_diag"]) < 1e-5
    assert golden_error(loss, arrays["loss"]) < 1e-5
    assert golden_error(z1.grad, arrays["grad_z1"]) < 1e-5
    assert golden_error(z2.grad, arrays["grad_z2"]) < 1e-5
