"""Cross-correlation matrices of two views' projections: heatmaps, their evolution, and what they say in numbers.

Entry (i, j) is the correlation, over images, of feature i of one view with feature j of the other (Barlow Twins, arXiv 2103.03230).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.errors import UserError
from reports.figures.figures import palette
from reports.visual.style import COLOURS, DASHES, even, grid, headed, rendered, show, style, without_formulas
from rundir.correlation import read_correlations
from rundir.paths import correlation_file

#: Cells a side that are drawn, at most; larger matrices are pooled.
MOST_CELLS = 512
#: Panels side by side.
COLUMNS = 4


@dataclass(frozen=True)
class Matrix:
    """A cross-correlation matrix.

    Attributes:
        name: of whose projections.
        values: ``[D, D]`` in [-1, 1].
        what: which features, of which images, in words.
    """

    name: str
    values: np.ndarray
    what: str


@dataclass(frozen=True)
class Evolution:
    """What a run has kept of its cross-correlation (``rundir.correlation``).

    Attributes:
        name: of the run.
        epochs: int ``[E]``.
        matrices: ``[E, d, d]`` of evenly spaced features.
        about: which method, backbone and data it is of, in words.
        on_diagonal, off_diagonal: ``[E]``: mean of the diagonal, root mean square of the rest, of all features.
    """

    name: str
    about: str
    epochs: np.ndarray
    matrices: np.ndarray
    on_diagonal: np.ndarray
    off_diagonal: np.ndarray


def run_words(options: Mapping[str, Any]) -> str:
    """Method, backbone and data of a run, from its options."""
    return f"{options.get('method', '?')}, {options.get('backbone', '?')}, on {options.get('data', '?')}"


def read_evolution(run: Path, name: str, about: str) -> Evolution:
    """Read ``figures/cross_correlation.npz`` of a run directory. Raises UserError where it is missing or damaged."""
    file = correlation_file(run)
    try:
        kept = read_correlations(run)
    except FileNotFoundError as error:
        raise UserError(
            f"{run}: no {file.relative_to(run)}, which runs of methods with projections write at the start, with each "
            "online k-NN and at the end; give such a run"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}); continue or repeat the run") from error
    return Evolution(name, about, kept.epochs, kept.matrices, kept.on_diagonal, kept.off_diagonal)


def pool(matrix: np.ndarray, most: int = MOST_CELLS) -> tuple[np.ndarray, int]:
    """A matrix of at most ``most`` cells a side, each standing for n × n entries (fewer at the end, where n does not divide).

    A mean over a whole block would wash the diagonal out: only n of a diagonal block's n² entries are on it. So the two are
    kept apart: a cell on the diagonal is the mean of its n diagonal entries, any other cell the mean of its n² entries.
    The off-diagonal entries of diagonal blocks (a part n / D of all) are in no cell.

    Returns:
        float32 ``[d, d]``, and n (1: the matrix as it is).
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
    """The ``D (D - 1)`` entries beside the diagonal, in row order."""
    size = len(matrix)
    return (
        np.asarray(matrix).reshape(-1)[:-1].reshape(size - 1, size + 1)[:, 1:].reshape(-1) if size > 1 else np.empty(0)
    )


def heatmaps(matrices: Sequence[Matrix], colours: str = "diverging", title: str = "Cross-correlation") -> Figure:
    """Matrices side by side, and below each how its true entries are distributed, on the diagonal and beside it."""
    columns = min(COLUMNS, len(matrices))
    blocks = -(-len(matrices) // columns)
    side = 2.6 if columns > 1 else 3.4
    told = []
    with style():
        figure, axes = grid(2 * blocks, columns, side, 0.72 * side, height_ratios=[1, 0.42] * blocks)
        image = None
        for position in range(columns * blocks):
            line, column = divmod(position, columns)
            upper, lower = axes[2 * line : 2 * line + 2, column]
            if position >= len(matrices):
                upper.set_axis_off()
                lower.set_axis_off()
                continue
            matrix = matrices[position]
            cells, n = pool(matrix.values)
            diagonal, rest = np.diagonal(matrix.values), off_diagonal(matrix.values)
            image = show(upper, cells, cmap=palette(colours), vmin=-1, vmax=1, interpolation="antialiased")
            rms = float(np.sqrt(np.mean(np.square(rest, dtype=np.float64)))) if len(rest) else 0.0
            upper.set_title(matrix.name, fontsize=8.5)
            upper.set_xlabel(
                f"diagonal mean {diagonal.mean():.3f}\nrest: mean {rest.mean():.3f}, RMS {rms:.3f}", fontsize=7.5
            )
            told.append(f"{matrix.name}: {matrix.what}" + (f", pooled (n = {n})" if n > 1 else ""))
            _distribution(lower, diagonal, rest)
            if column:
                lower.set_yticklabels([])
                lower.tick_params(axis="y", length=0)
            else:
                lower.set_ylabel("share of\nentries", fontsize=7.5)
        bar = figure.colorbar(image, ax=axes[::2].ravel().tolist(), shrink=0.9, aspect=18, pad=0.02)
        bar.set_ticks([-1, -0.5, 0, 0.5, 1])
        bar.outline.set_visible(False)
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS[:2]]
        axes[1, 0].legend(handles, ["beside the diagonal", "on it"], fontsize=7, handlelength=0.9, loc="upper left")
        pooled = any(pool_size(m.values) > 1 for m in matrices)
        caption = "Entry (i, j): correlation over images of feature i of one view with feature j of the other." + (
            " Pooled: a cell beside the diagonal is the mean of n × n entries, a cell on it the mean of its n diagonal "
            "entries alone; the numbers and the histograms are of the true entries."
            if pooled
            else ""
        )
        return headed(figure, f"{title}\n{'; '.join(told)}.", caption)


def pool_size(matrix: np.ndarray, most: int = MOST_CELLS) -> int:
    """How many entries a side a drawn cell stands for."""
    return -(-len(matrix) // most)


def _distribution(axis, diagonal: np.ndarray, rest: np.ndarray) -> None:
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


def film_strip(evolutions: Sequence[Evolution], colours: str = "diverging", frames: int = 6) -> Figure:
    """A line for each run, matrices at evenly spaced epochs from its first to its last."""
    columns = max(len(even(len(e.epochs), frames)) for e in evolutions)
    with style():
        figure, axes = grid(len(evolutions), columns, 1.45, 1.55)
        image = None
        for line, evolution in enumerate(evolutions):
            chosen = even(len(evolution.epochs), columns)
            for column in range(columns):
                if column >= len(chosen):
                    show(axes[line, column], None)
                    continue
                frame = chosen[column]
                image = show(
                    axes[line, column],
                    pool(evolution.matrices[frame], 256)[0],
                    f"epoch {evolution.epochs[frame]}",
                    cmap=palette(colours),
                    vmin=-1,
                    vmax=1,
                    interpolation="antialiased",
                )
            axes[line, 0].set_ylabel(evolution.name, fontsize=8)
        bar = figure.colorbar(image, ax=axes.ravel().tolist(), shrink=0.85, aspect=16, pad=0.02)
        bar.set_ticks([-1, 0, 1])
        bar.outline.set_visible(False)
        return headed(figure, f"Cross-correlation over training\n{_abouts(evolutions)}", _kept_features(evolutions))


def _abouts(evolutions: Sequence[Evolution]) -> str:
    return " ".join(f"{e.name}: {e.about}." for e in evolutions)


def _kept_features(evolutions: Sequence[Evolution]) -> str:
    sizes = sorted({e.matrices.shape[-1] for e in evolutions})
    return (
        f"The features that runs keep: {' or '.join(map(str, sizes))} evenly spaced ones, or all if there are no more. "
        "Two views of the same image, over a few hundred images (all, where there are fewer)."
    )


def curves(evolutions: Sequence[Evolution]) -> Figure:
    """Mean of the diagonal, and root mean square of the rest, over epochs; a line for each run."""
    with style():
        figure, axes = grid(1, 2, 3.6, 2.4)
        for number, evolution in enumerate(evolutions):
            look = {
                "color": COLOURS[number % len(COLOURS)],
                "ls": (0, DASHES[number // len(COLOURS) % len(DASHES)]) if number >= len(COLOURS) else "-",
                "marker": "o" if len(evolution.epochs) < 12 else None,
                "ms": 3,
            }
            axes[0, 0].plot(evolution.epochs, evolution.on_diagonal, label=evolution.name, **look)
            axes[0, 1].plot(evolution.epochs, evolution.off_diagonal, **look)
        for axis, name in zip(axes[0], ("On the diagonal: mean", "Beside it: root mean square"), strict=True):
            axis.set_title(name)
            axis.set_xlabel("epoch")
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[0, 0].axhline(1, color="#75716b", lw=0.8, ls=":")
        axes[0, 1].set_ylim(bottom=0)
        figure.legend(loc="outside right upper", fontsize=8)
        return headed(
            figure,
            f"Cross-correlation over training\n{_abouts(evolutions)}",
            "Of all features of the projections. Barlow Twins drives the diagonal to 1 (dotted) and the rest to 0.",
        )


def animation(evolutions: Sequence[Evolution], colours: str = "diverging") -> Iterator[np.ndarray]:
    """Frames, uint8 ``[H, W, 3]``, of all runs side by side: one for each epoch that any of them has kept, in which every run
    shows its newest matrix up to then."""
    epochs = sorted({int(epoch) for e in evolutions for epoch in e.epochs})
    columns = min(COLUMNS, len(evolutions))
    with style():
        figure, axes = grid(-(-len(evolutions) // columns), columns, 2.6, 2.8)
        images, cmap = [], palette(colours)
        for axis in axes.ravel()[len(evolutions) :]:
            show(axis, None)
        for axis, evolution in zip(axes.ravel(), evolutions, strict=False):
            blank = np.full_like(evolution.matrices[0], np.nan)
            images.append(show(axis, blank, evolution.name, cmap=cmap, vmin=-1, vmax=1, interpolation="antialiased"))
            axis.set_xlabel(" \n", fontsize=7.5)
        bar = figure.colorbar(images[0], ax=axes.ravel().tolist(), shrink=0.85, aspect=18, pad=0.02)
        bar.set_ticks([-1, 0, 1])
        bar.outline.set_visible(False)
        headed(figure, f"Cross-correlation, epoch 0\n{_abouts(evolutions)}", "")
        without_formulas(figure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for epoch in epochs:
            figure.suptitle(f"Cross-correlation, epoch {epoch}", x=0.01, ha="left", fontsize=10, fontweight="bold")
            for axis, image, evolution in zip(axes.ravel(), images, evolutions, strict=False):
                known = np.flatnonzero(evolution.epochs <= epoch)
                if len(known):
                    image.set_data(evolution.matrices[known[-1]])
                    on, off = evolution.on_diagonal[known[-1]], evolution.off_diagonal[known[-1]]
                    axis.set_xlabel(
                        f"epoch {evolution.epochs[known[-1]]}: diagonal {on:.3f}\nRMS of the rest {off:.3f}",
                        fontsize=7.5,
                    )
            yield rendered(figure)
        plt.close(figure)
