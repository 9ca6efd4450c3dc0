"""Plug-ins from files: each is loaded once, and one that fails leaves nothing."""

import sys
from pathlib import Path

import pytest

from common.errors import UsageError
from common.registry import Registry, load_plugin


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that plug-ins of these tests reach by ``from plugin_registry import THINGS``."""
    things = Registry("thing")
    monkeypatch.setitem(sys.modules, "plugin_registry", type("Module", (), {"THINGS": things}))
    yield things
    for name in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[name]


def plugin(path: Path, name: str, then: str = "") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"from plugin_registry import THINGS\n@THINGS.register({name!r})\nclass Thing: pass\n{then}\n")
    return str(path)


def test_files_of_the_same_stem_are_all_loaded_and_each_once(registry, tmp_path, monkeypatch):
    files = [plugin(tmp_path / folder / "mine.py", folder) for folder in ("a", "b", "c")]
    for file in files:
        load_plugin(file)
    assert registry.names() == ["a", "b", "c"]
    first = registry.get("a")
    (tmp_path / "link.py").symlink_to(files[0])
    monkeypatch.chdir(tmp_path / "a")
    for file in [*files, "mine.py", "../a/mine.py", str(tmp_path / "link.py")]:
        load_plugin(file)
    assert registry.names() == ["a", "b", "c"] and registry.get("a") is first


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ("1 / 0", r"line 4: ZeroDivisionError: division by zero"),
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
        ("def f(:", "SyntaxError"),
        ("open('there is no such file')", "line 4: FileNotFoundError"),
    ],
)
def test_a_plugin_that_raises_does_so_each_time_and_leaves_no_name(registry, tmp_path, then, says):
    file = plugin(tmp_path / "mine.py", "a", then)
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"--plugin .*mine\.py.*{says}"):
            load_plugin(file)
        assert registry.names() == []
    load_plugin(plugin(tmp_path / "mine.py", "a"))  # mended, within the same process
    assert registry.names() == ["a"]


def test_a_module_that_raises_does_so_each_time(registry, tmp_path, monkeypatch):
    plugin(tmp_path / "my_plugins" / "__init__.py", "a", "1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError, match="--plugin my_plugins: ZeroDivisionError"):
            load_plugin("my_plugins")
        assert registry.names() == []


@pytest.mark.parametrize("spec", ["nowhere.py", "nowhere", "nowhere.at.all"])
def test_a_missing_plugin_is_named(spec):
    with pytest.raises(UsageError, match=f"--plugin {spec}: no such file|--plugin {spec}: No module named 'nowhere'"):
        load_plugin(spec)
