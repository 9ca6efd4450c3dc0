"""Configurations, grids and command lines: whatever they say, a plan or one sentence comes out, and nothing of them is run."""

import dataclasses
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import commands.train
import run as command_line
from common.cli import read_config, words_of
from common.errors import UsageError, UserError
from common.files import parse_yaml
from methods.core.base import METHODS
from training.config import TrainConfig
from training.grids.grid import cells_of, grid_of, options_of_methods, read_grid
from training.grids.options import CompareCommand
from training.resolve import resolve

quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
#: Texts that stand for far more than they hold, or for programs.
NINES = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"] + [
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 14)
]
MERGES = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 14)]
HOSTILE = {
    "aliases": "\n".join(NINES),
    "merges": "\n".join(MERGES),
    "itself": "a: &a [*a]",
    "deep": "[" * 200_000,
    "deep block": "- " * 100_000,
    "deep mapping": "{a: " * 100_000,
    "apply": "lr: !!python/object/apply:os.system ['touch CREATED']",
    "name": "lr: !!python/name:os.system",
    "module": "lr: !!python/module:this",
    "new": "lr: !!python/object/new:subprocess.Popen [['touch', 'CREATED']]",
    "tuple": "lr: !!python/tuple [1]",
    "date": "seed: 2024-13-45",
    "long number": "seed: " + "9" * 5000,
    "bytes": "lr: !!binary AAAA",
    "control": "lr: \x00",
    "tab": "a:\n\t- b",
    "list": "[1, 2]",
    "scalar": "dino",
    "empty": "",
    "numbers": "1: 2",
    "nested": "lrs: [[1, 2], [3]]",
    "mapping": "lr: {a: 1}",
    "unhashable": "? [a]\n: 1",
    "plugin": "plugin: evil.py",
    "endless": "lr: 1 #" + " " * 2**24,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_configurations_are_refused_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(HOSTILE[name])
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('CREATED').touch()\n")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"config\.yaml|--lr") as raised:
        commands.train.main(["--config", str(path), "--dry_run"])
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000
    assert time.monotonic() - began < 30  # not: for as long as there is memory
    assert not (tmp_path / "CREATED").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grids_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "grid.yaml"
    for text in (
        HOSTILE[name],
        "methods: [random]\nbackbones: [vit_nano]\nbase:\n  " + HOSTILE[name].replace("\n", "\n  "),
    ):
        path.write_text(text)
        if name == "empty" and text:
            continue  # a grid without common options
        with pytest.raises(UserError) as raised:
            grid = grid_of(CompareCommand(grid=str(path)), {})
            cells_of(grid, options_of_methods([*grid.methods]))
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 5000
    assert not (tmp_path / "CREATED").exists()


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
    max_leaves=8,
)


@quick
@given(st.text(max_size=60) | yaml_values.map(lambda value: yaml.safe_dump(value)))
def test_any_text_is_options_or_a_sentence(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    for read in (read_config, read_grid):
        try:
            read(path)
        except UsageError as error:
            assert str(path) in str(error)


@quick
@given(yaml_values)
def test_plain_values_are_read_as_written(value):
    text = yaml.safe_dump(value)
    try:
        assert repr(parse_yaml(text)) == repr(yaml.safe_load(text))
    except ValueError:
        with pytest.raises(Exception):  # noqa: B017 (whatever it is, it is not readable)
            yaml.safe_load(text)


grid_keys = st.sampled_from(
    ["methods", "backbones", "seeds", "evals", "base", "variants", "vary", "vary_mode", "title", "visualize"]
)


@quick
@given(st.dictionaries(grid_keys, yaml_values | st.just(["random"]) | st.just({"random": {}}), max_size=5))
def test_any_mapping_is_a_grid_or_a_sentence(tmp_path, content):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(content))
    try:
        grid = grid_of(CompareCommand(grid=str(path)), {})
        for cell in cells_of(grid, options_of_methods([*grid.methods])):
            words_of(cell.options)
            assert Path(cell.name).name == cell.name
    except UserError as error:
        assert str(error)


NUMBERS = st.integers(-3, 40) | st.sampled_from([2**31, 2**63, 2**70, -(2**63)])
REALS = st.floats() | st.integers(-2, 40).map(float)


def numeric_options(config: type) -> dict[str, type]:
    """Options that are numbers, or numbers or None, and which kind of numbers."""
    hints = typing.get_type_hints(config)
    return {name: kind for name, hint in hints.items() for kind in (int, float) if hint in (kind, kind | None)}


@quick
@given(st.data())
def test_any_numbers_are_options_or_a_sentence(data):
    """Of training, one or two of them at a time."""
    known = numeric_options(TrainConfig)
    names = data.draw(st.lists(st.sampled_from(sorted(known)), min_size=1, max_size=2, unique=True))
    given = {name: data.draw(NUMBERS if known[name] is int else REALS, name) for name in names}
    try:
        resolved = resolve(TrainConfig(**{"device": "cpu", "precision": "fp32", **given}))
    except UsageError as error:
        assert "--" in str(error)
    else:
        values = dataclasses.asdict(resolved).values()
        assert all(value == value and abs(value) != float("inf") for value in values if isinstance(value, float))


@pytest.mark.parametrize("method", sorted(METHODS.names()))
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_option_of_a_method_is_a_plan_or_a_sentence(method, data):
    """Its configuration is made, and its views are asked for."""
    kind = METHODS.get(method)
    known = numeric_options(kind.Config)
    if not known:
        return  # untrained weights have none
    name = data.draw(st.sampled_from(sorted(known)))
    value = data.draw(NUMBERS if known[name] is int else REALS, name)
    try:
        views = kind.views(kind.Config(**{name: value}), 32)
        assert all(view.size > 0 for view in views)
    except UserError as error:
        assert str(error)


WORDS = st.sampled_from(
    ["train", "evaluate", "segment", "compare", "report", "data", "visualize", "attention", "--evals", "--method", "--out",
     "--config", "--plugin", "--grid", "--weights", "--vary", "--seeds", "--data", "--data_root", "--backbone", "--resume",
     "--epochs", "dino", "random", "vit_nano", "demo", "never", "=", "--", "-", "", "--=", "nan", "0", "-1", "1e999", "/dev/null",
     "/nowhere/x", "\x00", "\udcff", "x" * 5000, "lr=1,2", "imagefolder", ".", "--dry_run", "--help"]
)  # fmt: skip


@settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(WORDS, max_size=6))
def test_any_words_end_with_a_status(tmp_path_factory, words):
    """No traceback and nothing trained: ``--out`` lies where nothing can be written."""
    if words and words[0] in ("data", "visualize"):
        words = [*words, "--no_such_option"]  # what they do takes long
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.getbasetemp())
            patch.setattr("commands.train.train", lambda *a, **k: None)
            patch.setattr("training.plan.make_plan", lambda *a, **k: None)
            patch.setattr("commands.train.print_plan", lambda plan: None)
            patch.setattr("commands.evaluate.evaluate_weights", lambda *a, **k: None)
            patch.setattr("commands.compare.run_cells", lambda *a, **k: [])
            patch.setattr("commands.compare.print_plan", lambda *a, **k: None)
            status = command_line.main(words)
    except SystemExit as exit:  # --help
        status = exit.code
    assert status in (0, 1, 2)


def test_an_unexpected_error_ends_with_a_sentence(tmp_path):
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from methods.barlow_twins import BarlowTwins\n"
        "from methods.core.base import METHODS\n"
        "@METHODS.register('broken')\n"
        "class Broken(BarlowTwins):\n"
        "    @classmethod\n"
        "    def views(cls, config, image_size):\n"
        "        raise RuntimeError('this plug-in is broken')\n"
    )
    done = subprocess.run(
        [sys.executable, str(Path(command_line.__file__)), "--plugin", str(plugin), "--method", "broken", "--dry_run"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1].startswith("error: ") and "this plug-in is broken" in done.stderr.splitlines()[-1]
    )
