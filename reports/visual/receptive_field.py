"""Draw effective receptive fields: the pixels that influence a layer's centre unit (Luo et al. 2016, arXiv 1701.04128)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from common.errors import UsageError, UserError, unknown_name
from common.names import short
from common.options import IMAGE_SIZE, option
from reports.visual.core.base import VISUALIZATIONS, DataVisualization
from reports.visual.core.style import colour_bar, even, file_stem, grid, headed, save_figure, show, style

if TYPE_CHECKING:
    from torch import Tensor, nn

    from backbones.base import Backbone
    from reports.visual.core.network import Network

#: The field's pixels contribute more than this part of the greatest (Luo et al., section 3.2: two standard deviations).
THRESHOLD = 1 - 0.9545
#: Smallest part of the greatest contribution with a colour of its own.
FLOOR = 1e-4
#: Default number of layers, and images per pass.
LAYERS, BATCH = 7, 4

#: (top, left, height, width) of a cell in pixels, maybe fractions.
Unit = tuple[float, float, float, float]


@VISUALIZATIONS.register("receptive_field")
@dataclass(kw_only=True)
class ReceptiveField(DataVisualization):
    """Effective receptive fields of layers, of trained and untrained networks side by side."""

    title = "Effective receptive fields"
    place = 2
    caption = "Gradients of each layer’s centre unit with respect to the input, trained and untrained."

    weights: list[str] | None = None
    """run directories, checkpoints or weights files, one line each; default: untrained networks alone"""
    backbone: list[str] | None = None
    """one for each of the weights; default: the runs'. Without weights: any number"""
    untrained: bool = True
    """draw each backbone with untrained weights, too"""
    layers: list[str] | None = None
    """names such as blocks.5 or layer3.1; default: seven, evenly spaced"""
    images: list[str] | None = None
    """image files or folders of them; default: test images of the data set"""
    count: int = option(16, at_least=1)
    """images to average over"""
    image_size: int | None = option(None, **IMAGE_SIZE)
    """side of the square inputs in pixels; default: the first run's, else 224"""

    @classmethod
    def of_run(cls, run: str) -> ReceptiveField:
        return cls(weights=[run])

    def draw(self) -> list[Path]:
        """Write one picture."""
        from reports.visual.core.images import normalised, read_inputs, square
        from reports.visual.core.network import DEFAULT_SIZE, load_network

        names, weights = self.backbone or [], self.weights or []
        if not weights and not names:
            raise UsageError("--weights or --backbone is needed: what to look at")
        if weights and len(names) not in (0, len(weights)):
            counts = f"--backbone names {len(names)} and --weights {len(weights)}"
            raise UsageError(f"{counts}; give one backbone for each of the weights")

        def load(path: str | None, name: str | None, size: int | None) -> Network:
            return load_network(path, name, None, size, self.device, self.seed)

        trained = [load(path, name, self.image_size) for path, name in zip_longest(weights, names if weights else [])]
        size = self.image_size or (trained[0].image_size if trained else None) or DEFAULT_SIZE
        inputs, which = read_inputs(self, trained[0].options if trained else {}, size)
        images = normalised(np.stack([square(image.pixels, size) for image in inputs]))
        networks = [] if trained else [load(None, name, size) for name in dict.fromkeys(names)]
        for network in trained:
            if self.untrained and not network.untrained and network.name not in {other.name for other in networks}:
                networks.append(load(None, network.name, size))
            networks.append(network)
        rows = [self._fields(network, images) for network in networks]
        shown = "; ".join(dict.fromkeys(f"{network.name}: {network.weights}" for network in trained))
        about = f"{shown or 'Untrained networks'}. {len(images)} {which}, {size} × {size} pixels."
        title = f"Effective receptive fields\n{about}"
        stem = "-".join(["receptive_field", *dict.fromkeys(row.name.partition("\n")[0] for row in rows)])
        return save_figure(receptive_fields(rows, title), self.folder(*weights), file_stem(stem))

    def _fields(self, network: Network, images: Tensor) -> Fields:
        layers = layer_names(network.backbone)
        for layer in self.layers or []:
            if layer not in layers:
                raise unknown_name(f"layer of {network.name}", layer, layers)
        name = f"{network.name}\n{'untrained' if network.untrained else 'trained'}"
        if len(self.weights or []) > 1 and "(run " in network.weights:
            name += "\n" + network.weights.rpartition("(run ")[2].rstrip(")")
        return fields_of(network, images, name, self.layers, self.seed)


@dataclass(frozen=True)
class Fields:
    """Receptive fields of a network's layers: ``maps [layers, H, W]``, not negative, and the centre units' input cells."""

    name: str
    layers: Sequence[str]
    maps: np.ndarray
    units: Sequence[Unit | None]


def fields_of(
    network: Network, images: Tensor, name: str, layers: Sequence[str] | None = None, seed: int = 0, show: bool = True
) -> Fields:
    """Compute the fields of a network's layers (``effective_receptive_fields``); default: ``LAYERS`` of them, evenly spaced. Raises
    UserError for gradients that are not finite."""
    if not layers:
        every = layer_names(network.backbone)
        layers = [every[i] for i in even(len(every), LAYERS)]
    maps, units = effective_receptive_fields(network.backbone, images, layers, seed, show)
    if not np.isfinite(maps).all():
        raise UserError(f"{network.name}, {network.weights}: gradients are not finite; the weights have diverged")
    return Fields(name, layers, maps, units)


def layer_names(backbone: Backbone) -> list[str]:
    """Names of the layers from the input on: a ResNet's residual blocks, else the blocks of ``maps``."""
    return list(_residual_blocks(backbone)) or [f"blocks.{block}" for block in range(backbone.depth)]


def _residual_blocks(backbone: Backbone) -> dict[str, nn.Module]:
    from torchvision.models.resnet import BasicBlock, Bottleneck

    return {name: module for name, module in backbone.named_modules() if isinstance(module, (BasicBlock, Bottleneck))}


def layer_maps(backbone: Backbone, images: Tensor, layers: Sequence[str]) -> list[Tensor]:
    """Compute differentiable maps ``[B, C, h, w]`` of layers of ``layer_names``."""
    blocks = _residual_blocks(backbone)
    if not blocks:
        return backbone.maps(images, [int(name.removeprefix("blocks.")) for name in layers])
    maps: dict[nn.Module, Tensor] = {}
    with ExitStack() as hooks:
        for name in layers:
            hook = blocks[name].register_forward_hook(lambda module, _, output: maps.update({module: output}))
            hooks.enter_context(hook)
        backbone(images)
    return [maps[blocks[name]] for name in layers]


def effective_receptive_fields(
    backbone: Backbone, images: Tensor, layers: Sequence[str], seed: int = 0, show: bool = True
) -> tuple[np.ndarray, list[Unit | None]]:
    """Average over images the absolute gradient of each layer's centre unit with respect to the pixels, summed over the colours
    (Luo et al. 2016, arXiv 1701.04128, section 3).

    It differentiates the sum of the unit's C channels with random signs, drawn by ``seed`` for each image. Without signs, features
    centred by a LayerNorm would have no gradient, since their sum is constant; with them, every channel counts by the size of its
    gradient (the expected square of the signed sum is the sum of the channels' squares).

    Args:
        backbone: in eval mode.
        images: normalised, ``[B, 3, H, W]``.
        show: a progress bar.

    Returns:
        float64 ``[layers, H, W]``, and the cell of each layer's centre unit (None: unknown), which is just after the middle of an
        even number of rows or columns.
    """
    import torch

    from common.progress import track

    device = next(backbone.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    fields = np.zeros((len(layers), *images.shape[-2:]))
    units: list[Unit | None] = []
    parts = images.split(BATCH)
    for part in track(parts, "gradients", len(parts), show):
        part = part.to(device).requires_grad_(True)
        maps = layer_maps(backbone, part, layers)
        units = []
        for number, map_BChw in enumerate(maps):
            rows, columns = map_BChw.shape[-2:]
            units.append(_unit(backbone, (rows, columns), images.shape[-2:]))
            centre_BC = map_BChw[:, :, rows // 2, columns // 2]
            signs = torch.randint(0, 2, centre_BC.shape, generator=generator).to(device) * 2 - 1
            (gradient,) = torch.autograd.grad((centre_BC * signs).sum(), part, retain_graph=number + 1 < len(maps))
            fields[number] += gradient.abs().sum(dim=(0, 1)).double().cpu().numpy()
    return fields / len(images), units


def _unit(backbone: Backbone, grid: tuple[int, int], size: tuple[int, int]) -> Unit | None:
    """Locate a map's centre unit: a token has its patch; a ResNet's padded convolutions centre unit i on pixel i · stride."""
    from backbones.resnet import ResNet

    if not backbone.has_tokens and not isinstance(backbone, ResNet):
        return None
    cell = np.divide(size, grid)
    corner = np.floor_divide(grid, 2) * cell - (0 if backbone.has_tokens else (cell - 1) / 2)
    return *corner.tolist(), *cell.tolist()


def relative(field: np.ndarray) -> np.ndarray:
    """Divide a field by its greatest value, so it is in [0, 1]; zeros stay zeros."""
    most = field.max()
    return field / most if most > 0 else field


def field_size(field: np.ndarray) -> float:
    """Side in pixels of a square with as many pixels as exceed ``THRESHOLD`` (Luo et al., section 3.2)."""
    return float(np.sqrt((relative(field) > THRESHOLD).sum()))


def share_outside(field: np.ndarray, unit: Unit) -> float:
    """The part of all contributions from pixels with centres outside the unit's cell."""
    top, left, height, width = unit
    rows, columns = (np.arange(side) + 0.5 for side in field.shape)
    inside = np.outer((rows > top) & (rows < top + height), (columns > left) & (columns < left + width))
    total = field.sum()
    return float(field[~inside].sum() / total) if total > 0 else 0.0


def receptive_fields(rows: Sequence[Fields], title: str) -> Figure:
    """Draw a line of fields for each network, all on one logarithmic scale."""
    columns = max(len(row.layers) for row in rows)
    with style():
        figure, axes = grid(len(rows), columns, 1.28, 1.5)
        for panels, row in zip(axes, rows, strict=True):
            for axis in panels[len(row.layers) :]:
                show(axis, None)
            for axis, layer, field, unit in zip(panels, row.layers, row.maps, row.units, strict=False):
                shown = np.maximum(relative(field), FLOOR)
                image = show(axis, shown, layer, cmap="viridis", norm=LogNorm(FLOOR, 1))
                size = f"{field_size(field):.0f} px"
                if unit is not None:
                    top, left, height, width = unit
                    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec="white", lw=0.7))
                    size += f", {100 * share_outside(field, unit):.0f}% outside"
                axis.set_xlabel(size, fontsize=7, labelpad=2)
            panels[0].set_ylabel("\n".join(short(part, 20) for part in row.name.split("\n")), fontsize=7.5)
        bar = colour_bar(figure, image, axes)
        bar.set_label("part of the greatest", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
        height, width = rows[0].maps.shape[1:]
        return headed(
            figure,
            title,
            f"How much each pixel of a {width} × {height} input changes the unit at the map's centre (white frame: its cell): mean "
            f"over images of the absolute gradient, each field divided by its greatest value; {100 * FLOOR:g}% of that and less is "
            f"darkest. Below: root of the number of pixels above {100 * THRESHOLD:.2f}% of the greatest (Luo et al. 2016), and "
            "the part of the sum that comes from outside the frame.",
        )
