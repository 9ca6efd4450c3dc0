"""torchvision's ResNets without the classifier, under its state-dict names (as in the authors' ``resnet50.pth``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from backbones.base import Backbone, named_blocks
from common.errors import UsageError

STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(torchvision_resnet.ResNet, Backbone):
    """A ResNet for images of any size.

    Args:
        block, layers: as for torchvision.
        cifar_stem: a 3×3 convolution of stride 1 and no max-pool, for images of about 32 pixels (stage strides 1, 2, 4, 8).
        zero_init_residual: start each residual branch at zero (Barlow Twins' ResNet-50 does).
        output_stride: 32; or 16 or 8 with dilated last stages, for segmentation (bottleneck networks only).
    """

    def __init__(
        self,
        block: type[nn.Module],
        layers: Sequence[int],
        cifar_stem: bool = False,
        zero_init_residual: bool = False,
        output_stride: int = 32,
    ):
        dilate = [False, output_stride == 8, output_stride < 32]
        super().__init__(
            block, list(layers), zero_init_residual=zero_init_residual, replace_stride_with_dilation=dilate
        )
        self.fc = nn.Identity()
        if cifar_stem:
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()
        first = 1 if cifar_stem else 4
        # Convolutions are faster with channels innermost.
        self.to(memory_format=torch.channels_last)
        self._strides = [min(first * 2**stage, output_stride) for stage in range(4)]
        self._channels = [64 * 2**stage * block.expansion for stage in range(4)]
        self.width = self._channels[-1]
        self.stride = self._strides[-1]
        self.depth = len(STAGES)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(images)[0].mean(dim=(2, 3))

    def maps(self, images: Tensor, blocks: Sequence[int] = (-1,)) -> list[Tensor]:
        wanted = named_blocks(blocks, self.depth)
        outputs = {}
        images = images.contiguous(memory_format=torch.channels_last)
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for index, stage in enumerate(STAGES[: max(wanted) + 1]):
            features = outputs[index] = getattr(self, stage)(features)
        return [outputs[index] for index in wanted]

    def map_channels(self, block: int = -1) -> int:
        return self._channels[named_blocks([block], self.depth)[0]]

    def map_stride(self, block: int = -1) -> int:
        return self._strides[named_blocks([block], self.depth)[0]]


def build(name: str, image_size: int, zero_init_residual: bool = False, output_stride: int = 32) -> ResNet:
    """Build ``resnet18``, ``resnet18_cifar`` or ``resnet50``; ``image_size`` changes nothing."""
    if output_stride not in (8, 16, 32):
        raise UsageError(f"output stride {output_stride} of {name}: choose 8, 16 or 32")
    if output_stride != 32 and name != "resnet50":
        raise UsageError(f"{name} cannot be dilated to output stride {output_stride}; use resnet50")
    if name == "resnet50":
        block, layers = torchvision_resnet.Bottleneck, (3, 4, 6, 3)
    else:
        block, layers = torchvision_resnet.BasicBlock, (2, 2, 2, 2)
    return ResNet(block, layers, name == "resnet18_cifar", zero_init_residual, output_stride)
