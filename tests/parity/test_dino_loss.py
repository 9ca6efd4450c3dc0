"""DINO's loss, its gradient and its centre over calls in a row, against the authors' (dino_loss.npz)."""

import torch

from common.schedules import linear
from methods.dino import DINOConfig, DINOLoss


def test_equals_reference(golden, golden_error):
    arrays = golden("dino_loss")
    loss_of = DINOLoss(DINOConfig(out_dim=256))
    for call, epoch in enumerate(arrays["epochs"].tolist()):
        temperature = linear(0.04, 0.07, epoch, 3) if epoch < 3 else 0.07
        assert abs(temperature - float(arrays[f"teacher_temp_{call}"])) < 1e-12
        student = torch.tensor(arrays[f"student_{call}"], requires_grad=True)
        teacher = torch.tensor(arrays[f"teacher_{call}"])
        loss, _ = loss_of(student.unflatten(0, (6, -1)), teacher.unflatten(0, (2, -1)), temperature)
        loss.backward()
        assert golden_error(loss, arrays[f"loss_{call}"]) < 1e-5
        assert golden_error(student.grad, arrays[f"grad_student_{call}"]) < 1e-5
        assert golden_error(loss_of.center, arrays[f"center_{call}"]) < 1e-5
