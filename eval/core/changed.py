"""Finds out whether the images to evaluate on are those that a run was trained on, and that its results were measured on."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from data.datasets import open_dataset
from data.sets.core.benchmark import Benchmark
from data.store.names import in_order
from data.store.store import ImageStore
from eval.core.context import EvalContext
from rundir.log import start_of
from rundir.options import written_options
from rundir.paths import RESULTS
from rundir.results import Measurement, names_hash, read_results
from training.batches import hold_out, short_side_for


def warnings_of_images(context: EvalContext) -> list[str]:
    """Say what is not as it was: training images, since the weights were trained; training and test images, since results in the
    run directory were measured. Decodes nothing."""
    trained = _since_training(context, context.trained_in) if context.trained_in else ""
    return [warning for warning in (trained, _since_measured(context)) if warning]


def _since_training(context: EvalContext, run: Path) -> str:
    options, start, store = written_options(run), start_of(run), context.train
    if isinstance(store, Benchmark) or options.get("data") != store.name or not start.get("fingerprint"):
        return ""
    before, now = int(start.get("images", 0)) + int(start.get("held_out", 0)), len(store)
    where = f"the training images of {store.name} are not those that {run} was trained on"
    if before != now:
        return f"{where}: {before:,} then, {now:,} now"
    if start.get("names") not in (None, names_hash(in_order(store.names))):
        return f"{where}: of {now:,} images some have other names"
    size, knn_every = options.get("image_size"), options.get("knn_every")
    if not isinstance(knn_every, int):
        return ""
    if start.get("source"):
        same = start["source"] in {part.source for part in _parts(store, knn_every)}
        return "" if same else f"{where}: other names, files or labels"
    if not isinstance(size, int):
        return ""
    # Older logs have a fingerprint of pixels at the training's size. A store of them is there unless a file has been written to.
    trained = open_dataset(store.name, "train", context.data_root, short_side_for(size), progress=False, build=False)
    if trained is None or start["fingerprint"] in {part.fingerprint for part in _parts(trained, knn_every)}:
        return ""
    return f"{where}: other pixels or labels"


def _parts(store: ImageStore, knn_every: int) -> tuple[ImageStore, ImageStore]:
    """What a run may have trained on: all images, or all but those held out."""
    return store, store.subset(hold_out(len(store), knn_every)[0])


def _since_measured(context: EvalContext) -> str:
    changed: dict[str, str] = {}
    for file in sorted((context.run_dir / RESULTS).glob("*.json")):
        try:
            measurements = read_results(file)
        except UserError:  # the evaluation itself will say so
            continue
        for m in measurements:
            if m.data.get("name") == context.test.name and (how := _difference(m, context)):
                changed[m.evaluation] = how
    if not changed:
        return ""
    what = "; ".join(dict.fromkeys(changed.values()))
    return (
        f"{', '.join(changed)} in {context.run_dir} {'was' if len(changed) == 1 else 'were'} measured on other images of "
        f"{context.test.name} ({what}), so what is measured now cannot be compared with that"
    )


def _difference(m: Measurement, context: EvalContext) -> str:
    """Say how the images of a measurement differ from the context's; "" if they do not, as far as is known."""
    now = context.data()
    same_size = isinstance(context.test, Benchmark) or m.protocol.get("image_size") == context.image_size
    for split in ("train", "test"):
        then, here = m.data.get(split), now.get(split)
        if not isinstance(then, dict) or here is None or then.get("split", split) != split:
            continue  # unknown, or of a list that the context does not open
        for what in ("images", "files"):
            if what in then and then[what] != here.get(what):
                return f"{then[what]:,} {split} {what} then, {here.get(what):,} now"
        if same_size and then.get("fingerprint") not in (None, here["fingerprint"]):
            return f"other pixels or labels of {split} images"
        if then.get("source") not in (None, here.get("source")):
            return f"other names, files or labels of {split} images"
    return ""
