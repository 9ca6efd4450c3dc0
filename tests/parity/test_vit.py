"""ViT features at several sizes, against the authors' (tests/golden/vit_patch*.npz). The arrays say how large the ViT is."""

import math

import pytest
import torch

from backbones.vit import VisionTransformer


@pytest.mark.parametrize("patch_size", [16, 8])
def test_equals_reference(golden, golden_error, patch_size):
    arrays = golden(f"vit_patch{patch_size}")
    state = {name.removeprefix("param/"): torch.tensor(a) for name, a in arrays.items() if name.startswith("param/")}
    sizes = [name.removeprefix("in_") for name in arrays if name.startswith("in_")]
    assert sizes
    model = VisionTransformer(
        patch_size,
        width=state["cls_token"].shape[-1],
        depth=len([name for name in state if name.endswith("attn.qkv.weight")]),
        heads=arrays[f"cls_attention_{sizes[0]}"].shape[1],
        position_size=patch_size * math.isqrt(state["pos_embed"].shape[1] - 1),
    ).eval()
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        for size in sizes:
            images = torch.tensor(arrays[f"in_{size}"]).float()
            assert golden_error(model(images), arrays[f"cls_{size}"]) < 1e-4
            assert golden_error(model.cls_attention(images), arrays[f"cls_attention_{size}"]) < 1e-4
            last2 = torch.stack(model.tokens(images, (-2, -1)))[:, :, ::7]
            assert golden_error(last2, arrays[f"last2_{size}"]) < 1e-4
