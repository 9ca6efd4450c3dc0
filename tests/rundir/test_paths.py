"""The names of a run's files."""

import ast
import re
from pathlib import Path

from common.environment import ROOT

FILES = ("config.yaml", "log.jsonl", "environment.json", "reproduces.json", "wandb-id.txt", "cells.json", "jobs.json")
FILES += ("last.pt", "best.pt", "damaged.pt", "cross_correlation.npz")
#: What lies in a run directory, and in a folder of runs.
IN_RUN = ("checkpoints", "results", "predictions", "features", "figures", "tensorboard", "lock")
IN_GRID = ("runs", "logs", "jobs", "report", "lock", "stop")


def is_path(text: str) -> bool:
    """Whether a string names a file of a run, alone or at the end of a path."""
    return bool(
        re.fullmatch(r"(\S*/)?(step-\S*\.pt|segmentation-\S*\.npz|" + "|".join(map(re.escape, FILES)) + ")", text)
    )


def names_in(file: Path) -> list[str]:
    """Where a file's code names a file or folder of a run: as a string, or as what is joined onto a run's path."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        text = None
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_path(node.value):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            joined = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            text = joined if is_path(joined) else None
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            onto, name = ast.unparse(node.left), node.right.value
            in_run = re.search(r"(run|run\.path|run_dir|directory)\)?$", onto) and name in IN_RUN
            text = name if in_run or (onto.endswith("out") and name in IN_GRID) else None
        if text is not None:
            found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {text}")
    return found


def test_the_names_of_a_runs_files_stand_in_one_place():
    rooms = ("commands", "reports", "eval", "training", "methods", "backbones", "data", "rundir", "common")
    files = [ROOT / "run.py", *(file for room in rooms for file in (ROOT / room).rglob("*.py"))]
    assert len(files) > 100
    assert [name for file in files if file != ROOT / "rundir/paths.py" for name in names_in(file)] == []
    assert len(names_in(ROOT / "rundir" / "paths.py")) > len(FILES)
