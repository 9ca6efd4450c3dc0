"""The rules of docs/design.md: imports go one way down, no files in circles, short files, few beside each other."""

import ast
import importlib.util
import re
import subprocess
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES, MOST_FILES = 400, 16

_spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
house = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(house)

FILES = house.modules()
IMPORTS = house.imports(FILES)
#: Every Python file of the repository, tests and benchmarks with them.
TRACKED = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    if (ROOT / name).is_file()
]


def upward(imports):
    """Imports from a room of one above it, as sentences."""
    return [
        f"{module} imports {target}, which lies above it"
        for module, targets in imports.items()
        for target in sorted(targets)
        if house.ROOMS.index(house.room_of(target)) < house.ROOMS.index(house.room_of(module))
    ]


def circle(imports):
    """The modules of a circle of imports, or None."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_imports_go_one_way_down():
    assert not upward(IMPORTS), "\n".join(upward(IMPORTS))


def test_no_files_import_each_other_in_a_circle():
    assert circle(IMPORTS) is None


def test_every_folder_is_a_room():
    """A new folder finds its place in the order before anything imports it."""
    folders = {file.parent.relative_to(ROOT).as_posix().replace("/", ".") for file in FILES.values()} - {"."}
    below = {folder for folder in folders if folder not in house.ROOMS}
    assert all(house.room_of(folder) != folder for folder in below)
    tops = {Path(name).parts[0] for name in map(str, (path.relative_to(ROOT) for path in TRACKED))}
    assert (
        tops - {room.partition(".")[0] for room in house.ROOMS}
        == {
            "run.py",
            "ssl_compare.py",
            "tests",
            "docs",
            "benchmarks",
        }
        & tops
    )


@pytest.mark.parametrize("rule", ["upward", "circle", "type-only", "inside a function"])
def test_the_rules_can_fail(rule, tmp_path):
    for folder in ("common", "training", "eval"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    code = {
        "upward": "from training import loop",
        "circle": "import common.other",
        "type-only": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from training.loop import x",
        "inside a function": "def f():\n    from training.loop import x",
    }[rule]
    (tmp_path / "common" / "files.py").write_text(code)
    (tmp_path / "common" / "other.py").write_text("from common import files")
    (tmp_path / "training" / "loop.py").write_text("x = 1")
    names = ("common", "training")
    files = {
        ".".join(file.relative_to(tmp_path).with_suffix("").parts).removesuffix(".__init__"): file
        for name in names
        for file in (tmp_path / name).rglob("*.py")
    }
    found = house.imports(files)
    assert bool(upward(found)) == (rule != "circle")
    assert (circle(found) is not None) == (rule == "circle")


def test_no_file_is_long():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in TRACKED}
    long = {path.relative_to(ROOT).as_posix(): lines for path, lines in lengths.items() if lines > MOST_LINES}
    assert not long


def test_few_files_lie_beside_each_other():
    beside = Counter(path.parent.relative_to(ROOT).as_posix() for path in TRACKED if path.name != "__init__.py")
    assert not {folder: count for folder, count in beside.items() if count > MOST_FILES}


def test_each_folder_says_what_is_in_it():
    silent = [module for module, file in FILES.items() if file.name == "__init__.py" and not _docstring(file)]
    assert not silent


def _docstring(file):
    return ast.get_docstring(parsed(file))


@cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def test_the_picture_of_the_house_is_todays():
    assert house.PICTURE.read_text(encoding="utf-8") == house.draw(), "run: python docs/house.py"


@pytest.mark.parametrize("page", ["docs/design.md", "CONTRIBUTING.md", "README.md"])
def test_files_that_the_pages_name_exist(page):
    named = re.findall(r"`((?:\w+/)+(?:\w+\.(?:py|md|svg))?)`", (ROOT / page).read_text(encoding="utf-8"))
    in_runs = {"checkpoints/", "results/", "predictions/", "features/", "figures/"}
    rooms = ("", *(f"{room}/" for room in ("data", "eval", "backbones", "reports", "training", "common")))
    missing = [name for name in named if not any((ROOT / room / name).exists() for room in rooms)]
    assert named and not [name for name in missing if name not in in_runs and "NAME" not in name]


def cuts(tree):
    """Parts of messages that show the first few of a list, or of a text's letters, without a word of it."""
    for call in ast.walk(tree):
        function = call.func if isinstance(call, ast.Call) else None
        name = getattr(function, "attr", getattr(function, "id", ""))
        if not name.endswith(("Error", "Outcomes", "WrongData", "DamagedImage", "Problem", "warn", "note")):
            continue
        for text in (node for word in call.args for node in ast.walk(word) if isinstance(node, ast.JoinedStr)):
            for part, after in pairwise([*map(ast.unparse, text.values), ""]):
                if re.search(r"\[\d*:\d+\]", part) and not re.match(r"(f?')?(…|\{more\})", after):
                    yield part


def test_messages_say_what_they_leave_out():
    """``first_names`` and ``short`` of common.names do."""
    assert list(cuts(ast.parse("raise UserError(f'{spec}: no images: {names[:3]}, see there')")))
    assert not list(cuts(ast.parse("warn(f'left out: {names[:5]}{more}'); UserError(f'another digest ({sha[:8]}…)')")))
    found = {module: lines for module, file in FILES.items() if (lines := list(cuts(parsed(file))))}
    assert not found


def test_every_line_is_printed_where_names_are_made_harmless():
    """``common.progress`` prints, with ``say``, ``note`` and ``Console``; run.py prints its errors through ``printable``."""
    for module, file in FILES.items():
        if module in ("common.progress", "run"):
            continue
        for node in ast.walk(parsed(file)):
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not called, f"{file}, line {node.lineno}: print; call common.progress.say"
            assert not (isinstance(node, ast.ImportFrom) and node.module == "rich.console"), (
                f"{file}: import common.progress.Console"
            )
