"""Write weights in another layout: the authors', timm's, torchvision's, ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from backbones import build_backbone
from backbones.formats.authors import barlow_twins_checkpoint, dino_checkpoint, method_state
from backbones.formats.export import TIMM_NAMES, Written, difference_of, export_backbone, require_known, write_checked
from backbones.formats.source import Source
from common.cli import PluginOption, read_command
from common.errors import UsageError, UserError
from common.options import IMAGE_SIZE, option
from common.progress import say, working

#: Layouts of a whole training: the function that converts a run's checkpoint, and the authors' backbones.
FULL_FORMATS: dict[str, tuple[Callable[[Mapping[str, Any]], dict[str, Any]], tuple[str, ...]]] = {
    "dino_full": (dino_checkpoint, tuple(TIMM_NAMES)),
    "barlow_twins_full": (barlow_twins_checkpoint, ("resnet18", "resnet50")),
}


@dataclass(kw_only=True)
class ExportCommand(PluginOption):
    """Weights in another program's layout. The file is read back, and its features compared."""

    weights: str | None = None
    """run directory, checkpoint, weights file or released weights by name"""
    key: str | None = None
    """which network of a checkpoint, such as teacher or student; default: the one that the run evaluates, else the teacher"""
    backbone: str | None = None
    """its name; default: the run's, or what the released weights are of"""
    format: Literal["dino", "dino_full", "barlow_twins", "barlow_twins_full", "torchvision", "timm", "onnx"] = "dino"
    """dino, torchvision, barlow_twins (torchvision's names): a backbone's state dict; dino_full, barlow_twins_full: the
    authors' checkpoint.pth of a run; timm: safetensors; onnx: images to features, for any batch size"""
    out: str | None = None
    """the file to write"""
    image_size: int | None = option(None, **IMAGE_SIZE)
    """side of the images that an ONNX model takes, in pixels; default: the run's, else 224"""


def main(words: Sequence[str]) -> int:
    command = read_command("export", __doc__, ExportCommand, words)
    with working(f"writing {command.out}"):
        written = export(command)
    say(written)
    return 0


def export(command: ExportCommand) -> Written:
    """Write weights in another layout, and read them back. Raises UsageError if options contradict each other, or the layout cannot
    hold such a network; UserError if weights cannot be read, or give other features when read back (no file is written)."""
    if command.weights is None or command.out is None:
        raise UsageError("export: give --weights and --out")
    source = Source(command.weights)
    name = source.backbone_name(command.backbone or source.content.get("backbone_name"))
    image_size = command.image_size or source.content.get("image_size") or 224
    if command.format in FULL_FORMATS:
        return _export_full(command, source, name, image_size)
    backbone = build_backbone(name, image_size)
    source.load_into(backbone, name, command.key)
    kind = "torchvision" if command.format == "barlow_twins" else command.format
    return export_backbone(backbone, name, kind, Path(command.out), image_size)


def _export_full(command: ExportCommand, source: Source, name: str, image_size: int) -> Written:
    """Write a run's whole training. Every tensor must come back, and each backbone must give the same features."""
    convert, backbones = FULL_FORMATS[command.format]
    require_known(name, command.format, backbones)
    if not source.run:
        raise UsageError(f"--format {command.format}: {command.weights} is no run of this toolkit; give one")
    before = method_state(source.content)
    checkpoint = convert(source.content)
    networks = ("student", "teacher") if command.format == "dino_full" else (None,)
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))

    def features(weights: Source, key: str | None) -> torch.Tensor:
        backbone = build_backbone(name, image_size).eval()
        weights.load_into(backbone, name, key)
        with torch.no_grad():
            return backbone(images)

    def check(file: Path) -> tuple[float, str]:
        written = Source(file)
        after = method_state(written.content)
        if after.keys() != before.keys() or not all(torch.equal(after[name], before[name]) for name in before):
            raise UserError(f"{command.out}: not written, for what was read back has other tensors; please report it")
        differences = [difference_of(features(written, key), features(source, key)) for key in networks]
        return max(differences), f"new {name}s"

    return write_checked(Path(command.out), lambda file: torch.save(checkpoint, file), check)
