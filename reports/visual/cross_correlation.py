"""``run.py visualize cross_correlation``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from common.errors import UsageError, UserError
from common.progress import track
from data.views.maker import ViewMaker
from methods.core.base import METHODS, ViewBatch
from reports.visual.cross_correlation_drawing import (
    Matrix,
    animation,
    curves,
    film_strip,
    heatmaps,
    read_evolution,
    run_words,
)
from reports.visual.network import configs_of, folder_of, names_of, read_options, run_title, train_images
from reports.visual.options import CrossCorrelationOptions
from reports.visual.style import save_figure, save_gif
from rundir.paths import require_checkpoint
from training.batches import hold_out
from training.checkpoint import load_checkpoint
from training.diagnostics import cross_correlation
from training.machine.devices import autocast, pick_device
from training.plan import build_method


@torch.no_grad()
def projections_of(run: Path, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Projections of two views each of a run's training images, from its last checkpoint: as training makes them (BatchNorm with
    the statistics of a batch), but both views always of the same image.

    Args:
        count: images, at most; whole batches of the run's size (of all images together, if these are fewer).

    Returns:
        both ``[n, D]`` on the CPU, and the weights' title.

    Raises:
        UserError: no checkpoint, no images, or a method without projections.
    """
    if count < 2:
        raise UsageError(f"--count {count}: a correlation needs at least 2 images")
    state = load_checkpoint(require_checkpoint(run, "give a run directory"))
    config, method_config = configs_of({**state["config"], "image_size": state["image_size"]})
    store = train_images(config)
    store = store.subset(hold_out(len(store), config.knn_every)[0])
    method = build_method(config, method_config, store.num_classes)
    method.load_state_dict(state["method"])
    method.to(device).train()
    views = list(METHODS.get(config.method).views(method_config, config.image_size))
    if len(views) < 2:
        raise UserError(
            f"{run}: {config.method} sees one view of an image, so there is nothing to correlate; give another run"
        )
    rows = min(config.batch_size // config.accumulate, count, len(store))
    order = np.random.default_rng(0).permutation(len(store))[: min(count, len(store)) // rows * rows]
    params = ViewMaker(views).sample(len(order), torch.Generator().manual_seed(0))
    labels = torch.from_numpy(store.labels) if store.label_sets is None else torch.from_numpy(store.label_sets).float()
    first, second = [], []
    torch.manual_seed(0)  # of stochastic depth
    for start in track(range(0, len(order), rows), "projections", len(order) // rows):
        part = slice(start, start + rows)
        images = store.batch(np.sort(order[part]))
        made = ViewMaker(views).make(images.to(device), torch.arange(rows).expand(len(views), rows), params[:, part])
        with autocast(device, config.precision):
            output = method(ViewBatch(made, labels[np.sort(order[part])].to(device)))
        if output.projections is None:
            raise UserError(f"{run}: {config.method} has no projections to correlate; give a run of another method")
        first.append(output.projections[0].float().cpu())
        second.append(output.projections[1].float().cpu())
    return torch.cat(first), torch.cat(second), f"{config.backbone}, {run_title(run, state['config'])}"


def draw(options: CrossCorrelationOptions) -> list[Path]:
    """Heatmaps; and where the runs have kept their evolution, a film strip, an animation and curves."""
    if not options.fps > 0:
        raise UsageError(f"--fps {options.fps:g}: give a number above 0")
    runs, names = [Path(run) for run in options.runs], names_of(options.runs)
    folder = folder_of(options.out, options.runs[0] if len(runs) == 1 else None)
    if options.recompute:
        device = pick_device(options.device)
        matrices = []
        for run, name in zip(runs, names, strict=True):
            first, second, title = projections_of(run, options.count, device)
            values = cross_correlation(first, second).numpy()
            what = f"{title}, all {len(values)} features, {len(first)} training images"
            matrices.append(Matrix(name, values, what))
        figure = heatmaps(matrices, options.palette, "Cross-correlation of two views' projections")
        return save_figure(figure, folder, "cross_correlation-recomputed")
    evolutions = [
        read_evolution(run, name, run_words(read_options(run))) for run, name in zip(runs, names, strict=True)
    ]
    matrices = [
        Matrix(
            e.name,
            e.matrices[-1],
            f"{e.about}, epoch {e.epochs[-1]}, {e.matrices.shape[-1]} evenly spaced features (or all)",
        )
        for e in evolutions
    ]
    written = save_figure(
        heatmaps(matrices, options.palette, "Cross-correlation of two views' projections"), folder, "cross_correlation"
    )
    if max(len(e.epochs) for e in evolutions) > 1:
        written += save_figure(film_strip(evolutions, options.palette), folder, "cross_correlation-strip")
        written += save_figure(curves(evolutions), folder, "cross_correlation-curves", vector=True)
        frames = list(animation(evolutions, options.palette))
        path = folder / "cross_correlation.gif"
        written.append(
            save_gif([*frames, *frames[-1:] * round(options.fps)], path, 1 / options.fps)
        )  # rests at the end
    return written
