"""Write the features of any folder's images to a file: parquet or npz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.cli import PluginOption, read_command, require_one_process
from common.errors import UsageError
from common.options import IMAGE_SIZE, check, option


@dataclass(kw_only=True)
class FeaturesCommand(PluginOption):
    """Features of images, one row an image, in the order of their names."""

    weights: str | None = None
    """run directory, checkpoint, weights file or released weights by name; default: untrained"""
    key: str | None = None
    """which network of a checkpoint, such as teacher or student; default: the one that the run evaluates, else the teacher"""
    backbone: str | None = None
    """its name; default: the run's, or what the released weights are of"""
    images: str | None = None
    """folder of images, flat or nested, with or without classes"""
    out: str | None = None
    """the file to write: NAME.parquet (needs the extra hf) or NAME.npz"""
    tokens: bool = False
    """also write the features of the images' places: a ViT's patch tokens, a ResNet's last map"""
    image_size: int | None = option(None, **IMAGE_SIZE)
    """side of the images as the network sees them, in pixels; default: the run's, else 224"""
    batch_size: int = option(64, at_least=1)
    """images at a time; memory does not depend on how many there are"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device is fast at it, else fp32"""
    seed: int = 0
    """of untrained weights"""


def main(words: Sequence[str]) -> int:
    require_one_process("features")
    write_features(read_command("features", __doc__, FeaturesCommand, words))
    return 0


def write_features(command: FeaturesCommand) -> Path:
    """Write the file and return its path; files that are no images are told and named in it. Raises UsageError for missing options
    or another ending, UserError if the weights cannot be read, or no image can."""
    from common.progress import note, warn
    from eval.features.folder import features_of_folder, writer_of
    from reports.visual.core.network import DEFAULT_SIZE, load_network
    from training.machine.devices import pick_precision

    check(command)
    if command.images is None or command.out is None:
        raise UsageError("features: give --images and --out")
    path = Path(command.out)
    make_writer = writer_of(path)  # before anything is computed
    network = load_network(
        command.weights, command.backbone, command.key, command.image_size, command.device, command.seed
    )
    size = command.image_size or network.image_size or DEFAULT_SIZE
    precision = pick_precision(command.precision, network.device)
    about = {"weights": network.weights, "weights_file": command.weights, "backbone": network.name}
    written, unreadable = features_of_folder(
        network.backbone,
        network.device,
        precision,
        Path(command.images),
        path,
        make_writer,
        size,
        about,
        command.tokens,
        command.batch_size,
    )
    for name, reason in unreadable[:20]:
        warn(f"{name}: no usable image ({reason}); it has no row")
    if len(unreadable) > 20:
        warn(f"{len(unreadable) - 20} more files are no usable images; the file's meta data names all")
    note(f"{path}: features of {written} images; {len(unreadable)} files are no images")
    return path
