"""The one trainer: read ``_loop`` from top to bottom."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from signal import Signals
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from backbones import build_backbone
from common.distributed import all_reduce_mean, is_distributed, is_main, rank
from common.errors import UserError
from common.files import read_json_lines, write_json
from data.datasets import open_dataset
from data.store import ImageStore
from eval import run_evaluations
from eval.base import EvaluationConfig
from eval.context import make_context
from methods.base import METHODS, Method, MethodConfig, Progress
from training.batches import MODEL, STEP, Batches, BatchSource, seed_of, short_side_for, split
from training.checkpoint import is_finite, last_checkpoint, load_checkpoint, remove_unfinished, save_checkpoint
from training.config import TrainConfig
from training.devices import peak_memory_gib, pick_device, process_group, synchronize
from training.diagnostics import ROWS, CollapseWatch, effective_rank
from training.environment import describe_environment
from training.interrupt import Interruption
from training.logging import RunLog
from training.monitor import Monitor, hold_out, save_correlation
from training.plan import cost_of, print_plan
from training.resolve import options_of, require_same_run, resolve, write_config
from training.step import Stepper

__all__ = ["end_of", "plan", "print_plan", "train", "train_task"]


def train(
    config: TrainConfig, method_config: MethodConfig, evaluations: Mapping[str, EvaluationConfig] | None = None
) -> Path:
    """Pre-train a backbone, or continue where its run directory stops; then evaluate it.

    Args:
        config: options; see ``training.config``.
        method_config: the method's own.
        evaluations: by name, what to measure afterwards, with its options.

    Returns:
        the run directory.

    Raises:
        UsageError, UserError: options or data are wrong; the directory holds another run; the loss is no longer finite.
        SystemExit: stopped by SIGINT or SIGTERM, after a checkpoint; the status is 128 + the signal's number.
    """
    evaluations = evaluations or {}
    with process_group(config.device):
        config = resolve(config)
        run = Path(config.out)
        require_same_run(run, config, method_config)
        if is_distributed():
            dist.barrier()  # all have looked before the first writes
        options = options_of(config, method_config, evaluations)
        if is_main():
            write_config(run, options)
            remove_unfinished(last_checkpoint(run))
        if (end := end_of(run)) is not None:
            if is_main():
                print(f"{run}: training ended already, after {end['minutes']:.1f} minutes; nothing to train")
        else:
            _train(run, config, method_config, options)
        main = is_main()
    if main and evaluations:
        context = make_context(
            str(run), None, None, None, None, config.device, config.precision, None, config.seed
        )
        run_evaluations(list(evaluations), evaluations, context)
    return run


def end_of(run: Path) -> dict[str, Any] | None:
    """The last record of a finished run."""
    try:
        records = read_json_lines(run / "log.jsonl")
    except (OSError, ValueError):
        return None
    return next((record for record in records if record.get("kind") == "end"), None)


def train_task(config: TrainConfig, options: dict[str, Any], method: Method, batches: BatchSource, **about: Any) -> None:
    """Train something that brings its own network and batches (segmentation), or continue where its run directory stops: the
    same loop, run directory, checkpoints and resumption as of any method, without the online k-NN and the plan.

    Args:
        config: resolved options; ``out`` is the run directory.
        options: everything that the run depends on, for its ``config.yaml`` and its checkpoints.
        method: with its initial weights.
        batches: what it is trained on.
        about: for the log's first record.

    Raises: as ``train``.
    """
    run = Path(config.out)
    if is_main():
        write_config(run, options)
        remove_unfinished(last_checkpoint(run))
    stepper = Stepper(method, config, pick_device(config.device))
    parameters = sum(p.numel() for p in method.backbone.parameters())
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    costs = {"parameters": parameters, "trained_parameters": trained}
    _run(run, config, options, stepper, batches, None, CollapseWatch(None, 0), about, costs)


def _train(run: Path, config: TrainConfig, method_config: MethodConfig, options: dict[str, Any]) -> None:
    """Set a method's training up, and run it."""
    device = pick_device(config.device)
    train_store, held_out = _images(config, method_config)
    method = build_method(config, method_config, train_store.num_classes)
    views = list(method.views(method_config, config.image_size))
    costs = _costs(config, method_config, train_store)
    stepper = Stepper(method, config, device)
    method = stepper.method
    batches = Batches(train_store, views, config, device) if method.trains else None
    monitor = Monitor(method, views, train_store, held_out, config, device)
    warmup_steps = round(config.warmup_epochs * batches.steps_per_epoch) if batches else 0
    watch = CollapseWatch(getattr(method_config, "out_dim", None), warmup_steps)
    about = {"images": len(train_store), "held_out": len(held_out), "fingerprint": train_store.fingerprint}
    costs = {name: value for name, value in costs.items() if name != "memory_gib"}
    _run(run, config, options, stepper, batches, monitor, watch, about, costs)


def _run(
    run: Path,
    config: TrainConfig,
    options: dict[str, Any],
    stepper: Stepper,
    batches: BatchSource | None,
    monitor: Monitor | None,
    watch: CollapseWatch,
    about: dict[str, Any],
    costs: dict[str, Any],
) -> None:
    """Go on from the last checkpoint, if there is one, run the loop, tell what it took (``about`` and ``costs``: what the
    log's first and last records say beside)."""
    method, device = stepper.method, stepper.device
    steps_per_epoch = batches.steps_per_epoch if batches else 0
    total = steps_per_epoch * config.epochs
    checkpoint = last_checkpoint(run)
    state = load_checkpoint(checkpoint) if checkpoint.exists() else None

    with RunLog(run, options, total, config.tensorboard, config.wandb) as log:
        start = state["step"] if state else 0
        logged = log.rewind(start) if state else log.rewind(-1)
        _write_environment(run, device, config, start)
        watch.replay(logged)
        if state:
            method.load_state_dict(state["method"])
            if stepper.optimizer is not None:
                stepper.optimizer.load_state_dict(state["optimizer"])
            stepper.scaler.load_state_dict(state["scaler"])
            log.say(f"{run}: continuing after step {start} of {total}")
        else:
            log.write(
                "start",
                0,
                0,
                left_out_each_epoch=batches.left_out if batches else 0,
                steps_per_epoch=steps_per_epoch,
                **about,
                **costs,
            )
            if batches and batches.left_out:
                images = batches.left_out + steps_per_epoch * config.batch_size
                log.say(
                    f"{batches.left_out} of {images} images are left out each epoch, others each time: "
                    f"the last batch would be smaller than {config.batch_size}"
                )
        seconds = state["seconds"] if state else 0.0
        if total:
            seconds = _loop(run, config, options, stepper, batches, monitor, watch, log, start, seconds)
        else:
            _look(run, monitor, log, 0, 0)
            _save(checkpoint, stepper, config, options, 0, 0.0)
        log.write(
            "end",
            total,
            config.epochs if total else 0,
            minutes=seconds / 60,
            images_seen=total * config.batch_size,
            images_per_second=total * config.batch_size / seconds if total else None,
            peak_memory_gib=peak_memory_gib(device),
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **costs,
        )
        log.say(f"{run}: trained {config.epochs if total else 0} epochs in {seconds / 60:.1f} minutes; weights: {checkpoint}")


def _loop(
    run: Path,
    config: TrainConfig,
    options: dict[str, Any],
    stepper: Stepper,
    batches: BatchSource,
    monitor: Monitor | None,
    watch: CollapseWatch,
    log: RunLog,
    start: int,
    seconds: float,
) -> float:
    """Take the steps from ``start`` to the last. Returns the seconds of training, those before ``start`` included; looking
    at the run from outside and writing checkpoints is not in them."""
    method, device = stepper.method, stepper.device
    per_epoch = batches.steps_per_epoch
    total = per_epoch * config.epochs
    checkpoint = last_checkpoint(run)
    finite = torch.ones((), dtype=torch.bool, device=device)
    method.train()

    with Interruption() as interruption:
        if start == 0:
            _look(run, monitor, log, 0, 0)
            _save(checkpoint, stepper, config, options, 0, 0.0)
        synchronize(device)
        mark = time.perf_counter()
        since = (start, seconds)
        for step, batch in enumerate(batches.stream(start, total), start):
            torch.manual_seed(seed_of(STEP, config.seed, step, rank()))  # stochastic depth and the like
            progress = Progress(step, per_epoch, config.epochs)
            loss, output = stepper.step(split(batch, config.accumulate), progress)
            finite &= loss.isfinite()

            done = step + 1
            epoch, epoch_ends = done // per_epoch, done % per_epoch == 0
            record = done % config.log_every == 0 or done in (1, total)
            look = epoch_ends and config.knn_every and (epoch % config.knn_every == 0 or done == total)
            save = done == total or (epoch_ends and epoch % config.checkpoint_every == 0)
            # On an accelerator, reading anything back stops the flow of work: the loss is looked at where it is logged.
            failed = (device.type == "cpu" or record or save) and not finite.item()
            stopped, failed = interruption.agree(failed)
            if failed:
                raise _not_finite("the loss", done, epoch, checkpoint)

            if record:
                values = _values(loss, output.metrics)
                now = time.perf_counter()
                seconds, mark = seconds + now - mark, now
                speed = (done - since[0]) * config.batch_size / max(seconds - since[1], 1e-9)
                since = (done, seconds)
                values |= {"lr": stepper.rates(progress)[0], "weight_decay": stepper.rates(progress)[1]}
                values |= {"images_seen": done * config.batch_size, "seconds": seconds, "images_per_second": speed}
                if output.projections is not None:
                    seen = output.projections[0][:ROWS]
                    values |= {"effective_rank": effective_rank(seen), "rank_limit": min(len(seen) - 1, seen.shape[1])}
                log.write("step", done, step // per_epoch, **values)
                for name, message in watch.look({"step": done, **values}):
                    log.warn(done, epoch, name, message)
                log.advance(done, f"epoch {step // per_epoch + 1}/{config.epochs}, loss {values['loss']:.4f}, {speed:.0f} images/s")
            else:
                log.advance(done)

            if look or save or stopped:
                synchronize(device)
                seconds += time.perf_counter() - mark
                if look or done == total:
                    _look(run, monitor, log, done, epoch, knn=bool(look))
                if not is_finite(method):
                    raise _not_finite("a weight", done, epoch, checkpoint)
                _save(checkpoint, stepper, config, options, done, seconds)
                if stopped and done < total:
                    log.say(
                        f"stopped by {Signals(stopped).name} after step {done} of {total}; "
                        f"the same command continues there ({checkpoint})"
                    )
                    raise SystemExit(128 + stopped)
                mark = time.perf_counter()
                since = (done, seconds)
    return seconds


def _values(loss: Tensor, metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Numbers for the log, means over processes: one message, and one look at the device."""
    tensors = [loss, *(torch.as_tensor(value, device=loss.device) for value in metrics.values())]
    with torch.no_grad():
        together = all_reduce_mean(torch.stack([t.detach().float() for t in tensors]))
    return dict(zip(("loss", *metrics), together.tolist(), strict=True))


def _look(run: Path, monitor: Monitor | None, log: RunLog, done: int, epoch: int, knn: bool = True) -> None:
    """Online k-NN and diagnostics, into the log and ``figures/``."""
    if monitor is None:
        return
    if knn and (found := monitor.knn()) is not None:
        log.write("knn", done, epoch, **found)
        log.say(f"epoch {epoch}: k-NN top-1 {found['top1']:.1f}% on {found['n']} held-out training images")
    found, matrix = monitor.diagnose()
    if found:
        log.write("diagnostics", done, epoch, **found)
    if matrix is not None:
        save_correlation(run, epoch, matrix, found)


def _save(
    checkpoint: Path, stepper: Stepper, config: TrainConfig, options: dict[str, Any], step: int, seconds: float
) -> None:
    if is_main():
        save_checkpoint(
            checkpoint,
            stepper.method,
            stepper.optimizer,
            backbone_name=config.backbone,
            image_size=config.image_size,
            scaler=stepper.scaler.state_dict(),
            step=step,
            seconds=seconds,
            config=options,
        )


def _not_finite(what: str, step: int, epoch: int, checkpoint: Path) -> UserError:
    before = load_checkpoint(checkpoint)["step"]
    return UserError(
        f"{what} is not finite any more after step {step} (epoch {epoch}); {checkpoint} is from before, after step {before}. "
        "Give another --out and a lower --lr, more --warmup_epochs, --clip_grad 1 or --precision fp32"
    )


def build_method(config: TrainConfig, method_config: MethodConfig, num_classes: int) -> Method:
    """A freshly initialised method; its weights are a function of the seed."""
    torch.manual_seed(seed_of(MODEL, config.seed))

    def make_backbone(**hints: Any) -> Any:
        return build_backbone(config.backbone, config.image_size, **hints)

    return METHODS.get(config.method)(method_config, make_backbone, num_classes)


def _images(config: TrainConfig, method_config: MethodConfig) -> tuple[ImageStore, ImageStore]:
    """The images to train on, and those held out for the online k-NN. Of several processes the first decodes them."""
    root = None if config.data_root is None else Path(config.data_root)
    store = open_dataset(config.data, "train", root, short_side_for(config.image_size))
    if METHODS.get(config.method).uses_labels:
        labelled = (store.labels >= 0).any() if store.label_sets is None else store.label_sets.any()
        if not labelled:
            raise UserError(f"--method {config.method} needs labels, and no training image of {config.data} has one")
    trained, held_out = hold_out(len(store), config.knn_every)
    return store.subset(trained), store.subset(held_out)


def _costs(config: TrainConfig, method_config: MethodConfig, store: ImageStore) -> dict[str, Any]:
    views = list(METHODS.get(config.method).views(method_config, config.image_size))
    labels = None if store.label_sets is None else store.num_classes
    return cost_of(lambda: build_method(config, method_config, store.num_classes), views, config, labels)


def _write_environment(run: Path, device: torch.device, config: TrainConfig, start: int) -> None:
    """``environment.json``: of the first start; under ``resumed``, of each later one with the step it began after."""
    if not is_main():
        return
    path = run / "environment.json"
    here = describe_environment(device, config.precision)
    if start and path.exists():
        first = json.loads(path.read_text(encoding="utf-8"))
        first.setdefault("resumed", []).append({"step": start, **here})
        here = first
    write_json(path, here)


def plan(config: TrainConfig, method_config: MethodConfig) -> dict[str, Any]:
    """What ``train`` would do: resolved ``options``, ``device``, ``images``, ``held_out``, ``steps_per_epoch``,
    ``total_steps``, ``left_out`` (images each epoch), ``images_seen``, and the costs of ``training.plan.cost_of``. Decodes the
    data set if that has not happened yet; trains nothing and writes no run directory."""
    config = resolve(config)
    store, held_out = _images(config, method_config)
    costs = _costs(config, method_config, store)
    per_epoch = len(store) // config.batch_size if METHODS.get(config.method).trains else 0
    return {
        "options": {**asdict(config), **asdict(method_config)},
        "device": str(pick_device(config.device)),
        "images": len(store),
        "held_out": len(held_out),
        "steps_per_epoch": per_epoch,
        "total_steps": per_epoch * config.epochs,
        "left_out": len(store) - per_epoch * config.batch_size if per_epoch else 0,
        "images_seen": per_epoch * config.batch_size * config.epochs,
        **costs,
    }
