"""Barlow Twins' cross-correlation, loss and both gradients, against the authors' (barlow_loss.npz)."""

import pytest
import torch
from torch import nn

from methods.barlow_twins import BarlowTwins, BarlowTwinsConfig, cross_correlation


class Features(nn.Module):
    """Stands where a backbone does: only its width is asked for."""

    def __init__(self, width):
        super().__init__()
        self.width = width


@pytest.mark.parametrize("by_images", [False, True])
def test_equals_reference(golden, golden_error, monkeypatch, by_images):
    monkeypatch.setattr("methods.barlow_twins.cheaper_by_images", lambda images, features: by_images)
    arrays = golden("barlow_loss")
    width = arrays["z1"].shape[1]
    config = BarlowTwinsConfig(projector=str(width), lambd=float(arrays["lambd"]))
    method = BarlowTwins(config, lambda **_: Features(width), num_classes=0)
    z1 = torch.tensor(arrays["z1"], requires_grad=True)
    z2 = torch.tensor(arrays["z2"], requires_grad=True)
    normalized = method.normalized(z1), method.normalized(z2)
    correlation = cross_correlation(*normalized)
    loss, metrics = method.loss(*normalized)
    loss.backward()
    assert golden_error(correlation, arrays["cross_correlation"]) < 1e-5
    assert golden_error(metrics["on_diag"], arrays["on_diag"]) < 1e-5
    assert golden_error(metrics["off_diag"], arrays["off_diag"]) < 1e-5
    assert golden_error(loss, arrays["loss"]) < 1e-5
    assert golden_error(z1.grad, arrays["grad_z1"]) < 1e-5
    assert golden_error(z2.grad, arrays["grad_z2"]) < 1e-5
