"""Effective receptive fields: which pixels a layer's centre unit really depends on (Luo et al. 2016, arXiv 1701.04128)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from backbones.base import Backbone
from backbones.resnet import ResNet
from common.errors import UsageError, UserError, unknown_name
from common.progress import track
from reports.visual.images import choose, data_title, files_of, read_image, test_images
from reports.visual.network import DEFAULT_SIZE, Network, folder_of, load_network
from reports.visual.options import ReceptiveFieldOptions
from reports.visual.style import even, file_stem, grid, headed, save_figure, short, show, style

#: A pixel is in the field where its contribution is more than this part of the greatest (Luo et al., section 3.2: within two
#: standard deviations of a Gaussian).
THRESHOLD = 1 - 0.9545
#: Contributions down to this part of the greatest are told apart in the picture.
FLOOR = 1e-4

#: (top, left, height, width) of a cell in pixels, possibly between pixels.
Unit = tuple[float, float, float, float]


@dataclass(frozen=True)
class Fields:
    """Receptive fields of one network's layers.

    Attributes:
        name: of the network and its weights, in up to two lines.
        layers: names.
        maps: ``[layers, H, W]``, not negative.
        units: (top, left, height, width) in pixels of the input that each centre unit lies over; None where that is not known.
    """

    name: str
    layers: Sequence[str]
    maps: np.ndarray
    units: Sequence[Unit | None]


def normalised(field: np.ndarray) -> np.ndarray:
    """A field divided by its greatest value: contributions in [0, 1]. A field of zeros stays one."""
    most = field.max()
    return field / most if most > 0 else field


def field_size(field: np.ndarray) -> float:
    """Side in pixels of a square as large as the field: root of the number of pixels that contribute more than ``THRESHOLD`` of
    the greatest (Luo et al., section 3.2)."""
    return float(np.sqrt((normalised(field) > THRESHOLD).sum()))


def share_outside(field: np.ndarray, unit: Unit) -> float:
    """The part of all contributions that comes from pixels whose centres are not in the unit's cell."""
    top, left, height, width = unit
    rows, columns = np.arange(field.shape[0]) + 0.5, np.arange(field.shape[1]) + 0.5
    inside = np.outer((rows > top) & (rows < top + height), (columns > left) & (columns < left + width))
    total = field.sum()
    return float(field[~inside].sum() / total) if total > 0 else 0.0


def receptive_fields(rows: Sequence[Fields], title: str) -> Figure:
    """A line of fields for each network; all on one logarithmic scale."""
    columns = max(len(row.layers) for row in rows)
    with style():
        figure, axes = grid(len(rows), columns, 1.28, 1.5)
        image = None
        for line, row in enumerate(rows):
            for column in range(columns):
                axis = axes[line, column]
                if column >= len(row.layers):
                    show(axis, None)
                    continue
                shown = np.maximum(normalised(row.maps[column]), FLOOR)
                image = show(axis, shown, row.layers[column], cmap="viridis", norm=LogNorm(FLOOR, 1))
                size, unit = f"{field_size(row.maps[column]):.0f} px", row.units[column]
                if unit is not None:
                    top, left, height, width = unit
                    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec="white", lw=0.7))
                    size += f", {100 * share_outside(row.maps[column], unit):.0f}% outside"
                axis.set_xlabel(size, fontsize=7, labelpad=2)
            axes[line, 0].set_ylabel("\n".join(short(part, 20) for part in row.name.split("\n")), fontsize=7.5)
        bar = figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.9, aspect=20, pad=0.015)
        bar.set_label("part of the greatest", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_visible(False)
        height, width = rows[0].maps.shape[1:]
        return headed(
            figure,
            title,
            f"How much each pixel of a {width} × {height} input changes the unit at the map's centre (white frame: its cell): mean "
            f"over images of the absolute gradient, each field divided by its greatest value; {100 * FLOOR:g}% of that and less is "
            f"darkest. Below: root of the number of pixels above {100 * THRESHOLD:.2f}% of the greatest (Luo et al. 2016), and "
            "the part of the sum that comes from outside the frame.",
        )


#: Layers drawn by default.
LAYERS = 7


#: Images per pass.
BATCH = 4


def layer_names(backbone: Backbone) -> list[str]:
    """The layers whose fields can be had, from the input on: a ResNet's residual blocks, else the blocks that ``maps`` names."""
    residual = [name for name, module in backbone.named_modules() if isinstance(module, (BasicBlock, Bottleneck))]
    return residual or [f"blocks.{block}" for block in range(backbone.depth)]


def layer_maps(backbone: Backbone, images: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """The maps ``[B, C, h, w]`` of layers of ``layer_names``, with a graph to the images."""
    modules: dict[str, nn.Module] = dict(backbone.named_modules())
    if all(isinstance(modules.get(name), (BasicBlock, Bottleneck)) for name in layers):
        seen: dict[str, Tensor] = {}
        handles = [
            modules[name].register_forward_hook(
                lambda module, inputs, output, name=name: seen.__setitem__(name, output)
            )
            for name in layers
        ]
        try:
            backbone(images)
        finally:
            for handle in handles:
                handle.remove()
        return [seen[name] for name in layers]
    return backbone.maps(images, [int(name.removeprefix("blocks.")) for name in layers])


def effective_receptive_fields(
    backbone: Backbone, images: Tensor, layers: Sequence[str], seed: int = 0
) -> tuple[np.ndarray, list[Unit | None]]:
    """Mean absolute gradient, over images, of each layer's centre unit with respect to the input's pixels, summed over the three
    colours (Luo et al. 2016, arXiv 1701.04128, section 3).

    The unit has C channels; what is differentiated is their sum with a random sign each, drawn anew for each image. Without the
    signs, features that a LayerNorm has just centred would have no gradient at all, since their sum is constant; with them, every
    channel counts by the size of its gradient (the expected square of the signed sum is the sum of the channels' squares).

    Args:
        backbone: in eval mode.
        images: normalised, ``[B, 3, H, W]``.
        layers: of ``layer_names``.
        seed: of the signs.

    Returns:
        float64 ``[layers, H, W]``, and the cell of each layer's centre unit (None where that is not known). Where a map has an
        even number of rows or columns, the unit just after the middle is taken.
    """
    device = next(backbone.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    height, width = images.shape[-2:]
    fields = np.zeros((len(layers), height, width))
    units: list[Unit | None] = []
    parts = images.split(BATCH)
    for part in track(parts, "gradients", len(parts)):
        part = part.to(device).requires_grad_(True)
        maps = layer_maps(backbone, part, layers)
        units = []
        for number, map_BChw in enumerate(maps):
            rows, columns = map_BChw.shape[-2:]
            units.append(_unit(backbone, (rows, columns), (height, width)))
            centre_BC = map_BChw[:, :, rows // 2, columns // 2]
            signs = torch.randint(0, 2, centre_BC.shape, generator=generator).to(device) * 2 - 1
            (gradient,) = torch.autograd.grad((centre_BC * signs).sum(), part, retain_graph=number + 1 < len(maps))
            fields[number] += gradient.abs().sum(dim=(0, 1)).double().cpu().numpy()
    return fields / len(images), units


def _unit(backbone: Backbone, grid: tuple[int, int], size: tuple[int, int]) -> Unit | None:
    """Where the centre unit of a map lies: a patch is the pixels it was made from; a ResNet's convolutions, padded on both sides,
    centre unit i on pixel i · stride."""
    (rows, columns), (height, width) = grid, size
    cell = height / rows, width / columns
    top, left = rows // 2 * cell[0], columns // 2 * cell[1]
    if backbone.has_tokens:
        return top, left, *cell
    if isinstance(backbone, ResNet):
        return top - (cell[0] - 1) / 2, left - (cell[1] - 1) / 2, *cell
    return None


def draw(options: ReceptiveFieldOptions) -> list[Path]:
    """One picture: a line for each network."""
    names, weights = options.backbone or [], options.weights or []
    if weights and names and len(names) != len(weights):
        raise UsageError(
            f"--backbone names {len(names)} and --weights {len(weights)}; give one backbone for each of the weights"
        )
    if not weights and not names:
        raise UsageError("--weights or --backbone is needed: what to look at")
    trained = [
        load_network(path, names[i] if names else None, None, options.image_size, options.device, options.seed)
        for i, path in enumerate(weights)
    ]
    first = trained[0] if trained else None
    size = options.image_size or (first.image_size if first else None) or DEFAULT_SIZE
    images, which = _inputs(options, first, size)
    rows: list[Fields] = []
    for network in trained:
        told = network.weights.startswith("untrained") or any(
            row.name.startswith(f"{network.name}\nuntrained") for row in rows
        )
        if options.untrained and not told:
            rows.append(_fields(_untrained(network.name, size, options), images, options))
        rows.append(_fields(network, images, options))
    if not trained:
        rows = [_fields(_untrained(name, size, options), images, options) for name in dict.fromkeys(names)]
    networks = (
        "; ".join(dict.fromkeys(f"{network.name}: {network.weights}" for network in trained)) or "Untrained networks"
    )
    title = f"Effective receptive fields\n{networks}. {len(images)} {which}, {size} × {size} pixels."
    stem = "-".join(["receptive_field", *dict.fromkeys(row.name.partition("\n")[0] for row in rows)])
    return save_figure(receptive_fields(rows, title), folder_of(options.out, _only(weights)), file_stem(stem))


def _only(weights: Sequence[str]) -> str | None:
    return weights[0] if len(weights) == 1 else None


def _untrained(name: str, size: int, options: ReceptiveFieldOptions) -> Network:
    return load_network(None, name, None, size, options.device, options.seed)


def _fields(network: Network, images: Tensor, options: ReceptiveFieldOptions) -> Fields:
    known = layer_names(network.backbone)
    for layer in options.layers or []:
        if layer not in known:
            raise unknown_name(f"layer of {network.name}", layer, known)
    layers = options.layers or [known[place] for place in even(len(known), LAYERS)]
    maps, units = effective_receptive_fields(network.backbone, images, layers, options.seed)
    if not np.isfinite(maps).all():
        raise UserError(f"{network.name}, {network.weights}: its gradients are not finite; the weights have diverged")
    state = "untrained" if network.weights.startswith("untrained") else "trained"
    several = len(options.weights or []) > 1
    run = network.weights.rpartition("(run ")[2].rstrip(")") if several and "(run " in network.weights else ""
    return Fields(f"{network.name}\n{state}" + (f"\n{run}" if run else ""), layers, maps, units)


def _inputs(options: ReceptiveFieldOptions, first: Network | None, size: int) -> tuple[Tensor, str]:
    """Square inputs ``[B, 3, size, size]``, normalised: the short side resized, the centre cut out."""
    if options.images is not None:
        pixels = [read_image(file).pixels for file in files_of(options.images)]
        which = "images given" if len(pixels) > 1 else "image given"
    else:
        store = test_images(options.data, options.data_root, first.options if first else {}, size)
        pixels = [store.original_image(i) for i in choose(store, options.count, options.seed)]
        which = f"test images of {data_title(store)}"
    return normalised(np.stack([_square(image, size) for image in pixels]), torch.device("cpu")), which


def _square(pixels: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))
