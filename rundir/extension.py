"""What becomes of a run's measurements when its training goes on (``--extend``): they are of weights that it leaves behind."""

from __future__ import annotations

from pathlib import Path

from rundir.log import has_log, read_log, replace_log
from rundir.paths import FIGURES, PREDICTIONS, RESULTS, after_epochs, correlation_file, training_picture


def set_aside(run: Path, epochs: float) -> Path | None:
    """Move results, predictions and figures of the weights after ``epochs`` into a folder of the run, so that no report takes them
    for the extended training's, and drop the log's last record. Returns the folder; None if the run has none of these. What an
    interruption left is done when it is called again."""
    folder = after_epochs(run, epochs)
    moving = [
        path for name in (RESULTS, PREDICTIONS, FIGURES) if (run / name).is_dir() for path in (run / name).iterdir()
    ]
    goes_on = (correlation_file(run), training_picture(run, "", 0).parent)  # what shows the training itself
    moving = [path for path in moving if path not in goes_on]
    for path in moving:
        target = folder / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    if has_log(run):
        records = read_log(run)
        kept = [record for record in records if record.get("kind") != "end"]
        if len(kept) < len(records):
            replace_log(run, kept)
    return folder if moving else None
