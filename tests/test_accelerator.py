"""``tests/accelerator/checks.py`` in a process of its own: torch counts its devices when it first computes a gradient, so that none
can be added to a process that other tests have run in. (A part: ``pytest tests/accelerator/checks.py -k NAME``.)"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("part", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_accelerator(part):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", part, "tests/accelerator/checks.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
