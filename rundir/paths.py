"""Names of the files in a run directory, and in a folder that holds a grid of runs. No other module spells them."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError

# In a run directory.
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
REPRODUCES = "reproduces.json"
LOG = "log.jsonl"
LOCK = "lock"
FAILURE = "failure.json"
CHECKPOINTS = "checkpoints"
RESULTS = "results"
PREDICTIONS = "predictions"
FEATURES = "features"
FIGURES = "figures"
TENSORBOARD = "tensorboard"
WANDB_ID = "wandb-id.txt"

# In a folder of runs, as compare and reproduce make it.
CELLS = "cells.json"
REPORT = "report"
#: SLURM's files, the numbers of its jobs, and what is being submitted.
JOBS, JOB_NUMBERS, SUBMITTING = "jobs", "jobs.json", "submitting.json"


def last_checkpoint(run: Path) -> Path:
    return run / CHECKPOINTS / "last.pt"


def best_checkpoint(run: Path) -> Path:
    """The checkpoint with the best online k-NN; absent if the run measures none."""
    return run / CHECKPOINTS / "best.pt"


def step_checkpoint(run: Path, step: int) -> Path:
    """An earlier checkpoint, by its step."""
    return run / CHECKPOINTS / f"step-{step}.pt"


def damaged_checkpoint(run: Path) -> Path:
    """Where a damaged checkpoint is set aside."""
    return run / CHECKPOINTS / "damaged.pt"


def earlier_checkpoints(run: Path) -> list[Path]:
    """The step checkpoints, the newest first."""
    files = (run / CHECKPOINTS).glob("step-*.pt")
    numbered = [(int(file.stem[5:]), file) for file in files if file.stem[5:].isdecimal()]
    return [file for _, file in sorted(numbered, reverse=True)]


def after_epochs(run: Path, epochs: float) -> Path:
    """Where the results of an extended run's earlier weights are kept."""
    return run / f"after-{epochs:g}-epochs"


def has_checkpoint(run: Path) -> bool:
    """True if the run has any checkpoint, whole or damaged."""
    return any(file.exists() for file in (last_checkpoint(run), best_checkpoint(run), *earlier_checkpoints(run)))


def remove_start(run: Path) -> None:
    """Delete what a training has left that took no step: its untrained network, and what was measured and drawn of that."""
    pictures = training_pictures(run, 0)
    for file in (
        last_checkpoint(run),
        best_checkpoint(run),
        *earlier_checkpoints(run),
        correlation_file(run),
        *pictures,
    ):
        file.unlink(missing_ok=True)


def require_checkpoint(run: Path, otherwise: str = "give a run directory or a weights file") -> Path:
    """The last checkpoint. Raises UserError, which ends with ``otherwise``, if it does not exist."""
    file = last_checkpoint(run)
    if not file.is_file():
        raise UserError(f"{run}: a folder without {CHECKPOINTS}/{file.name}; {otherwise}")
    return file


def results_file(run: Path, evaluation: str) -> Path:
    return run / RESULTS / f"{evaluation}.json"


def predictions_file(run: Path, name: str) -> Path:
    return run / PREDICTIONS / f"{name}.npz"


def correlation_file(run: Path) -> Path:
    return run / FIGURES / "cross_correlation.npz"


def examples_file(run: Path, data: str, kind: str = "") -> Path:
    """Test images with their predicted classes (``eval.dense.examples``). ``kind``: "finetuned", or "" for a frozen backbone."""
    return run / FIGURES / f"{'-'.join(filter(None, ('segmentation', data, kind)))}.npz"


def masks_folder(run: Path, data: str, head: str, kind: str = "") -> Path:
    """Predicted masks (``eval.dense.masks``) of a segmentation head; ``kind`` as for ``examples_file``."""
    return run / "masks" / data / "-".join(filter(None, (head, kind)))


def pictures_of(run: Path, kind: str) -> list[Path]:
    """The files that ``run.py visualize KIND`` has drawn of a run."""
    return sorted((run / FIGURES).glob(f"{kind}-*.png"))


def training_picture(run: Path, what: str, step: int) -> Path:
    """A picture of the network after ``step`` steps of its training (``reports.over_training``)."""
    return run / FIGURES / "training" / f"{what}-step-{step:07}.png"


def training_pictures(run: Path, step: int) -> list[Path]:
    """All pictures of one step."""
    return sorted(training_picture(run, "x", step).parent.glob(f"*-step-{step:07}.png"))


def run_of(folder: Path, name: str) -> Path:
    return folder / "runs" / name


def runs_with_results(folder: Path) -> list[Path]:
    return sorted(results.parent for results in folder.glob(f"runs/*/{RESULTS}") if any(results.glob("*.json")))


def output_of(folder: Path, name: str) -> Path:
    """The file that takes the output of one run of a grid."""
    return folder / "logs" / f"{name}.log"


def stop_file(output: Path) -> Path:
    """The file beside ``output_of`` that asks the runs' processes to stop."""
    return output.with_name("stop")
