"""``run.py`` typed to a Python that lacks packages."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from common import environment
from common.environment import OF_REPORTS, PACKAGES
from run import COMMANDS

ROOT = Path(__file__).resolve().parent.parent.parent
#: Every command, with and without options, and the default one.
LINES = [[command, *words] for command in COMMANDS for words in ([], ["--help"], ["--plugin", "none.py"])]
LINES += [["--method", "dino"], ["--method", "dino", "--help"]]
#: For each pair of a package, or none, and a command line on standard input: prints the words that another Python is to continue
#: with in a Python that lacks that package, or the command's module where this one continues; and which packages are imported then.
TRIAL = """
import json, os, pathlib, sys, types
import common.environment as environment
import run

class Stop(BaseException):
    pass

def stop(*what):
    raise Stop(what)

environment.VENV = pathlib.Path(sys.argv[1])
(environment.VENV / "ready").touch()
is_installed = environment._is_installed
os.execv = stop
run.importlib = types.SimpleNamespace(import_module=stop)
became = []
for lacking, line in json.load(sys.stdin):
    environment._is_installed = lambda name: name != lacking and is_installed(name)
    try:
        run.main(line)
    except Stop as stopped:
        *_, last = stopped.args[0]
        became.append([last if isinstance(last, str) else last[2:], sorted({*environment.PACKAGES} & {*sys.modules})])
print(json.dumps(became))
"""


def becomes_of(cases, folder, *flags):
    words = [sys.executable, *flags, "-c", TRIAL, str(folder)]
    done = subprocess.run(words, input=json.dumps(cases), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_packages_every_command_continues_in_the_environment(tmp_path):
    assert becomes_of([[None, line] for line in LINES], tmp_path, "-S") == [[line, []] for line in LINES]


def test_without_one_of_the_packages_a_command_that_needs_it_continues_in_the_environment(tmp_path):
    cases = [[package, [command]] for command in COMMANDS for package in (None, *PACKAGES)]
    for (package, line), (became, imported) in zip(cases, becomes_of(cases, tmp_path), strict=True):
        needed = OF_REPORTS if line == ["report"] else PACKAGES
        assert became == (line if package in needed else f"commands.{line[0]}"), f"{line} without {package}"
        assert set(imported) <= {"rich"}  # which shows that a command is being loaded, once all packages are there


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


def test_help_and_wrong_commands_need_no_environment(checkout):
    shown, wrong = run(checkout, "--help"), run(checkout, "evalute", "--help")
    assert (shown.returncode, shown.stderr) == (0, "") and "\n  evaluate " in shown.stdout
    assert wrong.returncode == 2 and "did you mean evaluate?" in wrong.stderr and wrong.stderr.count("\n") == 1
    assert not (checkout / ".venv").exists()


def test_an_environment_that_cannot_be_made_is_one_sentence(checkout):
    (checkout / "broken").touch()
    done = run(checkout, "--method", "dino")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ") and "make setup" in done.stderr.splitlines()[-1]


def test_messages_of_missing_packages_fit_this_python(tmp_path, monkeypatch):
    """The command is for ``.venv`` or for the Python that runs, and nobody writes another one."""
    error = ModuleNotFoundError("No module named 'onnxscript.passes'", name="onnxscript.passes")
    monkeypatch.setattr(environment, "VENV", Path(sys.prefix))
    in_venv = str(environment.missing_package("--format onnx", error, "export"))
    assert in_venv.startswith("--format onnx needs the package onnxscript, which is not installed; in ")
    assert in_venv.endswith("run: .venv/bin/uv pip install --python .venv/bin/python -r pyproject.toml --extra export")
    monkeypatch.setattr(environment, "VENV", tmp_path)
    assert str(environment.missing_package("x", error, "export")).endswith(
        f"run: {sys.executable} -m pip install '.[export]'"
    )
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = {
        path: path.read_text()
        for path in ROOT.glob("*/**/*.py")
        if path.parts[len(ROOT.parts)] not in ("tests", ".venv")
    }
    named = [name for text in sources.values() for name in re.findall(r'missing_package\(.*"(\w+)"\)', text)]
    assert len(named) >= 6 and set(named) <= extras.keys()
    assert [path.name for path, text in sources.items() if "pip install" in text] == ["environment.py"]
