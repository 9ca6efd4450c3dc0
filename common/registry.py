"""Registries find plug-ins by name. A plug-in is a file whose stem is its name, so its name and its facts (plain class
attributes) are read without an import, which might load torch."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.errors import UsageError, UserError, first_line, unknown_name

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
#: Types of facts, which JSON can hold, too.
_FACTS = (str, bool, int, float, tuple, list, dict)


#: Every registry, so that a plug-in that fails leaves none of its names.
_ALL: list[Registry] = []


class Registry(Generic[T]):
    """Plug-ins of one kind.

    Args:
        kind: a plug-in's name in messages ("method").
        package: each of its modules registers the plug-in of its own name ("heads.segmentation").
    """

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        self._modules: set[str] = set()
        _ALL.append(self)
        if package:
            self._modules = {path.stem for path in (ROOT / package.replace(".", "/")).glob("*.py")} - {"__init__"}
            _BY_PACKAGE[package] = self

    def register(self, name: str) -> Callable[[T], T]:
        """Register the decorated object as ``name``. Raises UsageError if that is taken."""

        def decorate(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise UsageError(f"the {self.kind} {name!r} is registered twice; give one of them another name")
            self._items[name] = item
            return item

        return decorate

    def names(self) -> list[str]:
        """All names, sorted. Imports nothing."""
        return sorted(self._modules | self._items.keys())

    def get(self, name: str) -> T:
        """The plug-in called ``name``. Raises UsageError naming the nearest one."""
        if name not in self._items and name in self._modules:
            importlib.import_module(f"{self._package}.{name}")
        if name not in self._items:
            raise unknown_name(self.kind, name, self.names())
        return self._items[name]

    def facts(self, name: str) -> dict[str, Any]:
        """The plain class attributes of a plug-in, such as ``title``; {} for an unknown name. Imports nothing."""
        if name in self._modules:
            return dict(literals_of(ROOT / self._package.replace(".", "/") / f"{name}.py", name))
        classes = reversed(getattr(self._items.get(name), "__mro__", ()))
        facts = {key: value for kind in classes for key, value in vars(kind).items()}
        return {key: value for key, value in facts.items() if isinstance(value, _FACTS) and not key.startswith("_")}


_BY_PACKAGE: dict[str, Registry] = {}


def plugins_of(package: str) -> Registry:
    """The registry of a package's plug-ins, to read names and facts without importing the package."""
    return _BY_PACKAGE.get(package) or Registry("plug-in", package)


def names_of(package: str) -> Callable[[], list[str]]:
    """Make a function that lists a package's plug-ins when it is called, after ``--plugin`` has added some."""
    return lambda: plugins_of(package).names()


@functools.cache
def literals_of(file: Path, name: str) -> dict[str, Any]:
    """Literal attributes of the class in ``file`` called ``name`` or registered under it, with those of its bases."""
    module = ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else ast.Module([], [])
    for node in module.body:
        if isinstance(node, ast.ClassDef) and (node.name == name or _is_registered(node, name)):
            break
    else:
        return {}
    imported = {
        alias.asname or alias.name: (ROOT / f"{statement.module.replace('.', '/')}.py", alias.name)
        for statement in module.body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
    facts: dict[str, Any] = {}
    for base in map(ast.unparse, reversed(node.bases)):
        facts |= literals_of(*imported.get(base, (file, base)))
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                try:
                    facts[ast.unparse(target)] = ast.literal_eval(statement.value)
                except ValueError:  # not a literal: it still overrides what a base declares
                    facts.pop(ast.unparse(target), None)
    return facts


def _is_registered(node: ast.ClassDef, name: str) -> bool:
    return any(ast.unparse(decorator).endswith(f".register({name!r})") for decorator in node.decorator_list)


def load_plugin(spec: str) -> None:
    """Import a plug-in (a ``.py`` file or a dotted module name), which registers itself; once, however often it is named. Raises
    UsageError if it is missing, or raises an error: nothing of it is registered then, and it can be loaded again."""
    before = [(registry, dict(registry._items)) for registry in _ALL]
    try:
        if Path(spec).suffix == ".py":
            _load_file(Path(spec))
        else:
            importlib.import_module(spec)
    except BaseException as error:
        for registry, items in before:
            registry._items = items
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        if isinstance(error, FileNotFoundError) and not Path(spec).exists():
            raise UsageError(f"--plugin {spec}: no such file") from error
        if isinstance(error, ModuleNotFoundError) and Path(spec).suffix != ".py":
            raise UsageError(f"--plugin {spec}: {error}; give a .py file or an importable module") from error
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).name == Path(spec).name
        ]
        where = f", line {lines[-1]}" if lines else ""
        raise UsageError(f"--plugin {spec}{where}: {type(error).__name__}: {first_line(error)}") from error


def _load_file(path: Path) -> None:
    path = path.resolve(strict=True)
    name = f"plugin_{path.stem}"
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None and Path(loaded) != path:  # another folder's file of this stem
        name = f"{name}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    if name in sys.modules:
        return
    module_spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
