"""Every named backbone: shapes, gradients, sizes, names, and what is refused."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock

from backbones import BACKBONES, build_backbone, names
from backbones.base import Backbone
from backbones.resnet import ResNet
from backbones.vit import Attention, VisionTransformer
from common.errors import UsageError, UserError
from training.costs import count
from training.initial import starts_at_zero
from training.machine.devices import autocast

VITS = ["vit_pico", "vit_nano", "vit_micro8", "vit_t16", "vit_s16", "vit_s16_12heads", "vit_s8", "vit_b16", "vit_b8"]
RESNETS = ["resnet18", "resnet18_cifar", "resnet50"]
#: Sides in pixels (height, width): the smallest that shows something.
SIZES = {"vit_pico": (32, 24), "vit_nano": (32, 24), "vit_micro8": (32, 24), "vit_s8": (32, 24), "vit_b8": (16, 24)}


def check_maps(backbone: Backbone, images: torch.Tensor) -> None:
    """Every map has the channels and the stride that the backbone tells, whether asked for alone or with others."""
    blocks = list(range(-backbone.depth, 0))
    together = backbone.maps(images, blocks)
    for block, feature_map in zip(blocks, together, strict=True):
        stride = backbone.map_stride(block)
        rows, columns = images.shape[-2] // stride, images.shape[-1] // stride
        assert feature_map.shape == (len(images), backbone.map_channels(block), rows, columns)
    assert torch.equal(backbone.maps(images, [0])[0], together[0])


def test_names_are_all_tested_here():
    own = [name for name in names() if not name.startswith("small_")]  # which tests in the same process may have added
    assert own == sorted([*VITS, *RESNETS, "pixels"])


@pytest.mark.parametrize("name", VITS + RESNETS + ["timm:convnext_atto", "timm:vit_tiny_patch16_224", "timm:resnet10t"])
def test_forward_and_backward(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, image_size=64 if name.startswith("timm") else 32)
    images = torch.randn(2 if not name.startswith("vit_b") else 1, 3, *SIZES.get(name, (64, 32)))
    features = backbone(images)
    assert features.shape == (len(images), backbone.width)
    features.square().sum().backward()
    unused = [key for key, parameter in backbone.named_parameters() if parameter.grad is None]
    assert unused == []
    assert all(parameter.grad.isfinite().all() for parameter in backbone.parameters())
    backbone.eval()
    with torch.no_grad():
        check_maps(backbone, images)


@pytest.mark.parametrize("name", ["vit_nano", "vit_t16", "timm:vit_tiny_patch16_224"])
def test_tokens_and_attention(name):
    backbone = build_backbone(name, image_size=64).eval()
    images = torch.randn(2, 3, 64, 32)
    patches = (64 // backbone.stride) * (32 // backbone.stride)
    with torch.no_grad():
        first, last, again = backbone.tokens(images, (0, -1, backbone.depth - 1))
        assert first.shape == last.shape == (2, 1 + patches, backbone.width)
        assert torch.equal(last, again)
        assert torch.allclose(last[:, 0], backbone(images), atol=1e-5)
        assert torch.equal(backbone.maps(images)[0].flatten(2).mT, last[:, 1:])
        attention = backbone.cls_attention(images)
    assert attention.shape[::2] == (2, 1 + patches)
    assert torch.allclose(attention.sum(-1), torch.ones(attention.shape[:2]), atol=1e-5)


def test_register_and_distillation_tokens_are_left_out():
    backbone = build_backbone("timm:deit_tiny_distilled_patch16_224", image_size=32).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert backbone.tokens(images)[0].shape == (1, 1 + 4, 192)
        attention = backbone.cls_attention(images)
    assert attention.shape == (1, 3, 1 + 4)
    assert (attention.sum(-1) < 1).all()


def test_attention_is_that_of_the_forward_pass():
    """The CLS row of ``cls_attention``, applied to the values, gives what the last block's attention makes of the CLS token."""
    torch.manual_seed(0)
    backbone = VisionTransformer(8, width=24, depth=2, heads=3).eval()
    images = torch.randn(2, 3, 32, 32)
    last, seen = backbone.blocks[-1].attn, {}
    last.register_forward_hook(lambda module, inputs, output: seen.update(tokens=inputs[0], output=output))
    with torch.no_grad():
        backbone.tokens(images)
        values = last.split(seen["tokens"])[2]
        mixed = torch.einsum("bhn,bhnd->bhd", backbone.cls_attention(images), values).flatten(1)
        assert torch.allclose(last.proj(mixed), seen["output"][:, 0], atol=1e-5)
        assert torch.allclose(last.first(seen["tokens"]), seen["output"][:, :1], atol=1e-5)


def test_half_precision_attention_on_cpu_equals_the_fused_one():
    torch.manual_seed(0)
    attention = Attention(32, heads=4).bfloat16()
    tokens = torch.randn(2, 10, 32).bfloat16()
    fused = F.scaled_dot_product_attention(*attention.split(tokens)).transpose(1, 2).flatten(2)
    assert (attention(tokens) - attention.proj(fused)).abs().max() < 0.02


def test_named_vits_have_the_published_positions_whatever_the_image_size():
    assert build_backbone("vit_t16", image_size=96).pos_embed.shape == (1, 197, 192)
    assert build_backbone("vit_s8", image_size=32).pos_embed.shape == (1, 785, 384)
    assert build_backbone("vit_nano", image_size=64).pos_embed.shape == build_backbone("vit_nano", 32).pos_embed.shape


def test_vit_initialisation():
    backbone = build_backbone("vit_t16")
    fc1 = backbone.blocks[3].mlp.fc1
    assert fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert (fc1.bias == 0).all()
    assert backbone.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    bound = (3 * 16 * 16) ** -0.5  # PyTorch's own, uniform
    assert backbone.patch_embed.proj.weight.abs().max() <= bound
    assert backbone.patch_embed.proj.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_drop_path_rises_linearly_and_only_in_training():
    backbone = build_backbone("vit_t16", drop_path_rate=0.11)
    rates = [block.drop_path for block in backbone.blocks]
    assert rates == pytest.approx([0.01 * index for index in range(12)])
    images = torch.randn(1, 3, 32, 32)
    backbone.eval()
    assert torch.equal(backbone(images), backbone(images))
    assert all(block.drop_path == 0 for block in build_backbone("vit_t16").blocks)


@pytest.mark.parametrize(
    "name, branches",
    [
        *(("resnet18", 8), ("resnet18_cifar", 8), ("resnet50", 16)),
        *(
            ("timm:resnet18", 8),
            ("timm:resnet50", 16),
            ("timm:resnet10t", 4),
            ("timm:resnetv2_18", 8),
            ("timm:regnetx_002", 13),
        ),
        *(("vit_nano", 0), ("timm:test_vit", 0), ("timm:convnext_atto", 0)),
    ],
)
def test_residual_branches_start_at_zero_only_if_asked_to(name, branches):
    """One meaning for built-in ResNets and timm's, whose own default is zero."""
    assert starts_at_zero(build_backbone(name, 32)) is None
    zero = starts_at_zero(build_backbone(name, 32, zero_init_residual=True))
    assert zero.startswith(f"{branches} residual branches of {name} start at zero") if branches else zero is None


@pytest.mark.parametrize(
    "name", ["resnet18", "timm:resnet10t", "timm:nf_resnet26", "timm:test_vit", "timm:convnext_atto"]
)
def test_no_resnet_has_stochastic_depth(name):
    torch.manual_seed(0)
    backbone, images = build_backbone(name, 64, drop_path_rate=0.9).train(), torch.randn(2, 3, 64, 64)
    assert torch.equal(backbone(images), backbone(images)) == ("resnet" in name)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_dilated_resnet50(output_stride):
    torch.manual_seed(0)
    dilated = build_backbone("resnet50", output_stride=output_stride).eval()
    assert dilated.stride == output_stride
    with torch.no_grad():
        check_maps(dilated, torch.randn(1, 3, 64, 32))
    dilated.load_state_dict(build_backbone("resnet50").state_dict())


def test_output_stride_of_timm_models():
    backbone = build_backbone("timm:resnet10t", 64, output_stride=16).eval()
    assert backbone.maps(torch.randn(1, 3, 64, 64))[0].shape == (1, 512, 4, 4)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnet18", 16), ("resnet50", 12), ("vit_s16", 8), ("timm:vit_tiny_patch16_224", 8), ("timm:convnext_atto", 5)],
)
def test_impossible_output_stride(name, output_stride):
    with pytest.raises(UsageError, match=str(output_stride)):
        build_backbone(name, 64, output_stride=output_stride)


def test_cifar_stem_keeps_resolution():
    backbone = build_backbone("resnet18_cifar", 32)
    assert [backbone.map_stride(block) for block in range(4)] == [1, 2, 4, 8]
    assert backbone.conv1.weight.shape == (64, 3, 3, 3)


@pytest.mark.parametrize("size", [(30, 32), (32, 33), (3, 3)])
def test_size_the_patch_does_not_divide(size):
    backbone = build_backbone("vit_nano", 32)
    for call in (backbone, backbone.tokens, backbone.maps, backbone.cls_attention):
        with pytest.raises(UserError, match=rf"{size[0]}×{size[1]} pixels do not divide into patches of 4"):
            call(torch.zeros(1, 3, *size))


def test_image_size_the_patch_does_not_divide():
    with pytest.raises(UserError, match=r"100×100 pixels do not divide into patches of 16; .* such as 96 or 112"):
        build_backbone("vit_s16", image_size=100)
    with pytest.raises(UserError, match=r"timm:vit_tiny_patch16_224.* 100×100 pixels"):
        build_backbone("timm:vit_tiny_patch16_224", image_size=100)


def test_timm_model_of_fixed_size_is_built_for_the_given_one():
    backbone = build_backbone("timm:mixer_s32_224", image_size=64)
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, 512)
    with pytest.raises(UserError, match="mixer_s32_224, built for 64 pixels, cannot take images of 96×96 pixels"):
        backbone(torch.zeros(2, 3, 96, 96))


def test_timm_width_is_what_the_classifier_would_get():
    backbone = build_backbone("timm:mobilenetv3_small_050", 32).eval()
    assert backbone(torch.zeros(1, 3, 32, 32)).shape == (1, backbone.width)
    assert backbone.width != backbone.map_channels()


@pytest.mark.parametrize("name", ["resnet18", "timm:convnext_atto"])
def test_no_tokens(name):
    backbone = build_backbone(name, 64)
    assert not backbone.has_tokens
    for call in (backbone.tokens, backbone.cls_attention):
        with pytest.raises(UserError, match=f"{name} has no CLS"):
            call(torch.zeros(1, 3, 64, 64))


def test_block_that_is_not_there():
    backbone = build_backbone("vit_nano", 32)
    for block in (backbone.depth, -backbone.depth - 1):
        with pytest.raises(UserError, match=f"block {block} .* blocks 0 to {backbone.depth - 1}"):
            backbone.tokens(torch.zeros(1, 3, 32, 32), [block])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_s9", r"unknown backbone 'vit_s9'; did you mean vit_s8\?"),
        ("timm:resnet50x", r"unknown timm model 'resnet50x'; did you mean timm:resnet50\w*\?"),
        ("timm:", "unknown timm model ''"),
        ("timm:vit_tiny_patch16_224.nothing", "has no weights 'nothing'"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(UsageError, match=message):
        build_backbone(name)


def test_unknown_hint():
    with pytest.raises(TypeError, match="drop_rate"):
        build_backbone("vit_nano", 32, drop_rate=0.1)


def test_plugin_backbone(monkeypatch):
    monkeypatch.setattr(BACKBONES, "_items", dict(BACKBONES._items))

    @BACKBONES.register("mean_colour")
    class MeanColour(Backbone):
        width, stride, depth = 3, 1, 1

        def __init__(self, image_size, **hints):
            super().__init__()

        def forward(self, images):
            return images.mean((2, 3))

    assert "mean_colour" in names()
    backbone = build_backbone("mean_colour", 32, drop_path_rate=0.1)
    assert backbone.label == "mean_colour"


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18"])
def test_weight_gradients_of_single_pixels_are_not_made_of_unwritten_memory(name):
    """Of 16 pixels the last stage of a ResNet sees one, where oneDNN's bf16 convolution gave anything up to NaN."""
    torch.manual_seed(0)
    strided = [m for m in build_backbone(name, 16).modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    convolution = next(m for m in reversed(strided) if m.kernel_size == (3, 3))
    inputs = torch.randn(64, convolution.in_channels, 1, 1)
    upstream = torch.randn(64, convolution.out_channels, 1, 1)
    plain = torch.nn.functional.conv2d(inputs, convolution.weight, stride=2, padding=1)
    assert torch.allclose(convolution(inputs), plain, rtol=1e-4, atol=1e-5)
    (exact,) = torch.autograd.grad((plain * upstream).sum(), convolution.weight)
    for _ in range(4):
        junk = [torch.full((1 << 20,), torch.nan) for _ in range(20)]
        del junk
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = convolution(inputs)
        (gradient,) = torch.autograd.grad((outputs.float() * upstream).sum(), convolution.weight)
        assert (gradient - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weight_gradients_by_products_are_torchs(precision, monkeypatch):
    monkeypatch.setattr("backbones.convolution.MANY_WEIGHTS", 1)
    torch.manual_seed(0)
    ours = build_backbone("resnet18")
    torchs = ResNet(BasicBlock, (2, 2, 2, 2))
    torchs.load_state_dict(ours.state_dict())
    images, upstream = torch.randn(2, 3, 48, 64), torch.randn(2, 512)
    found = []
    for network in (ours, torchs):
        with autocast(torch.device("cpu"), precision):
            features = network(images)
        (features.float() * upstream).sum().backward()
        found.append([p.grad for p in network.parameters()])
    assert sum(type(m) is not nn.Conv2d for m in ours.modules() if isinstance(m, nn.Conv2d)) == 17
    for of_ours, of_torch in zip(*found, strict=True):
        assert of_ours.stride() == of_torch.stride() and of_ours.dtype == of_torch.dtype
        assert (of_ours - of_torch).norm() < (1e-4 if precision == "fp32" else 0.05) * of_torch.norm()


def test_pooled_features_are_the_cls_token_of_all_tokens():
    """The last block computes only the CLS token where only that is asked for."""
    torch.manual_seed(0)
    upstream = torch.randn(4, 96)  # a sum of squares would have no gradient to speak of: the features are normed
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        backbone = build_backbone("vit_nano", 32, drop_path_rate=0.5).to(dtype)
        images = torch.randn(4, 3, 32, 48, dtype=dtype)
        found = []
        for whole in (False, True):
            backbone.zero_grad()
            torch.manual_seed(1)  # of stochastic depth
            features = backbone.tokens(images)[0][:, 0] if whole else backbone(images)
            (features.float() * upstream).sum().backward()
            found.append([features.detach(), *(p.grad.clone() for p in backbone.parameters())])
        for first, of_all in zip(*found, strict=True):
            assert (first - of_all).norm() < tolerance * of_all.norm()


def test_names_need_no_torch():
    code = "import sys, backbones; assert 'vit_nano' in backbones.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cost_of_a_vit_is_that_of_its_matrix_products():
    backbone = VisionTransformer(8, width=24, depth=2, heads=3)
    tokens, patches, width = 17, 16, 24
    block = 2 * tokens * width * (3 * width + width + 8 * width) + 2 * 2 * tokens * tokens * width
    parameters, flops = count(backbone, 32)
    assert flops == 2 * block + 2 * patches * width * 3 * 8 * 8
    assert parameters == sum(parameter.numel() for parameter in backbone.parameters())
    assert next(backbone.parameters()).device.type == "cpu"


def test_cost_of_published_models():
    # timm's table: 4.6 and 4.1 GMACs; 22.05 and 25.56 million parameters with a classifier of 1000 classes.
    parameters, flops = count(build_backbone("vit_s16"), 224)
    assert parameters == 22_050_664 - 385 * 1000
    assert flops / 2e9 == pytest.approx(4.6, abs=0.05)
    parameters, flops = count(build_backbone("resnet50"), 224)
    assert parameters == 25_557_032 - 2049 * 1000
    assert flops / 2e9 == pytest.approx(4.1, abs=0.05)


def test_pixels_map_is_the_image_in_cells():
    backbone = build_backbone("pixels", image_size=64)
    images = torch.randn(2, 3, 64, 96)
    (found,) = backbone.maps(images)
    assert found.shape == (2, backbone.map_channels(), 32, 48) and backbone.map_stride() == 2
    assert torch.allclose(found[0, :, 1, 2], images[0, :, 2:4, 4:6].mean((1, 2)))
