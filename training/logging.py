"""Reporting while a run trains: its log and its progress always, TensorBoard and Weights & Biases by option."""

from __future__ import annotations

import importlib.util
import math
import netrc
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from common.distributed import is_main
from common.environment import missing_package
from common.errors import UserError, first_line
from common.files import write_text
from common.progress import Console, Work, note, working
from rundir.log import append_record, has_log, read_log, replace_log
from rundir.paths import TENSORBOARD, WANDB_ID
from training.config import TrainConfig

#: The way to use Weights & Biases without a login.
OFFLINE = "WANDB_MODE=offline keeps the run on this disk, for wandb sync later"


class RunLog:
    """Writes a run's log, also to TensorBoard and Weights & Biases (with all ``options``) on request, and shows how far its
    ``total_steps`` are. Only the first process writes and shows."""

    def __init__(self, run: Path, options: Mapping[str, Any], total_steps: int, tensorboard: bool, wandb: bool):
        self.run = run
        self.console = Console(stderr=True, quiet=not is_main(), highlight=False, soft_wrap=True)
        self._total = total_steps
        self._work = Work("step", total_steps)
        self._tensorboard = _tensorboard(run) if tensorboard and is_main() else None
        self._wandb = _wandb(run, options) if wandb and is_main() else None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop the records after ``step`` (steps taken), since a resumed run repeats them, and return the others."""
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

    @contextmanager
    def steps_from(self, first: int) -> Iterator[None]:
        """Show the progress of the steps after the first ``first`` within the block."""
        with working("step", self._total, first, show=is_main()) as self._work:
            yield

    def advance(self, step: int) -> None:
        """Show that ``step`` steps are taken."""
        self._work.advance(step)

    def describe(self, state: str) -> None:
        """Show a few words on the newest step (loss, images/s) beside the progress; a log file gets a line after the first one."""
        first, self._work.state = not self._work.state, state
        if first:
            self._work.speak()

    def say(self, message: str) -> None:
        """Print a line, above the progress."""
        if is_main():
            note(message, style="none")

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
    try:
        return wandb.init(
            project="ssl-compare",
            name=run.name,
            id=identity.read_text().strip(),
            resume="allow",
            dir=run,
            config=dict(options),
        )
    except Exception as error:  # no network, a key that is not valid any more
        raise UserError(f"--wandb: Weights & Biases cannot begin ({first_line(error)}); {OFFLINE}") from error


def require_loggers(configs: Iterable[TrainConfig]) -> None:
    """Raise UserError if trainings want TensorBoard or Weights & Biases, and that is not installed, or has no login and is not
    offline."""
    configs = list(configs)
    for name in ("tensorboard", "wandb"):
        if any(getattr(config, name) for config in configs) and importlib.util.find_spec(name) is None:
            raise missing_package(f"--{name}", ModuleNotFoundError(name=name), "loggers")
    if any(config.wandb for config in configs):
        _require_login()


def _require_login() -> None:
    """Raise UserError unless Weights & Biases is offline, or finds a key in its settings, the environment or a netrc file."""
    import wandb

    try:
        settings = wandb.setup().settings
    except Exception as error:  # its settings, or the environment's, are wrong
        raise UserError(f"--wandb: Weights & Biases refuses its settings ({first_line(error)})") from error
    if settings.mode in ("offline", "dryrun", "disabled") or settings.api_key or settings.identity_token_file:
        return
    host = urlsplit(settings.base_url).netloc or settings.base_url
    hosts = (host, "api.wandb.ai")  # newer versions have another address, and take the old one's key
    if not any(_has_password(file, name) for file in _netrc_files() for name in hosts):
        raise UserError(
            f"--wandb: no login for {host}; run wandb login or set WANDB_API_KEY, leave --wandb out; {OFFLINE}"
        )


def _netrc_files() -> list[Path]:
    given = os.environ.get("NETRC")
    return [Path(given).expanduser()] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]


def _has_password(file: Path, host: str) -> bool:
    try:
        login = netrc.netrc(file).authenticators(host)
        return bool(login and login[2])
    except (OSError, netrc.NetrcParseError):
        return False
