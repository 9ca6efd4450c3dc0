"""Draw cross-correlation matrices of two views' projections: heatmaps, film strips (in reports, too), animations and curves.

Entry (i, j) correlates, over images, feature i of one view with feature j of the other (Barlow Twins, arXiv 2103.03230).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from simple_parsing import field

from common.errors import UserError, unknown_name, unreadable
from common.options import option
from reports.visual.core.base import VISUALIZATIONS, Visualization
from reports.visual.core.runs import names_of, run_words, training_options
from reports.visual.core.style import (
    COLOURS,
    FAINT,
    colour_bar,
    even,
    figure_of,
    grid,
    headed,
    line_look,
    rendered,
    save_figure,
    save_gif,
    settle,
    show,
    style,
)
from rundir.correlation import Correlations, read_correlations
from rundir.paths import correlation_file

if TYPE_CHECKING:
    import torch

#: Matrices with more cells a side are pooled.
MOST_CELLS = 512
#: Panels in a line.
COLUMNS = 4


@VISUALIZATIONS.register("cross_correlation")
@dataclass(kw_only=True)
class CrossCorrelation(Visualization):
    """Cross-correlation of two views' projections: matrices, their evolution, and curves, of one run or several side by side."""

    runs: list[str] = field(positional=True)
    """run directories"""
    palette: Literal["diverging", "study"] = "diverging"
    """diverging: white at 0; study: cyan at 0, red at 1"""
    recompute: bool = False
    """compute the whole newest matrix anew from each run's checkpoint, instead of drawing the features that the run has kept"""
    count: int = option(1024, at_least=2)
    """training images that --recompute computes it over"""
    fps: float = option(4.0, above=0)
    """epochs a second of the animation"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""

    def draw(self) -> list[Path]:
        """Write heatmaps, and for runs with a stored evolution a film strip, an animation and curves."""
        runs, folder = list(zip(map(Path, self.runs), names_of(self.runs), strict=True)), self.folder(*self.runs)
        if self.recompute:
            matrices = [self._recomputed(run, name) for run, name in runs]
            return save_figure(heatmaps(matrices, self.palette), folder, "cross_correlation-recomputed")
        evolutions = [read_evolution(run, name, run_words(training_options(run))) for run, name in runs]
        matrices, sizes = [], sorted({e.matrices.shape[-1] for e in evolutions})
        for e in evolutions:
            kept = f"{e.matrices.shape[-1]} evenly spaced features (or all)"
            matrices.append(Matrix(e.name, e.matrices[-1], f"{e.about}, epoch {e.epochs[-1]}, {kept}"))
        written = save_figure(heatmaps(matrices, self.palette), folder, "cross_correlation")
        if max(len(e.epochs) for e in evolutions) > 1:
            title = f"Cross-correlation over training\n{_abouts(evolutions)}"
            caption = (
                f"The features that runs keep: {' or '.join(map(str, sizes))} evenly spaced ones, or all if there are no more. "
                "Two views of the same image, over a few hundred images (all, where there are fewer)."
            )
            with style():
                strip = headed(film_strip(evolutions, self.palette, room=0.75), title, caption)
            written += save_figure(strip, folder, "cross_correlation-strip")
            written += save_figure(curves(evolutions, title), folder, "cross_correlation-curves")
            frames = list(animation(evolutions, self.palette))
            frames += frames[-1:] * round(self.fps)  # rest at the end
            written.append(save_gif(frames, folder / "cross_correlation.gif", 1 / self.fps))
        return written

    def _recomputed(self, run: Path, name: str) -> Matrix:
        from training.diagnostics import cross_correlation
        from training.machine.devices import pick_device

        first, second, title = projections_of(run, self.count, pick_device(self.device))
        values = cross_correlation(first, second).numpy()
        return Matrix(name, values, f"{title}, all {len(values)} features, {len(first)} training images")


@dataclass(frozen=True)
class Matrix:
    """A run's cross-correlation, ``[D, D]`` in [-1, 1]; ``what`` names features and images in words."""

    name: str
    values: np.ndarray
    what: str


@dataclass(frozen=True, kw_only=True)
class Evolution(Correlations):
    """Stored cross-correlations of a training; ``about`` names its method, backbone and data in words."""

    name: str
    about: str = ""


def read_evolution(run: Path, name: str, about: str = "") -> Evolution:
    """Read a run's stored cross-correlations. Raises UserError where they are missing or damaged."""
    file = correlation_file(run)
    try:
        return Evolution(**vars(read_correlations(run)), name=name, about=about)
    except FileNotFoundError as error:
        raise UserError(
            f"{run}: no {file.relative_to(run)}, which runs of methods with projections write at the start, with each "
            "online k-NN and at the end; give such a run"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: {unreadable(error)}; continue or repeat the run") from error


def projections_of(run: Path, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Project two views each of at most ``count`` training images: ``[n, D]`` each, and the weights' title.

    Works as in training (BatchNorm with batch statistics), from the last checkpoint, but both views are of the same image. Raises
    UserError without a checkpoint, images, or a method with projections.
    """
    import torch

    from common.progress import track
    from reports.visual.core.network import plan_of, run_title
    from rundir.paths import require_checkpoint
    from training.batches import fixed_batches
    from training.checkpoint import load_checkpoint
    from training.initial import misfit
    from training.machine.devices import autocast

    state = load_checkpoint(require_checkpoint(run, "give a run directory"))
    plan = plan_of({**state["config"], "image_size": state["image_size"]})
    config, views, (store, _) = plan.config, plan.views, plan.images
    if len(views) < 2:
        raise UserError(
            f"{run}: {config.method} sees one view of an image, so nothing can be correlated; give another run"
        )
    method = plan.build_method()
    if reason := misfit(state["method"], method):
        raise UserError(
            f"{run}: of a former version of {config.method} ({reason}), so its projections cannot be made; train it anew"
        )
    method.load_state_dict(state["method"])
    method.to(device).train()
    views = views[: method.projected_views]
    rows = min(config.batch_size // config.accumulate, count, len(store))
    order = np.random.default_rng(0).permutation(len(store))[: min(count, len(store)) // rows * rows]
    images = np.sort(order.reshape(-1, rows)).ravel()
    parts = [slice(start, start + rows) for start in range(0, len(images), rows)]
    projections = []
    torch.manual_seed(0)  # for stochastic depth
    for batch in track(fixed_batches(store, images, parts, views, device), "projections", len(parts)):
        with torch.no_grad(), autocast(device, config.precision):
            pair = method.project(batch)
        if pair is None:
            raise UserError(f"{run}: {config.method} has no projections to correlate; give a run of another method")
        projections.append([view.float().cpu() for view in pair])
    first, second = map(torch.cat, zip(*projections, strict=True))
    return first, second, f"{config.backbone}, {run_title(run, state['config'])}"


def colour_map(name: str) -> Colormap:
    """Colours from -1 to 1: ``diverging`` (ColorBrewer's blue, white, red), or ``study`` (Apavou and Zucker's white, cyan, red).
    Raises UsageError for another name."""
    if name == "study":
        return LinearSegmentedColormap.from_list("study", [(0, "#ffffff"), (0.5, "#00ffff"), (1, "#ff0000")])
    if name != "diverging":
        raise unknown_name("palette", name, ["diverging", "study"])
    return mpl.colormaps["RdBu_r"]


def pool(matrix: np.ndarray, most: int = MOST_CELLS) -> tuple[np.ndarray, int]:
    """Pool n × n blocks (the last may be smaller) into at most ``most`` cells a side; return float32 ``[d, d]`` and n.

    A diagonal cell is the mean of its block's n diagonal entries only, since a mean over the block would wash the diagonal out.
    The other entries of diagonal blocks (a part n / D of all) are dropped. Any other cell is the mean of its n² entries.
    """
    size = len(matrix)
    n = -(-size // most)
    if n == 1:
        return np.asarray(matrix, np.float32), 1
    edges = np.arange(0, size, n)
    counts = np.diff([*edges, size])
    sums = np.add.reduceat(np.add.reduceat(matrix, edges, axis=0, dtype=np.float64), edges, axis=1)
    cells = sums / np.outer(counts, counts)
    np.fill_diagonal(cells, np.add.reduceat(np.diagonal(matrix).astype(np.float64), edges) / counts)
    return cells.astype(np.float32), n


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """The ``D (D - 1)`` entries off the diagonal, in row order."""
    return np.asarray(matrix)[~np.eye(len(matrix), dtype=bool)]


def heatmaps(matrices: Sequence[Matrix], colours: str = "diverging") -> Figure:
    """Draw matrices side by side, and below each the distributions of its unpooled entries on and off the diagonal."""
    columns = min(COLUMNS, len(matrices))
    blocks = -(-len(matrices) // columns)
    side = 2.6 if columns > 1 else 3.4
    described, pooled = [], False
    with style():
        figure, axes = grid(2 * blocks, columns, side, 0.72 * side, height_ratios=[1, 0.42] * blocks)
        uppers, lowers = axes[::2].ravel(), axes[1::2].ravel()
        for axis in (*uppers[len(matrices) :], *lowers[len(matrices) :]):
            axis.set_axis_off()
        for number, matrix in enumerate(matrices):
            upper, lower = uppers[number], lowers[number]
            cells, n = pool(matrix.values)
            pooled |= n > 1
            diagonal, rest = np.diagonal(matrix.values), off_diagonal(matrix.values)
            image = _show_matrix(upper, cells, colours)
            rms = float(np.sqrt(np.mean(np.square(rest, dtype=np.float64)))) if len(rest) else 0.0
            upper.set_title(matrix.name, fontsize=8.5)
            upper.set_xlabel(
                f"diagonal mean {diagonal.mean():.3f}\nrest: mean {rest.mean():.3f}, RMS {rms:.3f}", fontsize=7.5
            )
            described.append(f"{matrix.name}: {matrix.what}" + (f", pooled (n = {n})" if n > 1 else ""))
            _distribution(lower, diagonal, rest)
            if number % columns:
                lower.set_yticklabels([])
                lower.tick_params(axis="y", length=0)
            else:
                lower.set_ylabel("share of\nentries", fontsize=7.5)
        colour_bar(figure, image, uppers, [-1, -0.5, 0, 0.5, 1])
        handles = [Patch(color=colour) for colour in COLOURS[:2]]
        lowers[0].legend(handles, ["beside the diagonal", "on it"], fontsize=7, handlelength=0.9, loc="upper left")
        caption = "Entry (i, j): correlation over images of feature i of one view with feature j of the other."
        if pooled:
            caption += (
                " Pooled: a cell beside the diagonal is the mean of n × n entries, a cell on it the mean of its n diagonal "
                "entries alone; the numbers and the histograms are of the true entries."
            )
        return headed(figure, f"Cross-correlation of two views' projections\n{'; '.join(described)}.", caption)


def _distribution(axis: Any, diagonal: np.ndarray, rest: np.ndarray) -> None:
    bins = np.linspace(-1, 1, 81)
    for values, colour in ((rest, COLOURS[0]), (diagonal, COLOURS[1])):
        if len(values):
            share = np.histogram(np.clip(values, -1, 1), bins)[0] / len(values)
            axis.stairs(share, bins, fill=True, color=colour, alpha=0.75)
    axis.set_xlim(-1, 1)
    axis.set_xticks([-1, 0, 1])
    axis.set_yscale("log")
    axis.set_ylim(1e-4, 1.5)
    axis.set_yticks([1e-3, 1e-1], ["0.1%", "10%"])
    axis.minorticks_off()


def _show_matrix(axis: Any, matrix: np.ndarray, colours: str, title: str = "") -> Any:
    return show(axis, matrix, title, cmap=colour_map(colours), vmin=-1, vmax=1, interpolation="antialiased")


def film_strip(
    evolutions: Sequence[Evolution], colours: str = "diverging", frames: int = 6, most: int = 256, room: float = 0.0
) -> Figure:
    """Draw a line of matrices for each run, without a title; call it within ``style()``.

    Args:
        frames, most: limits of matrices and features, evenly spaced where there are more.
        room: inches of height for a title and a caption.
    """
    columns = max(len(even(len(e.epochs), frames)) for e in evolutions)
    same_epochs = len({tuple(e.epochs) for e in evolutions}) == 1
    figure, axes = figure_of(len(evolutions) * columns, columns, 1.75 + 1.3 * columns, 1.54 + room / len(evolutions))
    for line, evolution in enumerate(evolutions):
        lined = axes[line * columns : (line + 1) * columns]
        kept = even(evolution.matrices.shape[-1], most)
        chosen = even(len(evolution.epochs), columns)
        for axis in lined[len(chosen) :]:
            show(axis, None)
        for axis, frame in zip(lined, chosen, strict=False):
            title = "" if line and same_epochs else f"epoch {evolution.epochs[frame]}"
            image = _show_matrix(axis, evolution.matrices[frame][np.ix_(kept, kept)], colours, title)
        name = "\n".join(textwrap.fill(part, 24) for part in evolution.name.split("\n"))
        lined[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
    colour_bar(figure, image, axes, [-1, 0, 1])
    return figure


def _abouts(evolutions: Sequence[Evolution]) -> str:
    return " ".join(f"{e.name}: {e.about}." for e in evolutions)


def curves(evolutions: Sequence[Evolution], title: str) -> Figure:
    """Draw the mean of the diagonal and the root mean square of the rest over epochs, a line for each run."""
    with style():
        figure, ((left, right),) = grid(1, 2, 3.6, 2.4)
        for number, evolution in enumerate(evolutions):
            look = line_look(number, len(evolution.epochs))
            left.plot(evolution.epochs, evolution.on_diagonal, label=evolution.name, **look)
            right.plot(evolution.epochs, evolution.off_diagonal, **look)
        for axis, name in ((left, "On the diagonal: mean"), (right, "Beside it: root mean square")):
            axis.set_title(name)
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        left.axhline(1, color=FAINT, lw=0.8, ls=":")
        right.set_ylim(bottom=0)
        figure.legend(loc="outside right upper", fontsize=8)
        caption = (
            "Of all features of the projections. Barlow Twins drives the diagonal to 1 (dotted) and the rest to 0."
        )
        return headed(figure, title, caption)


def animation(evolutions: Sequence[Evolution], colours: str = "diverging") -> Iterator[np.ndarray]:
    """Yield a frame, uint8 ``[H, W, 3]``, for each epoch stored by any run: every run's newest matrix so far, side by side."""
    columns = min(COLUMNS, len(evolutions))
    with style():
        figure, axes = grid(-(-len(evolutions) // columns), columns, 2.6, 2.8)
        images, axes = [], axes.ravel()
        for axis in axes[len(evolutions) :]:
            show(axis, None)
        for axis, evolution in zip(axes, evolutions, strict=False):
            blank = np.full_like(evolution.matrices[0], np.nan)
            images.append(_show_matrix(axis, blank, colours, evolution.name))
            axis.set_xlabel(" \n", fontsize=7.5)
        colour_bar(figure, images[0], axes, [-1, 0, 1])
        headed(figure, f"Cross-correlation, epoch 0\n{_abouts(evolutions)}", "")
        settle(figure)
        for epoch in sorted({int(epoch) for e in evolutions for epoch in e.epochs}):
            figure.suptitle(f"Cross-correlation, epoch {epoch}", x=0.01, ha="left", fontsize=10, fontweight="bold")
            for axis, image, e in zip(axes, images, evolutions, strict=False):
                past = np.flatnonzero(e.epochs <= epoch)
                if len(past):
                    newest = past[-1]
                    image.set_data(e.matrices[newest])
                    numbers = f"diagonal {e.on_diagonal[newest]:.3f}\nRMS of the rest {e.off_diagonal[newest]:.3f}"
                    axis.set_xlabel(f"epoch {e.epochs[newest]}: {numbers}", fontsize=7.5)
            yield rendered(figure)
        plt.close(figure)
