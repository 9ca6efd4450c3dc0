"""Train a plan: check and claim its run directory, then start the loop of ``training.loop``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from common.distributed import is_distributed, is_main
from common.errors import UserError
from common.files import remove_unfinished
from common.progress import say, working
from data.store.names import in_order
from methods.core.base import Method
from rundir.extension import set_aside
from rundir.log import fingerprint_of, holds_work, start_of, whole_end_of
from rundir.options import write_options, written_options
from rundir.paths import has_checkpoint, remove_start
from rundir.results import names_hash
from training.batches import BatchSource
from training.checkpoint import free_space
from training.config import TrainConfig
from training.diagnostics import CollapseWatch
from training.extension import is_extension
from training.failures import explained
from training.initial import advice, start_from, starts_at_zero
from training.loop import Monitor, Pictures, Session
from training.machine.devices import pick_device
from training.plan import Plan
from training.resolve import require_same_run
from training.step import Stepper


def train(
    plan: Plan,
    make_monitor: Callable[[Plan, Method], Monitor] | None = None,
    resume: bool = True,
    make_pictures: Callable[[Plan, Method, Monitor], Pictures] | None = None,
) -> None:
    """Train a method, or continue where its run directory stops. Every process calls it; the first holds the directory's lock.

    ``make_monitor`` gets the method on its device, ``make_pictures`` also the monitor. Without ``resume``, a directory that holds a
    run is refused.

    Raises:
        UserError: the directory holds another run, or one that began on other images; the loss is no longer finite; memory
            does not suffice, or another process of the training has died.
        SystemExit: stopped by SIGINT, SIGTERM, SIGUSR1 or SIGHUP, after a checkpoint; the status is 128 + the signal's number.
    """
    run = plan.directory
    if not resume and holds_work(run):
        raise UserError(f"{run} holds a run, which --resume never does not continue; give another --out")
    begins = not (require_same_run(run, plan.config, plan.method_config) and has_checkpoint(run))
    written = written_options(run)
    extends = not begins and is_extension(written, plan.config)
    end = None if extends else whole_end_of(run)
    if not begins and (plan.evaluations or end is None):
        begins = not _has_same_images(plan)
    if is_distributed():
        dist.barrier()  # all have looked before the first writes
    if is_main():
        remove_unfinished(run)
        if begins and end is None:  # anew, in place of a start that took no step
            remove_start(run)
        if extends and (folder := set_aside(run, written["epochs"])):
            say(f"{run}: results and pictures of the weights after {written['epochs']:g} epochs are now in {folder}")
    if end is None:
        _train(plan, make_monitor, make_pictures, begins)
    elif is_main():
        write_options(run, plan.options)
        free_space(run, plan.config.keep_checkpoints)  # the process may have been killed before
        say(f"{run}: training ended already, after {end['minutes']:.1f} minutes; nothing to train")


def _has_same_images(plan: Plan) -> bool:
    """Whether the images are those in the run's log; their folder, ``data_root``, may differ. Raises UserError if they are not, and
    the run has taken a step."""
    config, begun = plan.config, fingerprint_of(plan.directory)
    same = begun is None or begun == (now := plan.images[0].fingerprint)
    if not same and holds_work(plan.directory):
        where = f" in {config.data_root}" if config.data_root else ""
        images = plan.images[0]
        if images.upright and not start_of(plan.directory).get("source") and (turns := int((images.turns > 1).sum())):
            where += f", of which {turns:,} are turned upright by their EXIF orientation, which older versions did not"
        raise UserError(
            f"{plan.directory} was begun on other images than those of {config.data}{where} (fingerprint {begun}, now {now}); "
            "give the folder of those, or another --out"
        )
    return same


def _train(
    plan: Plan,
    make_monitor: Callable[[Plan, Method], Monitor] | None,
    make_pictures: Callable[[Plan, Method, Monitor], Pictures] | None,
    begins: bool,
) -> None:
    """Set up a method's training, and run it. ``begins``: no checkpoint exists yet."""
    config, (images, held_out) = plan.config, plan.images
    with working(f"making {config.backbone} and what {config.method} adds", show=is_main()):
        method = plan.build_method()
    about = {"images": len(images), "held_out": len(held_out), "fingerprint": images.fingerprint}
    about["source"] = images.source
    about["names"] = names_hash(in_order(images.names, held_out.names))
    about["labelled"] = int(images.labelled.sum())
    if begins and plan.initial is None:
        if zero := starts_at_zero(method.backbone):
            about["starts_at_zero"] = zero
            if is_main():
                say(f"{plan.directory}: {zero}")
    elif begins:
        about["initial"] = start_from(method, plan.initial, config.backbone)
        if is_main():
            say(f"{plan.directory}: starts from {about['initial']}")
            if warning := advice(config, plan.method_config):
                say(warning)

    def logged() -> dict[str, Any]:
        return {name: value for name, value in plan.costs.items() if name != "memory"}

    with explained(config, method, plan.device, lambda: plan.costs["memory"]):
        with working(f"putting the networks on {plan.device}", show=is_main()):
            stepper = Stepper(method, config, plan.device)
        batches = plan.batches() if method.trains else None
        monitor = make_monitor(plan, stepper.method) if make_monitor else None
        draws = make_pictures is not None and monitor is not None and batches is not None and config.pictures_every
        pictures = make_pictures(plan, stepper.method, monitor) if draws else None
        watch = CollapseWatch(
            getattr(plan.method_config, "out_dim", None), round(config.warmup_epochs * plan.steps_per_epoch)
        )
        if is_main():
            write_options(plan.directory, plan.options)
        Session(plan.directory, config, plan.options, stepper, batches, watch, monitor, about, logged, pictures).run()


def train_task(
    config: TrainConfig, options: dict[str, Any], method: Method, batches: BatchSource, **about: Any
) -> None:
    """Train a task with its own network and batches (segmentation) as ``train`` does, but without a plan and a monitor. ``config``
    is resolved; ``options`` go into ``config.yaml`` and checkpoints; ``about`` goes into the log's first record."""
    run = Path(config.out)
    if is_main():
        remove_unfinished(run)
        write_options(run, options)
    device = pick_device(config.device)
    parameters = sum(p.numel() for p in method.backbone.parameters())
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    costs = {"parameters": parameters, "trained_parameters": trained}
    with explained(config, method, device, dict):
        stepper = Stepper(method, config, device)
        Session(run, config, options, stepper, batches, CollapseWatch(None, 0), None, about, lambda: costs).run()
