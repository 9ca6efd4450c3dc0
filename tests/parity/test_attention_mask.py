"""Masks that keep a part of the attention's mass against the authors' (tests/golden/attention_mask.npz): exact."""

import numpy as np
import torch

from eval.dense.attention_masks import keep_mass


def test_equals_reference(golden):
    arrays = golden("attention_mask")
    mask = keep_mass(torch.from_numpy(arrays["attention"]), float(arrays["mass"]))
    np.testing.assert_array_equal(mask.numpy(), arrays["mask"])
