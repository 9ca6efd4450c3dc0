"""The one loop of every training: read ``Session.steps`` from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from common.distributed import all_reduce_mean, all_reduce_sum, is_distributed, is_main, main_first, rank
from common.errors import UserError, first_line
from common.files import name_also
from common.progress import working
from common.schedules import steps_of
from methods.core.base import METHODS, Progress, StepOutput, facts_of
from rundir.correlation import save_correlation
from rundir.paths import best_checkpoint, last_checkpoint
from rundir.provenance import write_environment
from training.batches import STEP, BatchSource, seed_of, split
from training.checkpoint import free_space, is_finite, load_checkpoint, load_newest, save_checkpoint
from training.config import TrainConfig
from training.diagnostics import ROWS, CollapseWatch, effective_rank
from training.initial import misfit
from training.logging import RunLog
from training.machine.devices import energy_joules, peak_memory_gib, synchronize
from training.machine.environment import describe_environment, now
from training.machine.interrupt import Interruption
from training.step import Stepper


class Monitor(Protocol):
    """Measures a method while it trains, and leaves it as it was. All processes call it together."""

    def knn(self) -> dict[str, Any] | None:
        """A ``knn`` record with ``top1`` (percent) and ``n`` (images); None where k-NN cannot be measured."""

    def diagnose(self) -> tuple[dict[str, Any], np.ndarray | None]:
        """A ``diagnostics`` record, and the cross-correlation of two views' projections if the method has projections."""


class Pictures(Protocol):
    """Draws a method while it trains, and leaves it as it was. All processes call ``draw`` together; the first draws."""

    def draw(self, step: int, epoch: float) -> Mapping[str, Path]:
        """Draw the method after ``step`` steps. Returns image files by what they show. Raises UserError or OSError."""

    def has_drawn(self, step: int) -> bool:
        """Whether the pictures of this step exist."""


@dataclass
class Session:
    """A training that begins or continues in a run directory. ``options`` go into checkpoints and loggers; ``batches`` is None for
    a method without training; ``about`` goes into the log's first record, and ``costs()`` into the last. ``costs`` is called
    after the first step, since counting takes seconds."""

    directory: Path
    config: TrainConfig
    options: dict[str, Any]
    stepper: Stepper
    batches: BatchSource | None
    watch: CollapseWatch
    monitor: Monitor | None
    about: dict[str, Any]
    costs: Callable[[], Mapping[str, Any]]
    pictures: Pictures | None = None

    def __post_init__(self) -> None:
        self.checkpoint = last_checkpoint(self.directory)
        self.best = -1.0  # top-1 of the online k-NN so far
        self.per_epoch = self.batches.steps_per_epoch if self.batches else 0
        self.total = steps_of(self.config.epochs, self.per_epoch) if self.batches else 0

    def run(self) -> None:
        """Begin, or continue from the last checkpoint; train; log the costs."""
        config = self.config
        with RunLog(self.directory, self.options, self.total, config.tensorboard, config.wandb) as self.log:
            # The first process sets damaged checkpoints aside; the others read the rest.
            with main_first(), working("reading the checkpoint", show=is_main()):
                state = load_newest(self.directory, self.log.say, repair=is_main())
            if is_distributed():
                dist.barrier()  # all have read before the first writes
            start, seconds = self._begin() if state is None else self._restore(state)
            torch.backends.cudnn.benchmark = True  # all steps have the same few sizes; evaluations may have many
            energy = energy_joules(self.stepper.device)
            seconds = self.steps(start, seconds)
            torch.backends.cudnn.benchmark = False
            epochs, images = config.epochs if self.total else 0, self.total * config.batch_size
            end = {
                "minutes": seconds / 60,
                "images_seen": images,
                "images_per_second": images / seconds if seconds else None,
                "peak_memory_gib": peak_memory_gib(self.stepper.device),
                "finished": now(),
            }
            if start == 0 and (used := _energy_since(energy, self.stepper.device)) is not None:
                end["energy_kwh"] = used
            self.log.write("end", self.total, epochs, **end, **self.costs())
            if is_main():
                free_space(self.directory, config.keep_checkpoints)
            trained = f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}"
            self.log.say(f"{self.directory}: trained {trained} in {seconds / 60:.1f} minutes; {self.checkpoint}")

    def steps(self, start: int, seconds: float) -> float:
        """Take all steps after the first ``start``. Returns the seconds of training, added to ``seconds`` of the steps before,
        without evaluations, diagnostics and checkpoints."""
        config, stepper, batches = self.config, self.stepper, self.batches
        device = stepper.device
        finite = torch.ones((), dtype=torch.bool, device=device)
        stepper.method.train()
        synchronize(device)
        clock = _Clock(seconds, start)

        with Interruption() as interruption, self.log.steps_from(start), ExitStack() as first:
            why = (
                "compiles the backbone's blocks, in a minute or more" if config.compile else "takes longer than others"
            )
            first.enter_context(working(f"first step, which {why}", show=is_main()))
            for step, batch in enumerate(batches.stream(start, self.total) if batches else (), start):
                torch.manual_seed(seed_of(STEP, config.seed, step, rank()))  # for stochastic depth and the like
                progress = Progress(step, self.per_epoch, config.epochs)
                loss, output = stepper.step(split(batch, config.accumulate), progress)
                finite &= loss.isfinite()

                done = step + 1
                epoch, within = divmod(done, self.per_epoch)
                last, epoch_ends = done == self.total, within == 0
                record = done % config.log_every == 0 or done == 1 or last
                save = last or (epoch_ends and epoch % config.checkpoint_every == 0)
                draw = self._draws(done)
                knn = bool(config.knn_every and (last or (epoch_ends and epoch % config.knn_every == 0)))

                # Reading the loss makes the loop wait for an accelerator, so it is read there only when the loop waits anyway.
                failed = (device.type == "cpu" or record or save or knn or draw) and not finite.item()
                stopped, failed = interruption.agree(failed)
                if failed:
                    raise self._not_finite("the loss", done)
                first.close()
                self.log.advance(done)
                if record:
                    self._log_step(progress, loss, output, clock)
                if step == start and not stopped:
                    clock.pause()
                    with working("counting operations", show=is_main()):
                        self.costs()
                    clock.go_on(done)
                if knn or save or draw or stopped:
                    synchronize(device)
                    clock.pause()
                    if not is_finite(stepper.method):
                        raise self._not_finite("a weight", done)
                    best = (knn or last) and self._measure(done, knn)
                    if knn or save or stopped:
                        self._save(done, clock.seconds, best)
                        if not stopped and not last:  # a signal may have come since the step
                            stopped, _ = interruption.agree(False)
                    if stopped:  # also after the last step, since evaluations may follow
                        self.log.say(
                            f"stopped by {Signals(stopped).name} after step {done} of {self.total}; "
                            f"the same command continues there ({self.checkpoint})"
                        )
                        raise SystemExit(128 + stopped)
                    if draw:
                        self._draw(done)
                    clock.go_on(done)
        return clock.seconds

    def _begin(self) -> tuple[int, float]:
        self.log.rewind(-1)
        self._write_environment()
        left_out = self.batches.left_out if self.batches else 0
        self.log.write("start", 0, 0, **self.about, steps_per_epoch=self.per_epoch, left_out_each_epoch=left_out)
        if self.monitor is not None and self.about.get("labelled") == 0:
            self.log.say(
                "no labels: the online k-NN, which needs them, is left out, and no image is held out for it; "
                "run.py evaluate measures on another data set"
            )
        if left_out:
            self.log.say(
                f"{left_out} of {left_out + self.per_epoch * self.config.batch_size} images are left out each epoch, "
                f"others each time: the last batch would be smaller than {self.config.batch_size}"
            )
        with working("measuring the untrained network" if self.total else "measuring the network", show=is_main()):
            best = self._measure(0, knn=True)
        self._save(0, 0.0, best)
        if self._draws(0):
            self._draw(0)
        return 0, 0.0

    def _restore(self, state: dict[str, Any]) -> tuple[int, float]:
        try:
            self.stepper.load(state)
            step, seconds = int(state["step"]), float(state["seconds"])
            if not 0 <= step <= self.total:
                raise ValueError(f"it is from after step {step} of {self.total}")
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = misfit(state["method"], self.stepper.method) or first_line(error)
            raise UserError(
                f"{self.checkpoint}: not of this run, or of a former version of its method ({reason}); give another --out"
            ) from error
        records = self.log.rewind(step)
        self.watch.replay(records)
        first_step_of = {record["top1"]: record["step"] for record in reversed(records) if record.get("kind") == "knn"}
        self.best = max(first_step_of, default=-1.0)
        if first_step_of.get(self.best) == step and is_main():  # the run may have been killed between the two files
            name_also(self.checkpoint, best_checkpoint(self.directory))
        self._write_environment(step)
        extensions = [record.get("epochs_before") for record in records if record.get("kind") == "extend"]
        for before in self.config.extended_from or ():
            if before not in extensions:
                epochs = {"epochs_before": before, "epochs_now": self.config.epochs}
                self.log.write("extend", step, step // self.per_epoch, **epochs)
        self.log.say(f"{self.directory}: continuing after step {step} of {self.total}")
        drawn = torch.tensor(float(self._draws(step) and self.pictures.has_drawn(step)), device=self.stepper.device)
        if self._draws(step) and not all_reduce_mean(drawn).item():
            self._draw(step)  # the run was stopped between the checkpoint and them
        return step, seconds

    def _save(self, done: int, seconds: float, best: bool) -> None:
        with working("saving a checkpoint", show=is_main()):
            save_checkpoint(
                self.checkpoint,
                self.stepper.method,
                self.stepper.optimizer,
                keep=self.config.keep_checkpoints,
                backbone_name=self.config.backbone,
                image_size=self.config.image_size,
                scaler=self.stepper.scaler.state_dict(),
                step=done,
                steps_per_epoch=self.per_epoch,
                seconds=seconds,
                config=self.options,
            )
        if best and is_main():
            name_also(self.checkpoint, best_checkpoint(self.directory))

    def _log_step(self, progress: Progress, loss: Tensor, output: StepOutput, clock: _Clock) -> None:
        """Log the step just taken, and the watch's warnings."""
        done, size = progress.step + 1, self.config.batch_size
        values = _means({"loss": loss, **output.metrics})
        steps, seconds = clock.lap(done)  # after the line above, which waits for the device
        speed = steps * size / max(seconds, 1e-9)
        values["lr"], values["weight_decay"] = self.stepper.rates(progress)
        values |= {"images_seen": done * size, "seconds": clock.seconds, "images_per_second": speed}
        if output.projections is not None:
            seen = output.projections[0][:ROWS]
            values |= {"effective_rank": effective_rank(seen), "rank_limit": min(len(seen) - 1, seen.shape[1])}
        self.log.write("step", done, progress.epoch, **values)
        for name, message in self.watch.look({"step": done, **values}):
            self.log.warn(done, progress.epoch, name, message)
        epoch = f"epoch {progress.epoch + 1}/{math.ceil(self.config.epochs)}"
        self.log.describe(f"{epoch}, loss {values['loss']:.4f}, {speed:.3g} images/s")

    def _draws(self, done: int) -> bool:
        """Whether pictures are drawn after ``done`` steps: at the start, every few epochs and at the end."""
        if self.pictures is None:
            return False
        epoch, within = divmod(done, self.per_epoch)
        return done == self.total or (within == 0 and epoch % self.config.pictures_every == 0)

    def _draw(self, done: int) -> None:
        """Draw, and hand the pictures to the loggers. What cannot be drawn stops no training."""
        epoch = done / self.per_epoch
        self.log.say(f"epoch {epoch:g}: drawing pictures")
        try:
            with self._uncompiled():
                pictures = self.pictures.draw(done, epoch)
            self.log.show(done, pictures)
        except (UserError, OSError) as error:
            self.log.say(f"warning: the pictures of epoch {epoch:g} could not be drawn: {first_line(error)}")

    def _uncompiled(self) -> AbstractContextManager[None]:
        """For batches of other sizes, each of which would be compiled."""
        return torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()

    def _measure(self, done: int, knn: bool) -> bool:
        """Log the online k-NN and the diagnostics. True if the k-NN is better than ever before."""
        if self.monitor is None:
            return False
        better, epoch = False, done // self.per_epoch if self.per_epoch else 0
        with self._uncompiled():
            neighbours = self.monitor.knn() if knn else None
            diagnosed, matrix = self.monitor.diagnose()
        if neighbours is not None:
            top1 = neighbours["top1"]
            self.log.write("knn", done, epoch, **neighbours)
            self.log.say(f"epoch {epoch}: k-NN top-1 {top1:.1f}% on {neighbours['n']} held-out training images")
            better, self.best = top1 > self.best, max(top1, self.best)
        if diagnosed:
            self.log.write("diagnostics", done, epoch, **diagnosed)
        if matrix is not None and is_main():
            save_correlation(self.directory, epoch, matrix, diagnosed["on_diagonal"], diagnosed["off_diagonal"])
        return better

    def _not_finite(self, what: str, done: int) -> UserError:
        before = load_checkpoint(self.checkpoint)["step"]
        return UserError(
            f"{what} is not finite any more after step {done} (epoch {done // self.per_epoch}); {self.checkpoint} is from "
            f"before, after step {before}. Give another --out and a lower --lr, more --warmup_epochs, --clip_grad 1 or "
            "--precision fp32"
        )

    def _write_environment(self, resumed_after: int | None = None) -> None:
        if is_main():
            environment = describe_environment(self.stepper.device, self.config.precision)
            if self.config.extended_from:
                environment["extended_from_epochs"] = self.config.extended_from
            if self.config.method in METHODS.names():  # segmentation heads train here too, and are no method
                environment["method"] = facts_of(self.config.method)
            write_environment(self.directory, environment, resumed_after)


class _Clock:
    """Seconds of training, without the pauses."""

    def __init__(self, seconds: float, done: int):
        self.seconds = seconds
        self.go_on(done)

    def go_on(self, done: int) -> None:
        """Start after a pause, with ``done`` steps taken."""
        self._mark = time.perf_counter()
        self._lap = (done, self.seconds)

    def pause(self) -> None:
        """Count the time up to now."""
        now = time.perf_counter()
        self.seconds, self._mark = self.seconds + now - self._mark, now

    def lap(self, done: int) -> tuple[int, float]:
        """Steps and seconds since the last lap or pause."""
        self.pause()
        steps, seconds = done - self._lap[0], self.seconds - self._lap[1]
        self._lap = (done, self.seconds)
        return steps, seconds


def _means(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Means over processes. The processes exchange one message, and the device is read once."""
    device = values["loss"].device
    with torch.no_grad():
        tensors = [torch.as_tensor(value, dtype=torch.float32, device=device) for value in values.values()]
        return dict(zip(values, all_reduce_mean(torch.stack(tensors)).tolist(), strict=True))


def _energy_since(before: float | None, device: torch.device) -> float | None:
    """Kilowatt-hours of all processes' devices since each measured ``before``; None where one of them does not tell it."""
    after = energy_joules(device)
    joules = math.nan if before is None or after is None else after - before
    if is_distributed():
        joules = all_reduce_sum(torch.tensor(joules, dtype=torch.float32, device=device)).item()
    return joules / 3.6e6 if math.isfinite(joules) else None
