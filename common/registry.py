"""A registry finds plug-ins by name. One file is one plug-in, and the file's stem is its name, so that the names are known
without importing (and thereby loading torch for) any of them."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Generic, TypeVar

from common.errors import UsageError, unknown_name

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
#: Values that a plug-in's facts may have: what JSON can hold, too.
_FACTS = (str, bool, int, float, tuple, list, dict)


class Registry(Generic[T]):
    """Plug-ins of one kind.

    Args:
        kind: what the plug-ins are, for messages ("method").
        package: the package whose modules each register the plug-in of their own name ("heads.segmentation"), or None.
    """

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        folder = ROOT / package.replace(".", "/") if package else None
        stems = {path.stem for path in folder.glob("*.py")} if folder else set()
        self._modules = stems - {"__init__"}
        if package:
            _BY_PACKAGE[package] = self

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make the decorated object known as ``name``. A name can be taken once."""

        def decorate(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise UsageError(f"the {self.kind} {name!r} is registered twice; give one of them another name")
            self._items[name] = item
            return item

        return decorate

    def names(self) -> list[str]:
        """All known names, sorted. Imports nothing."""
        return sorted(self._modules | self._items.keys())

    def get(self, name: str) -> T:
        """The plug-in called ``name``; raises UsageError naming the nearest known one."""
        if name not in self._items and name in self._modules:
            importlib.import_module(f"{self._package}.{name}")
        if name not in self._items:
            raise unknown_name(self.kind, name, self.names())
        return self._items[name]

    def facts(self, name: str) -> dict[str, Any]:
        """What the plug-in called ``name`` declares of itself: its class attributes with plain values, such as ``title``. Those of
        the package are read from their files, without importing any; {} for an unknown name."""
        if name in self._modules:
            return dict(literals_of(ROOT / self._package.replace(".", "/") / f"{name}.py", name))
        classes = reversed(getattr(self._items.get(name), "__mro__", ()))
        facts = {key: value for kind in classes for key, value in vars(kind).items()}
        return {key: value for key, value in facts.items() if isinstance(value, _FACTS) and not key.startswith("_")}


_BY_PACKAGE: dict[str, Registry] = {}


def plugins_of(package: str) -> Registry:
    """The registry of a package's plug-ins, to read names and facts without importing the package, which might import torch."""
    return _BY_PACKAGE.get(package) or Registry("plug-in", package)


@functools.cache
def literals_of(file: Path, name: str) -> dict[str, Any]:
    """Literal attributes of the class in ``file`` that is called ``name`` or registered under it, and of its bases."""
    module = ast.parse(file.read_text(encoding="utf-8"))
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    for node in classes.values():
        if node.name == name or any(
            isinstance(one, ast.Call) and [ast.unparse(argument) for argument in one.args] == [repr(name)]
            for one in node.decorator_list
        ):
            break
    else:
        return {}
    facts: dict[str, Any] = {}
    for base in reversed(node.bases):
        facts |= _facts_of_base(file, module, ast.unparse(base), classes)
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                try:
                    facts[ast.unparse(target)] = ast.literal_eval(statement.value)
                except ValueError:  # known to Python only: it hides what a base says
                    facts.pop(ast.unparse(target), None)
    return facts


def _facts_of_base(file: Path, module: ast.Module, name: str, classes: Container[str]) -> dict[str, Any]:
    """The facts of a base class: of the same file, or imported from another of the checkout."""
    if name in classes:
        return literals_of(file, name)
    for statement in module.body:
        for alias in statement.names if isinstance(statement, ast.ImportFrom) else ():
            other = ROOT / f"{statement.module.replace('.', '/')}.py"
            if (alias.asname or alias.name) == name and other.is_file():
                return literals_of(other, alias.name)
    return {}


def load_plugin(spec: str) -> None:
    """Import a plug-in from outside the checkout: a path of a ``.py`` file or a dotted module name. What it registers is
    known afterwards. Raises UsageError where there is no such file or module."""
    path = Path(spec)
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"--plugin {spec}: no such file")
        name = f"plugin_{path.stem}"
        if name in sys.modules:
            return
        module_spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(module_spec)
        sys.modules[name] = module
        module_spec.loader.exec_module(module)
        return
    try:
        importlib.import_module(spec)
    except ModuleNotFoundError as error:
        raise UsageError(f"--plugin {spec}: {error}; give a .py file or an importable module") from error
