"""``run.py`` typed to a Python that lacks the packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def checkout(tmp_path):
    """The code, and a ``make`` that makes a ``.venv`` whose Python says what it is given."""
    for part in (path.parent.name for path in ROOT.glob("*/__init__.py")):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nshift\necho "in .venv: $@"\nexit 7\n')
    python.chmod(0o755)
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin" / "make"
    make.write_text(
        f'#!/bin/sh\n[ -e "{tmp_path}/broken" ] && exit 2\necho "make $3"\nmkdir -p "{tmp_path}/.venv/bin"\n'
        f'cp "{python}" "{tmp_path}/.venv/bin/python"\ntouch "{tmp_path}/.venv/ready"\n'
    )
    make.chmod(0o755)
    return tmp_path


def run(checkout, *words):
    """By a Python without any package."""
    environment = {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"}
    return subprocess.run(
        [sys.executable, "-S", str(checkout / "run.py"), *words], capture_output=True, text=True, env=environment
    )


def test_the_first_command_makes_the_environment_and_the_next_finds_it(checkout):
    words = ["--method", "dino", "--backbone", "vit_s8"]
    first = run(checkout, *words)
    assert (first.stdout, first.returncode) == (f"in .venv: {' '.join(words)}\n", 7), first.stderr
    assert "make setup" in first.stderr
    second = run(checkout, "evaluate", "--weights", "with space.pt")
    assert (second.stdout, second.returncode) == ("in .venv: evaluate --weights with space.pt\n", 7)
    assert "make" not in second.stderr


def test_an_environment_that_cannot_be_made_is_one_sentence(checkout):
    (checkout / "broken").touch()
    done = run(checkout, "--method", "dino")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "make setup" in done.stderr.splitlines()[-1]
