"""Reporting while a run trains: its log always, a progress bar on a terminal, TensorBoard and Weights & Biases by option."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common.distributed import is_main
from common.environment import missing_package
from common.errors import UserError
from common.files import write_text
from rundir.log import append_record, has_log, read_log, replace_log
from rundir.paths import TENSORBOARD, WANDB_ID

#: Seconds between the lines that replace the progress bar where the output is no terminal.
LINE_SECONDS = 15.0


class RunLog:
    """Writes a run's log, also to TensorBoard and Weights & Biases (with all ``options``) on request, and shows progress. Only the
    first process writes and shows."""

    def __init__(self, run: Path, options: Mapping[str, Any], total_steps: int, tensorboard: bool, wandb: bool):
        self.run = run
        self.console = Console(stderr=True, quiet=not is_main(), highlight=False, soft_wrap=True)
        self._total = total_steps
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (is_main() and self.console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total_steps, state="")
        self._began, self._first, self._line_at = time.monotonic(), 0, 0.0
        self._tensorboard = _tensorboard(run) if tensorboard and is_main() else None
        self._wandb = _wandb(run, options) if wandb and is_main() else None

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop the records after ``step`` (steps taken), since a resumed run repeats them, and return the others."""
        self._first = step
        if not has_log(self.run):
            return []
        try:
            records = [r for r in read_log(self.run) if r.get("step", 0) <= step and r.get("kind") != "end"]
        except ValueError as error:
            raise UserError(f"{error}; repair that line, or give another --out") from error
        if is_main():
            replace_log(self.run, records)
        return records

    def write(self, kind: str, step: int, epoch: int, **values: Any) -> None:
        """Add a record. NaN and infinity become None, since JSON has neither."""
        if not is_main():
            return
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        append_record(self.run, {"kind": kind, "step": step, "epoch": epoch, **values})
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        scalars = {f"{kind}/{name}": value for name, value in numbers.items() if not isinstance(value, bool)}
        if self._tensorboard is not None:
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None and scalars:
            self._wandb.log({**scalars, "epoch": epoch}, step=step)

    def show(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Hand image files, by what they show, to TensorBoard and Weights & Biases."""
        if self._tensorboard is not None:
            for name, path in pictures.items():
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
                self._tensorboard.add_image(f"pictures/{name}", pixels, step, dataformats="HWC")
        if self._wandb is not None and pictures:
            import wandb

            images = {f"pictures/{name}": wandb.Image(str(path)) for name, path in pictures.items()}
            self._wandb.log(images, step=step)

    def advance(self, step: int, state: str | None = None) -> None:
        """Show that ``step`` steps are taken; ``state``: a few words (loss, images/s)."""
        self._bar.update(self._task, completed=step, **({} if state is None else {"state": state}))
        now = time.monotonic()
        if state and not self.console.is_terminal and (now - self._line_at >= LINE_SECONDS or step == self._total):
            self._line_at = now
            left = (now - self._began) / max(step - self._first, 1) * (self._total - step)
            minutes, seconds = divmod(round(left), 60)
            left_words = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
            self.say(f"step {step}/{self._total}, {state}, {left_words} left")

    def say(self, message: str) -> None:
        """Print a line, above the progress bar."""
        self._bar.console.print(message, markup=False)

    def warn(self, step: int, epoch: int, name: str, message: str) -> None:
        """Log and print a warning, with a ``name`` that programs can look for."""
        self.write("warning", step, epoch, name=name, message=message)
        self.say(f"warning: {message}")


def _tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing_package("--tensorboard", error, "loggers") from error
    return SummaryWriter(run / TENSORBOARD)


def _wandb(run: Path, options: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise missing_package("--wandb", error, "loggers") from error
    identity = run / WANDB_ID
    if not identity.exists():
        write_text(identity, secrets.token_hex(6))
    return wandb.init(
        project="ssl-compare",
        name=run.name,
        id=identity.read_text().strip(),
        resume="allow",
        dir=run,
        config=dict(options),
    )
