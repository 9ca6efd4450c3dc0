import functools

import pytest
import torch

from backbones import build_backbone
from heads.segmentation.core.base import SEGMENTATION_HEADS

HEADS = SEGMENTATION_HEADS.names()


def build(name: str, backbone, classes: int):
    head_class = SEGMENTATION_HEADS.get(name)
    blocks = head_class.blocks(backbone.depth)
    channels = [backbone.map_channels(block) for block in blocks]
    return head_class(channels, [backbone.map_stride(block) for block in blocks], classes), blocks


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (64, 32)])
@pytest.mark.parametrize("name", HEADS)
def test_vit_forward_and_backward(name, size):
    backbone = build_backbone("vit_nano", image_size=32)
    head, blocks = build(name, backbone, 7)
    logits = head(backbone.maps(torch.randn(2, 3, *size), blocks), size)
    assert logits.shape == (2, 7, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@functools.cache
def resnet(name, stride):
    return build_backbone(name, output_stride=stride)


#: Backbone, stride of its last map, size of the images.
RESNETS = [("resnet18", 32, (64, 64)), ("resnet18", 32, (65, 97)), ("resnet50", 8, (33, 49))]


@pytest.mark.parametrize(("resnet_name", "stride", "size"), RESNETS)
@pytest.mark.parametrize("name", HEADS)
def test_resnet_forward_and_backward(name, resnet_name, stride, size):
    backbone = resnet(resnet_name, stride)
    head, blocks = build(name, backbone, 5)
    logits = head(backbone.maps(torch.randn(2, 3, *size), blocks), size)
    assert logits.shape == (2, 5, *size)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def parameters(name: str, width: int, stride: int, classes: int, streams: int = 1) -> int:
    head = SEGMENTATION_HEADS.get(name)([width] * streams, [stride] * streams, classes)
    return sum(p.numel() for p in head.parameters())


def test_parameter_counts_are_those_in_the_docstrings():
    d, c = 64, 21
    assert parameters("linear", d, 16, c) == d * c + c
    assert parameters("linear_pixels", d, 8, c) == (d + 1) * c * 64
    assert parameters("setr_naive", d, 16, c) == 256 * d + 512 + 257 * c
    for stride, n in ((8, 3), (16, 4), (32, 5)):
        assert parameters("setr_pup", d, stride, c) == 9 * 256 * d + 9 * 256**2 * (n - 1) + 512 * n + 257 * c
    assert (
        parameters("setr_mla", d, 16, c, 4) == 4 * (d**2 // 2 + 18 * d**2 // 4 + 9 * d**2 // 8 + 7 * d // 2) + d * c + c
    )
    aspp = 256 * (29 * d) + 256 * 5 * 256 + 256 * 9 * 256
    assert parameters("deeplabv3", d, 16, c) == aspp + 2 * 256 * 7 + 257 * c


def test_mla_reads_four_blocks_spread_over_the_depth():
    mla = SEGMENTATION_HEADS.get("setr_mla")
    assert mla.blocks(24) == (5, 11, 17, 23)  # 6, 12, 18, 24 in the paper
    assert mla.blocks(12) == (2, 5, 8, 11)
    assert mla.blocks(4) == (0, 1, 2, 3)
    assert mla.blocks(5) == (1, 2, 3, 4)  # timm's ResNets, which count their stem: the four stages
    assert mla.blocks(2) == (0, 0, 1, 1)


def test_pup_never_upsamples_by_more_than_two(monkeypatch):
    import heads.segmentation.setr_pup as module

    steps = []

    def watched(features, size):
        steps.append(size[0] / features.shape[-2])
        return torch.nn.functional.interpolate(features, size)

    monkeypatch.setattr(module, "resize", watched)
    module.SETRPUP([8], [16], 3)([torch.randn(1, 8, 2, 2)], (32, 32))
    assert steps == [2, 2, 2, 2, 1]
