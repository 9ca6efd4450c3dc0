"""Transformers' ViT and DINOv2: the same features as transformers' own, from folders and from a hub on loopback."""

import hashlib
import importlib.util
import json

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

from backbones import build_backbone
from backbones.formats import huggingface
from backbones.formats.source import Source
from backbones.timm_models import TimmBackbone
from backbones.vit import VisionTransformer
from common.errors import UsageError, UserError
from tests.served import Server

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="needs pip install '.[parity]', as .ci/run does"
)
SHAPE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}


def ours(patch=8, size=32):
    torch.manual_seed(9)
    return VisionTransformer(patch, 24, 2, 3, position_size=size).eval()


def timms(registers=0, swiglu=False):
    """A DINOv2 of timm, as its ``vit_small_patch14_dinov2`` and ``…_reg4_dinov2`` are, but tiny."""
    from timm.layers import SwiGLUPacked

    torch.manual_seed(9)
    more = {"reg_tokens": registers, "no_embed_class": True} if registers else {}
    if swiglu:
        more |= {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 128 / 24}
    model = TimmVisionTransformer(
        img_size=28, patch_size=14, embed_dim=24, depth=2, num_heads=3, init_values=1e-5, num_classes=0, **more
    )
    return TimmBackbone(model, "timm:tiny", 28).eval()


def in_transformers(kind, head=False, **options):
    """A model of transformers with tensors unlike fresh ones (layer scales and biases as well), and what makes its counterpart."""
    import transformers

    torch.manual_seed(3)
    name = {"vit": "ViT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}[kind]
    sizes = (
        {"image_size": 32, "patch_size": 8, "intermediate_size": 96}
        if kind == "vit"
        else {"image_size": 28, "patch_size": 14}
    )
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **sizes, **options})
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForImageClassification" if head else f"{name}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


CASES = {
    "vit": ("vit", {}, ours),
    "vit with 1e-6": ("vit", {"layer_norm_eps": 1e-6}, ours),
    "vit without biases of q, k, v": ("vit", {"qkv_bias": False}, ours),
    "vit with a head": ("vit", {"head": True}, ours),
    "dinov2": ("dinov2", {}, timms),
    "dinov2 with a head": ("dinov2", {"head": True}, timms),
    "dinov2 with registers": ("dinov2_with_registers", {"num_register_tokens": 4}, lambda: timms(4)),
    "dinov2 with SwiGLU": ("dinov2", {"use_swiglu_ffn": True}, lambda: timms(swiglu=True)),
}


@needs_transformers
@pytest.mark.parametrize("case", CASES)
def test_features_equal_transformers(tmp_path, case):
    kind, options, build = CASES[case]
    model = in_transformers(kind, **options)
    model.save_pretrained(tmp_path / "saved")
    backbone = build()
    report = Source(tmp_path / "saved").load_into(backbone, "tiny")
    assert report.matched == report.total
    side = 32 if kind == "vit" else 28
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    base = getattr(model, model.base_model_prefix) if options.get("head") else model
    with torch.no_grad():
        tokens = base(images).last_hidden_state
        # transformers' ViT has another epsilon in its norms, 1e-12, unless its configuration says the authors'.
        tolerance = 3e-4 if model.config.layer_norm_eps < 1e-6 else 2e-5
        assert torch.allclose(backbone(images), tokens[:, 0], atol=tolerance)
        patches = tokens[:, 1 + options.get("num_register_tokens", 0) :]
        assert torch.allclose(backbone.tokens(images)[0][:, 1:], patches, atol=tolerance)


@needs_transformers
def test_its_state_dict_in_any_file(tmp_path):
    """Under today's names of its modules, which its files do not have, and in an entry."""
    model = in_transformers("vit", head=True, layer_norm_eps=1e-6)
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "m.pth")
    backbone = ours()
    report = Source(tmp_path / "m.pth").load_into(backbone, "tiny")
    assert report.note == "state_dict.vit; left out: classifier"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(backbone(images), model.vit(images).last_hidden_state[:, 0], atol=2e-5)


@needs_transformers
def test_positions_of_another_grid_are_interpolated(tmp_path):
    in_transformers("vit", image_size=48).save_pretrained(tmp_path / "saved")
    assert "pos_embed interpolated from (1, 37, 24) to (1, 17, 24)" in str(
        Source(tmp_path / "saved").load_into(ours(), "tiny")
    )


def numbers(shape, start):
    """Fixed numbers, the same on every machine."""
    count = int(np.prod(shape))
    return torch.from_numpy((np.sin(np.arange(start, start + count) * 0.7) * 0.2).astype(np.float32)).reshape(shape)


def layout(registers):
    """A DINOv2 in transformers' layout, without transformers."""
    shapes = {
        "embeddings.cls_token": (1, 1, 24),
        "embeddings.mask_token": (1, 24),
        "embeddings.position_embeddings": (1, 5, 24),
        "embeddings.patch_embeddings.projection.weight": (24, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (24,),
        "layernorm.weight": (24,),
        "layernorm.bias": (24,),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, 24)
    for block in range(2):
        inside = {f"attention.attention.{part}": (24, 24) for part in ("query", "key", "value")}
        inside |= {"attention.output.dense": (24, 24), "mlp.fc1": (96, 24), "mlp.fc2": (24, 96)}
        shapes |= {f"encoder.layer.{block}.{name}.weight": shape for name, shape in inside.items()}
        shapes |= {f"encoder.layer.{block}.{name}.bias": shape[:1] for name, shape in inside.items()}
        for name in (
            "norm1.weight",
            "norm1.bias",
            "norm2.weight",
            "norm2.bias",
            "layer_scale1.lambda1",
            "layer_scale2.lambda1",
        ):
            shapes[f"encoder.layer.{block}.{name}"] = (24,)
    return {name: numbers(shape, 31 * place) for place, (name, shape) in enumerate(sorted(shapes.items()))}


def saved(folder, state, **config):
    folder.mkdir(parents=True)
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2", "num_attention_heads": 3, **config}))
    return folder


#: The first six of the 24 features of ``numbers((1, 3, 28, 28), 5)`` by transformers 5.24 (Dinov2Model, Dinov2WithRegistersModel).
GOLDEN = {
    0: [-0.188111, -0.162784, -0.057199, 0.135678, 0.057074, 0.150332],
    4: [0.071279, 0.18723, 0.013918, 0.055597, -0.054967, -0.105954],
}


@pytest.mark.parametrize("registers", [0, 4])
def test_features_of_fixed_numbers(tmp_path, registers):
    backbone = timms(registers)
    Source(saved(tmp_path / "saved", layout(registers))).load_into(backbone, "tiny")
    with torch.no_grad():
        features = backbone(numbers((1, 3, 28, 28), 5))[0, :6]
    assert torch.allclose(features, torch.tensor(GOLDEN[registers]), atol=2e-5)


def test_parts_of_a_large_model(tmp_path):
    folder, state = saved(tmp_path / "saved", layout(0)), layout(0)
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
    for file, inside in parts.items():
        safetensors.torch.save_file({name: state[name] for name in inside}, folder / file)
    index = {name: file for file, inside in parts.items() for name in inside}
    (folder / huggingface.INDEX).write_text(json.dumps({"weight_map": index}))
    assert Source(folder).load_into(timms(), "tiny").matched == 34
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(UserError, match="names files that are not beside it"):
        Source(folder).load_into(timms(), "tiny")
    (folder / huggingface.INDEX).write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(UserError, match="names files that are not beside it"):
        Source(folder).load_into(timms(), "tiny")


def test_what_shapes_do_not_say_is_checked(tmp_path):
    for wrong, message in (
        ({"num_attention_heads": 6}, "6 attention heads"),
        ({"hidden_act": "relu"}, "activation relu"),
    ):
        folder = saved(tmp_path / message.replace(" ", ""), layout(0), **wrong)
        with pytest.raises(UserError, match=message):
            Source(folder).load_into(timms(), "tiny")


class Hub(Server):
    """Answers as the Hugging Face hub does: the file's SHA-256 digest and the commit in headers."""

    def __init__(self):
        super().__init__()
        outer = self

        def head(request):
            content = outer.files.get(request.path.lstrip("/"))
            if content is None:
                return request.send_error(404)
            request.send_response(200)
            request.send_header("X-Repo-Commit", "1" * 40)
            request.send_header("ETag", f'"{outer.digests.get(request.path, hashlib.sha256(content).hexdigest())}"')
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            return None

        self.digests: dict[str, str] = {}
        self._server.RequestHandlerClass.do_HEAD = lambda request: head(request)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on loopback, as ``HF_ENDPOINT`` says, with a ResNet-sized ViT of transformers: the shapes of ``vit_t16``."""
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    state = in_layout(build_backbone("vit_t16").state_dict())
    made = saved(tmp_path / "made", state, model_type="vit")
    (made / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    for file in made.iterdir():
        server.files[f"org/tiny/resolve/main/{file.name}"] = file.read_bytes()
    yield server
    server.close()


def in_layout(state):
    """DINO's names as transformers', for a ViT."""
    outside = {ours: theirs for theirs, ours in huggingface._OUTSIDE.items()}
    renamed = {}
    for name, value in state.items():
        if name in outside:
            renamed[outside[name]] = value
            continue
        _, block, rest = name.split(".", 2)
        part, kind = rest.rsplit(".", 1)
        if part == "attn.qkv":
            for which, values in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"encoder.layer.{block}.attention.attention.{which}.{kind}"] = values.clone()
            continue
        theirs = {"attn.proj": "attention.output.dense", "norm1": "layernorm_before", "norm2": "layernorm_after"}
        theirs |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
        renamed[f"encoder.layer.{block}.{theirs[part]}.{kind}"] = value
    return {f"vit.{name}": value.contiguous() for name, value in renamed.items()}


def test_from_the_hub(hub, tmp_path):
    source = Source("hf:org/tiny")
    assert source.backbone_name() == "vit_t16" and not source.is_run_directory
    hub.files["org/tiny/resolve/main/config.json"] = json.dumps({"num_attention_heads": 3}).encode()
    backbone = build_backbone("vit_t16")
    report = source.load_into(backbone, "vit_t16")
    expected = huggingface.as_published(
        {k.removeprefix("vit."): v for k, v in safetensors.torch.load_file(tmp_path / "made/model.safetensors").items()}
    )
    assert all(torch.equal(value, expected[name]) for name, value in backbone.state_dict().items())
    assert "trained on images normalised by mean 0.5 0.5 0.5" in report.note
    asked = len(hub.asked)
    assert Source("hf:org/tiny").path == source.path and len(hub.asked) == asked  # from the cache
    with pytest.raises(UserError, match="org/other cannot be had from the Hugging Face hub"):
        _ = Source("hf:org/other").path
    for wrong in ("hf:tiny", "hf:a/b/c", "hf:"):
        with pytest.raises(UsageError, match="give weights on the Hugging Face hub as hf:ORG/NAME"):
            Source(wrong)


def test_a_file_that_came_wrong_is_refused(hub):
    hub.digests["/org/tiny/resolve/main/model.safetensors"] = "0" * 64
    with pytest.raises(UserError, match=r"damaged \(its SHA-256 digest is"):
        _ = Source("hf:org/tiny").path
