"""Exports a backbone's weights in other programs' layouts. The program that a file is for reads it back, and the file is kept
only if the features are the same."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from backbones import build_backbone
from backbones.base import Backbone
from backbones.formats.source import Source
from backbones.timm_models import TimmBackbone
from backbones.vit import VisionTransformer
from common.environment import missing_package
from common.errors import UsageError, UserError
from common.files import atomic_file

#: Largest difference of features, as a part of their largest magnitude, that a different rounding explains.
TOLERANCE = 1e-4

#: timm's names of our backbones.
TIMM_NAMES = {
    "vit_t16": "vit_tiny_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_s8": "vit_small_patch8_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_b8": "vit_base_patch8_224",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
}


@dataclass(frozen=True)
class Written:
    """A file that was written and read back, and its features' ``difference_of`` the backbone's."""

    path: Path
    difference: float
    reader: str

    def __str__(self) -> str:
        return (
            f"{self.path}: written, and read back by {self.reader}: features differ by {self.difference:.1e} of the "
            f"largest at most ({TOLERANCE:.0e} is allowed)"
        )


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict, dense and on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}


def export_backbone(backbone: Backbone, name: str, kind: str, path: Path, image_size: int) -> Written:
    """Write a backbone's weights, replacing the file at ``path``.

    Args:
        name: the name the backbone was built by.
        kind: a key of ``FORMATS``.
        image_size: side in pixels of the images that features are compared on, and that an ONNX model takes.

    Raises:
        UsageError: the layout has no place for that backbone, or the file's name has the wrong ending.
        UserError: the file that was read back gives other features; ``path`` keeps its old content.
    """
    write, read = FORMATS[kind]
    if kind == "timm" and path.suffix != ".safetensors":
        raise UsageError(f"--out {path}: timm's files are safetensors; give a name that ends in .safetensors")
    backbone = backbone.cpu().eval()
    if isinstance(backbone, VisionTransformer):
        image_size = backbone.grid * backbone.stride if kind != "onnx" else image_size
    images = torch.randn(3, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))

    def check(file: Path) -> tuple[float, str]:
        with torch.no_grad():
            features, reader = read(file, name, images)
            return difference_of(features, backbone(images)), reader

    return write_checked(path, lambda file: write(backbone, name, file, images), check)


def write_checked(path: Path, write: Callable[[Path], None], check: Callable[[Path], tuple[float, str]]) -> Written:
    """Write a file in a temporary folder, check it, and move it to ``path`` if its features are the same.

    ``check`` returns the ``difference_of`` features and the name of the reader. Raises UserError for a difference above
    ``TOLERANCE``; ``path`` then keeps its old content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        file = Path(folder) / path.name
        write(file)
        difference, reader = check(file)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path}: not written, for what {reader} read back gives other features (they differ by {difference:.1e} of "
                f"the largest, and {TOLERANCE:.0e} is allowed); please report it"
            )
        with open(file, "rb") as source, atomic_file(path) as target:
            shutil.copyfileobj(source, target)
    return Written(path, difference, reader)


def difference_of(features: Tensor, expected: Tensor) -> float:
    """Largest absolute difference as a part of the largest expected magnitude; infinite for another shape or NaN."""
    if features.shape != expected.shape:
        return float("inf")
    difference = (features - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
    return difference.item() if difference.isfinite() else float("inf")


def require_known(name: str, kind: str, names: Iterable[str]) -> None:
    """Raise UsageError if the layout ``kind`` has no place for a backbone."""
    if name not in names:
        raise UsageError(f"--format {kind}: there is no {name} in that layout (it is for {', '.join(names)})")


def _write_dino(backbone: Backbone, name: str, path: Path, images: Tensor) -> None:
    """Write the layout of ``dino_deitsmall16_pretrain.pth`` and ``dino_xcit_small_12_p16_pretrain.pth``."""
    if isinstance(backbone, TimmBackbone) and name.startswith("timm:xcit_"):
        torch.save(_as_xcit_authors(plain_state(backbone.model)), path)
        return
    require_known(name, "dino", (*TIMM_NAMES, "timm:xcit_…"))
    torch.save(plain_state(backbone), path)


def _as_xcit_authors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo ``timm.models.xcit.checkpoint_filter_fn``: facebookresearch/xcit's layout, which DINO's hub loads."""
    theirs = {}
    for name, value in state.items():
        match = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn\.)([qkv])\.(\w+)", name)
        if match is None:
            theirs[name.replace("pos_embed.", "pos_embeder.")] = value
        elif match[2] == "q":
            theirs[f"{match[1]}qkv.{match[3]}"] = torch.cat([state[f"{match[1]}{part}.{match[3]}"] for part in "qkv"])
    return theirs


def _read_ours(path: Path, name: str, images: Tensor) -> tuple[Tensor, str]:
    backbone = build_backbone(name, images.shape[-1]).eval()
    Source(path).load_into(backbone, name)
    return backbone(images), f"a new {name}"


def _write_torchvision(backbone: Backbone, name: str, path: Path, images: Tensor) -> None:
    """Write the layout of Barlow Twins' ``resnet50.pth``: torchvision's names, without a classifier."""
    require_known(name, "torchvision", ("resnet18", "resnet50"))
    torch.save(plain_state(backbone), path)


def _read_torchvision(path: Path, name: str, images: Tensor) -> tuple[Tensor, str]:
    model = torchvision.models.get_model(name).eval()
    model.fc = nn.Identity()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model(images), f"torchvision's {name}"


def _write_timm(backbone: Backbone, name: str, path: Path, images: Tensor) -> None:
    """Write timm's layout, whose names are DINO's for ViTs and torchvision's for ResNets."""
    if not isinstance(backbone, TimmBackbone):
        require_known(name, "timm", (*TIMM_NAMES, "timm:NAME"))
    metadata = {"format": "pt", "architecture": _timm_name(name)}
    safetensors.torch.save_file(plain_state(backbone.published), path, metadata)


def _read_timm(path: Path, name: str, images: Tensor) -> tuple[Tensor, str]:
    if name.startswith("timm:"):  # perhaps built for another image size than timm's own
        return _read_ours(path, name, images)
    model = timm.create_model(_timm_name(name), num_classes=0, checkpoint_path=str(path)).eval()
    return model(images), f"timm's {_timm_name(name)}"


def _timm_name(name: str) -> str:
    return TIMM_NAMES.get(name) or name.removeprefix("timm:").partition(".")[0]


def _write_onnx(backbone: Backbone, name: str, path: Path, images: Tensor) -> None:
    """Write a model from ``images [batch, 3, H, W]``, normalised as for ImageNet, to ``features [batch, D]``."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_package("--format onnx", error, "export") from error
    program = torch.onnx.export(
        backbone,
        (images[:2],),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    program.save(str(path), external_data=False)


def _read_onnx(path: Path, name: str, images: Tensor) -> tuple[Tensor, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), "ONNX Runtime"


#: The writer and the reader of each layout.
FORMATS = {
    "dino": (_write_dino, _read_ours),
    "torchvision": (_write_torchvision, _read_torchvision),
    "timm": (_write_timm, _read_timm),
    "onnx": (_write_onnx, _read_onnx),
}
