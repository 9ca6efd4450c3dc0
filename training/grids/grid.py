"""A grid: which trainings a comparison consists of. Each is a cell: options of ``run.py train`` and a directory of its own.

A grid file is a mapping:

    title: one line, for the report
    description: what is compared, the command, its cost and the expected outcome
    base: {OPTION: VALUE}          # every cell's options
    methods: [NAME] or {NAME: {OPTION: VALUE}}
    on_request: {NAME: {OPTION: VALUE}} # methods that run only where the command line names them
    backbones: [NAME] or {NAME: {OPTION: VALUE}}
    seeds: [0, 1, 2]
    evals: [knn, linear]
    visualize: [attention, crops]  # pictures of each row's first run, for the report
    variants: {NAME: {OPTION: VALUE}}   # rows of a table that differ in several options at once
    vary: {OPTION: [VALUES], METHOD.OPTION: [VALUES]}
    vary_mode: product             # or one_at_a_time

The command line's --methods, --backbones, --seeds, --evals, --visualize, --vary override it; further options go over
``base`` and what methods, backbones and variants have of their own. Of a method without training, cells that only options of
training would tell apart are one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.cli import parse_value
from common.errors import UsageError, unknown_name
from common.files import read_yaml
from common.options import options_of_training
from training.config import TrainConfig
from training.grids.options import CompareCommand

KEYS = (
    "title",
    "description",
    "base",
    "methods",
    "on_request",
    "backbones",
    "seeds",
    "evals",
    "visualize",
    "variants",
    "vary",
    "vary_mode",
)

#: What each holds.
KINDS = dict.fromkeys(("seeds", "evals", "visualize"), list) | dict.fromkeys(("title", "description", "vary_mode"), str)
KINDS = {key: KINDS.get(key, dict) for key in KEYS}
NAMES = {list: "list", dict: "mapping", str: "text"}


@dataclass
class Grid:
    """A grid as read from a file and the command line; see the module's docstring."""

    title: str = "Comparison"
    description: str = ""
    base: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_request: dict[str, dict[str, Any]] = field(default_factory=dict)
    backbones: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    evals: list[str] = field(default_factory=list)
    visualize: list[str] = field(default_factory=list)
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    vary: dict[str, list[Any]] = field(default_factory=dict)
    vary_mode: str = "product"
    #: methods whose options ``base`` may name: those of the file, also where the command line asks for others.
    file_methods: list[str] = field(default_factory=list)
    #: evaluations of the file, whose options ``base`` may name, too.
    file_evals: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One training of a grid: its directory's name and its options for ``run.py train``."""

    name: str
    options: Mapping[str, Any]


def read_grid(path: str | Path) -> Grid:
    """Read a grid file. Raises UsageError naming the file and the key that is wrong."""
    try:
        content = read_yaml(Path(path))
    except OSError as error:
        raise UsageError(
            f"--grid {path}: cannot be read ({error.strerror}); known grids are in experiments/"
        ) from error
    except ValueError as error:
        raise UsageError(f"--grid {path}: not YAML ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"--grid {path}: holds no mapping; see the grids in experiments/")
    for key in content:
        if key not in KEYS:
            raise unknown_name(f"key in {path}", str(key), KEYS)
    for key in ("methods", "on_request", "backbones"):
        if isinstance(content.get(key), list):
            content[key] = {str(name): {} for name in content[key]}
        content[key] = content.get(key) or {}
    for key, value in content.items():
        kind = KINDS[key]
        if not isinstance(value, kind):
            raise UsageError(f"{path}: {key!r} must be a {NAMES[kind]}")
        for item in value if kind is list else ():
            if type(item) is not (int if key == "seeds" else str):
                raise UsageError(
                    f"{path}: {key!r} lists {item!r}; give {'whole numbers' if key == 'seeds' else 'names'}"
                )
    for key in ("methods", "on_request", "backbones", "variants"):
        if key in content:
            content[key] = {str(name): _options(path, name, options or {}) for name, options in content[key].items()}
    for key in ("base", "vary"):
        content[key] = _options(path, key, content.get(key, {}))
    for name, values in content["vary"].items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: vary: {name!r} must list its values")
    return Grid(**content)


def _options(path: str | Path, where: Any, options: Any) -> dict[str, Any]:
    """Options of a mapping in a grid file, each a plain value or a list of such; UsageError names what is something else."""
    if not isinstance(options, dict):
        raise UsageError(f"{path}: {where!r} must be a mapping of options to values")
    for name, value in options.items():
        items = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(isinstance(item, (str, int, float, type(None))) for item in items):
            raise UsageError(f"{path}: {where!r} gives {name!r} no plain value or list of such values")
    return options


def grid_of(command: CompareCommand, further: Mapping[str, Any]) -> Grid:
    """The grid that a command asks for: its file's, overridden by its own options and by ``further`` training options."""
    grid = read_grid(command.grid) if command.grid else Grid()
    known = {**grid.on_request, **grid.methods}
    grid.file_methods, grid.file_evals = list(known), grid.evals
    if command.methods:
        grid.methods = {name: known.get(name, {}) for name in command.methods}
    if command.backbones:
        grid.backbones = {name: grid.backbones.get(name, {}) for name in command.backbones}
    if command.seeds:
        grid.seeds = command.seeds
    if command.evals:
        grid.evals = command.evals
    if command.visualize:
        grid.visualize = command.visualize
    if command.vary_mode:
        grid.vary_mode = command.vary_mode
    for text in itertools.chain.from_iterable(command.vary):
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise UsageError(f"--vary {text}: give OPTION=VALUE,VALUE,…")
        grid.vary[name] = [parse_value(value) for value in values.split(",")]
    for name in grid.vary:
        if (option := name.rpartition(".")[2]) in further:
            raise UsageError(f"--{option}: the grid varies it; give --vary {name}=VALUE,VALUE,… instead")
    grid.base = {**grid.base, **further}
    for mapping in (grid.methods, grid.backbones, grid.variants):
        for name, own in mapping.items():
            mapping[name] = {option: value for option, value in own.items() if option not in further}
    if not grid.methods:
        raise UsageError("compare: no methods; give --methods NAME NAME … or --grid FILE")
    if not grid.backbones:
        raise UsageError("compare: no backbones; give --backbones NAME … or --grid FILE")
    return grid


def options_of_methods(methods: Sequence[str]) -> dict[str, set[str]]:
    """For each method, the options that its trainings have."""
    from methods.core.base import METHODS

    common = {f.name for f in dataclasses.fields(TrainConfig)}
    return {name: common | {f.name for f in dataclasses.fields(METHODS.get(name).Config)} for name in methods}


def fix_backbones(grid: Grid) -> None:
    """Give methods that have one backbone only (raw pixels) that one, whatever the grid's backbones are."""
    from methods.core.base import METHODS

    for name, options in grid.methods.items():
        if backbone := METHODS.get(name).recipe.get("backbone"):
            options.setdefault("backbone", backbone)


def cells_of(grid: Grid, known: Mapping[str, set[str]]) -> list[Cell]:
    """The cells of a grid, in the order of methods, backbones, varied values, seeds.

    Args:
        grid: the grid.
        known: for each method of the grid, or of its file, its options (``options_of_methods``). ``base`` and ``vary``
            reach only the methods that have the option; an option that no method has is an error, as is one that a
            method's own mapping names wrongly.
    """
    every = set().union(*known.values())
    evaluation_option, of_file = (
        re.compile("|".join(re.escape(f"{name}_") for name in names) or r"(?!)")
        for names in (grid.evals, grid.file_evals)
    )
    for name in grid.base:
        if name not in every and not evaluation_option.match(name) and not of_file.match(name):
            raise unknown_name("option of this grid", name, every)
    for method, options in grid.methods.items():
        for name in options:
            if name not in known[method]:
                raise unknown_name(f"option of {method}", name, known[method])
    for variant, options in grid.variants.items():
        for name in options:
            for method in grid.methods:
                if name not in known[method]:
                    raise unknown_name(f"option of {method} in the variant {variant!r}", name, known[method])
    for name in grid.vary:
        method, _, option = name.rpartition(".")
        if method and method not in grid.methods:
            raise unknown_name("method in --vary", method, grid.methods)
        if option not in (known[method] if method else every):
            raise unknown_name(f"option of {method or 'this grid'}", option, known[method] if method else every)

    cells: dict[str, Cell] = {}
    for method, own in grid.methods.items():
        applicable = {
            name.rpartition(".")[2]: values
            for name, values in grid.vary.items()
            if name.rpartition(".")[0] in ("", method) and name.rpartition(".")[2] in known[method]
        }
        backbones = {own["backbone"]: {}} if "backbone" in own else grid.backbones
        for (backbone, backbone_options), (variant, changes), varied, seed in itertools.product(
            backbones.items(), grid.variants.items(), _variations(applicable, grid.vary_mode), grid.seeds
        ):
            common = {k: v for k, v in grid.base.items() if k in known[method] or evaluation_option.match(k)}
            options = {"method": method, "backbone": backbone, **common, **backbone_options, **own, **changes, **varied}
            options |= {"seed": seed, "evals": list(grid.evals) or None}
            if grid.visualize and seed == grid.seeds[0]:
                options["visualize"] = list(grid.visualize)
            labels = [
                method,
                backbone,
                *filter(None, [variant]),
                *(f"{option}={_short(value)}" for option, value in varied.items()),
                f"seed{seed}",
            ]
            name = re.sub(r"[^A-Za-z0-9_.=+-]", "_", "-".join(labels))
            if name in cells:
                raise UsageError(f"two cells of the grid would have the name {name!r}; give varied values only once")
            cells[name] = Cell(name, options)
    return list(cells.values())


def without_repeats(cells: Sequence[Cell]) -> tuple[list[Cell], str]:
    """Leave out cells that would give the results of another one, since their method trains nothing and they differ from it only
    in options of training. The first of them stays under its name, so that a grid that has begun finds its directory.

    Returns:
        the cells that stay, in their order, and in a line what is left out and why; "" for nothing.
    """
    from methods.core.base import METHODS

    of_training = options_of_training(TrainConfig)
    kept: dict[str, Cell] = {}
    methods: list[str] = []  # of what is left out, one each
    differing: set[str] = set()
    for cell in cells:
        method, options = cell.options["method"], cell.options
        if METHODS.get(method).trains:
            kept[cell.name] = cell
            continue
        telling = sorted((name, repr(value)) for name, value in options.items() if name not in of_training)
        first = kept.setdefault(repr(telling), cell)
        if first is not cell:
            methods.append(method)
            differing |= {n for n in {*options, *first.options} if options.get(n) != first.options.get(n)}
    if not methods:
        return list(kept.values()), ""
    many = len(methods) > 1
    runs = f"{len(methods)} {'runs' if many else 'run'} of {', '.join(dict.fromkeys(methods))}"
    why = f"that {'differ' if many else 'differs'} from others only in {', '.join(sorted(differing))}"
    return list(kept.values()), f"left out: {runs} {why}: nothing is trained there"


def _variations(vary: Mapping[str, Sequence[Any]], mode: str) -> list[dict[str, Any]]:
    if mode == "product":
        return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    if mode == "one_at_a_time":
        return [{}, *({name: value} for name, values in vary.items() for value in values)]
    raise UsageError(f"vary_mode must be product or one_at_a_time, not {mode!r}")


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
