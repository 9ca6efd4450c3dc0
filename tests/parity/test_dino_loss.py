"""DINO's loss, its gradient and its centre over calls in a row, against the authors' (dino_loss.npz)."""

import torch

from methods.dino import DINOConfig, DINOLoss


def test_equals_reference(golden, golden_error):
    arrays = golden("dino_loss")
    batch = len(arrays["teacher_0"]) // 2  # of two full-size crops
    loss_of = DINOLoss(DINOConfig(out_dim=arrays["teacher_0"].shape[1]))
    for call in range(len(arrays["epochs"])):
        temperature = float(arrays[f"teacher_temp_{call}"])
        student = torch.tensor(arrays[f"student_{call}"], requires_grad=True)
        teacher = torch.tensor(arrays[f"teacher_{call}"])
        loss, _ = loss_of(student.unflatten(0, (-1, batch)), teacher.unflatten(0, (2, -1)), temperature)
        loss.backward()
        loss_of.update_center()
        assert golden_error(loss, arrays[f"loss_{call}"]) < 1e-5
        assert golden_error(student.grad, arrays[f"grad_student_{call}"]) < 1e-5
        assert golden_error(loss_of.center, arrays[f"center_{call}"]) < 1e-5
