"""How far a run of a grid is, from the files in its directory alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.progress import TOO_EARLY, duration
from common.schedules import steps_of
from rundir.log import newest_record, start_of
from rundir.options import as_number, written_options
from rundir.paths import LOG, results_file

#: Steps before the time left is told: the first ones take longer than the others.
STEPS = 5


@dataclass(frozen=True)
class RunProgress:
    """``minutes`` of training so far, with the time since the newest record if the run goes on; None: nothing is recorded.
    ``words``: step, share, loss and time left; "" before the log begins."""

    minutes: float | None
    words: str


def progress_in(directory: Path, evaluations: Sequence[str], goes_on: bool) -> RunProgress:
    """Read how far a run is. ``goes_on``: a process works on it now."""
    record, start = newest_record(directory, ("end", "step")), start_of(directory)
    since = _since_record(directory) if goes_on and (record or start) else 0.0
    labels = "no labels" if start.get("labelled") == 0 else ""
    if not record:
        minutes = since / 60 if since else None
        total = _total_steps(written_options(directory), start)
        return RunProgress(minutes, ", ".join(filter(None, (f"step 0/{total:,}" if total else "", labels))))
    if record["kind"] == "end":
        measured = sum(results_file(directory, name).is_file() for name in evaluations)
        count = f" ({measured}/{len(evaluations)} measured)" if evaluations else ""
        minutes = as_number(record.get("minutes"))
        words = f"trained; {'evaluating' if goes_on or not evaluations else 'evaluations are left'}{count}"
        return RunProgress(minutes if minutes is None or not goes_on else minutes + since / 60, words)
    seconds = as_number(record.get("seconds"))
    options = written_options(directory)
    logged = as_number(options.get("log_every")) or 0
    words = _words_of_step(record, _total_steps(options, start), seconds, since, goes_on, logged)
    minutes = None if seconds is None else (seconds + since) / 60
    return RunProgress(minutes, ", ".join(filter(None, (words, labels))))


def _words_of_step(
    record: Mapping[str, Any], total: int | None, seconds: float | None, since: float, goes_on: bool, logged: float
) -> str:
    """``step 20/400 (5%), epoch 1, loss 5.100, 0:12:30 left``; without what the record or the run does not tell."""
    step, epoch = (int(as_number(record.get(name)) or 0) for name in ("step", "epoch"))
    loss = as_number(record.get("loss"))
    of_all = f"/{total:,} ({step / total:.0%})" if total else ""
    left = ""
    if goes_on and total and seconds is not None:
        a_step = seconds / step if step else 0.0
        # A machine that slept, or a step that hangs, has brought nothing nearer: no more than the steps to the next record.
        rest = max(0.0, (total - step) * a_step - min(since, logged * a_step))
        left = f"{duration(rest)} left" if step >= STEPS else TOO_EARLY
    parts = (
        f"step {step:,}{of_all}",
        f"epoch {epoch + 1}",
        f"loss {float('nan') if loss is None else loss:.3f}",
    )
    return ", ".join(filter(None, (*parts, left)))


def _total_steps(options: Mapping[str, Any], start: Mapping[str, Any]) -> int | None:
    """The steps of the whole training; None for a run that does not tell, or trains nothing."""
    per_epoch = as_number(start.get("steps_per_epoch"))
    epochs = as_number(options.get("epochs")) if per_epoch else None
    return steps_of(epochs, int(per_epoch)) if epochs and per_epoch else None


def _since_record(directory: Path) -> float:
    """Seconds since the log was last written."""
    try:
        return max(0.0, time.time() - (directory / LOG).stat().st_mtime)
    except OSError:
        return 0.0
