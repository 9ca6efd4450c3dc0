"""A grid: the trainings of a comparison. Each is a cell, with options of ``run.py train`` and its own directory.

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
    variants: {NAME: {OPTION: VALUE}}   # rows of a table that differ in several options at once; METHOD.NAME: of that method only
    vary: {OPTION: [VALUES], METHOD.OPTION: [VALUES]}
    vary_mode: product             # or one_at_a_time

The command line's --methods, --backbones, --seeds, --evals, --visualize, --vary override the file, and further options override
``base`` and the options of methods, backbones and variants. A method without training has one cell for all options of training.
A method with variants of its own has no others; one without has the variants without a method, or a plain cell if there are none:

    variants: {barlow_twins.no_labels: {}, barlow_twins.pairs_10: {pairing: same_label, label_fraction: 0.1}}
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.cli import parse_value, read_mapping
from common.errors import UsageError, unknown_name
from common.options import options_of_training
from training.config import TrainConfig
from training.grids.options import CompareCommand

#: Keys of a grid file, and the type of each value.
KEYS = {
    **dict.fromkeys(("title", "description", "vary_mode"), str),
    **dict.fromkeys(("seeds", "evals", "visualize"), list),
    **dict.fromkeys(("base", "methods", "on_request", "backbones", "variants", "vary"), dict),
}


@dataclass
class Grid:
    """A grid as read from a file and the command line; the module's docstring describes its fields."""

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
    #: Methods and evaluations of the file: ``base`` may name their options even if the command line asks for others.
    file_methods: list[str] = field(default_factory=list)
    file_evals: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One training of a grid: its directory's name, and its options for ``run.py train``."""

    name: str
    options: Mapping[str, Any]


def read_grid(path: str | Path) -> Grid:
    """Read a grid file. Raises UsageError naming the file and the wrong key."""
    content = read_mapping("grid", path, "see the grids in experiments/")
    for key, value in content.items():
        if key not in KEYS:
            raise unknown_name(f"key in {path}", key, KEYS)
        if key in ("methods", "on_request", "backbones"):
            content[key] = value = dict.fromkeys(map(str, value)) if isinstance(value, list) else value or {}
        if not isinstance(value, KEYS[key]):
            kind = {list: "list", dict: "mapping", str: "text"}[KEYS[key]]
            raise UsageError(f"{path}: {key!r} must be a {kind}")
        if key == "seeds" and not value:
            raise UsageError(
                f"{path}: 'seeds' is empty, so there would be no cell; name a seed, or leave the key out for seed 0"
            )
        if isinstance(value, list):
            item_kind, items = (int, "whole numbers") if key == "seeds" else (str, "names")
            for item in value:
                if type(item) is not item_kind:
                    raise UsageError(f"{path}: {key!r} lists {item!r}; give {items}")
        elif key in ("base", "vary"):
            content[key] = _options(path, key, value)
        elif isinstance(value, dict):
            content[key] = {str(name): _options(path, name, options or {}) for name, options in value.items()}
    for name, values in content.get("vary", {}).items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"{path}: vary: {name!r} must list its values")
    return Grid(**content)


def _options(path: str | Path, where: Any, options: Any) -> dict[str, Any]:
    """Check options in a grid file. Raises UsageError unless they are plain values or lists of plain values."""
    if not isinstance(options, dict):
        raise UsageError(f"{path}: {where!r} must be a mapping of options to values")
    for name, value in options.items():
        items = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(isinstance(item, (str, int, float, type(None))) for item in items):
            raise UsageError(f"{path}: {where!r} gives {name!r} no plain value or list of such values")
    return options


def grid_of(command: CompareCommand, further: Mapping[str, Any]) -> Grid:
    """Read the grid of a command, overridden by the command's options and by ``further`` options of training."""
    grid = read_grid(command.grid) if command.grid else Grid()
    in_file = {**grid.on_request, **grid.methods}
    grid.file_methods, grid.file_evals = list(in_file), grid.evals
    if command.methods:
        grid.methods = {name: in_file.get(name, {}) for name in command.methods}
    if command.backbones:
        grid.backbones = {name: grid.backbones.get(name, {}) for name in command.backbones}
    for key in ("seeds", "evals", "visualize", "vary_mode"):
        if value := getattr(command, key):
            setattr(grid, key, value)
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
    for key in ("methods", "backbones"):
        if not getattr(grid, key):
            raise UsageError(f"compare: no {key}; give --{key} NAME … or --grid FILE")
    return grid


def options_of_methods(methods: Sequence[str]) -> dict[str, set[str]]:
    """Name the options of each method's trainings."""
    from methods.core.base import METHODS  # here, since it imports torch, which run.py status does not need

    common = {f.name for f in dataclasses.fields(TrainConfig)}
    return {name: common | {f.name for f in dataclasses.fields(METHODS.get(name).Config)} for name in methods}


def fix_backbones(grid: Grid) -> None:
    """Give methods with only one backbone (raw pixels) that backbone, whatever the grid's backbones are."""
    from methods.core.base import METHODS

    for name, options in grid.methods.items():
        if backbone := METHODS.get(name).recipe.get("backbone"):
            options.setdefault("backbone", backbone)


def cells_of(grid: Grid, method_options: Mapping[str, set[str]]) -> list[Cell]:
    """Make the cells of a grid, in the order of methods, backbones, varied values, seeds.

    ``method_options`` has the option names of each method of the grid and its file (``options_of_methods``); ``base``,
    ``backbones`` and ``vary`` reach only methods with the option. Raises UsageError for an option that no method has, or that its
    method lacks.
    """
    _check_names(grid, method_options)
    cells: dict[str, Cell] = {}
    for method, own in grid.methods.items():
        having = method_options[method]
        applicable = {}
        for name, values in grid.vary.items():
            of_method, _, option = name.rpartition(".")
            if of_method in ("", method) and option in having:
                applicable[option] = values
        backbones = {own["backbone"]: {}} if "backbone" in own else grid.backbones
        for (backbone, backbone_options), (variant, changes), varied, seed in itertools.product(
            backbones.items(),
            _variants_of(grid, method, method_options).items(),
            _variations(applicable, grid.vary_mode),
            grid.seeds,
        ):
            common = {**grid.base, **backbone_options}
            common = {k: v for k, v in common.items() if k in having or _is_of_evaluation(k, grid.evals)}
            options = {"method": method, "backbone": backbone, **common, **own, **changes, **varied}
            options |= {"seed": seed, "evals": list(grid.evals) or None}
            if grid.visualize and seed == grid.seeds[0]:
                options["visualize"] = list(grid.visualize)
            values = [
                f"{option}={'+'.join(map(str, value)) if isinstance(value, list) else value}"
                for option, value in varied.items()
            ]
            labels = [method, backbone, *filter(None, [variant]), *values, f"seed{seed}"]
            name = re.sub(r"[^A-Za-z0-9_.=+-]", "_", "-".join(labels))
            if name in cells:
                raise UsageError(f"two cells of the grid would have the name {name!r}; give varied values only once")
            cells[name] = Cell(name, options)
    return list(cells.values())


def _check_names(grid: Grid, method_options: Mapping[str, set[str]]) -> None:
    """Raise UsageError for an unknown option or method in a grid."""

    def require(name: str, names: Iterable[str], what: str) -> None:
        if name not in names:
            raise unknown_name(what, name, names)

    every = set().union(*method_options.values())
    for name in (*grid.base, *itertools.chain(*grid.backbones.values())):
        if not _is_of_evaluation(name, (*grid.evals, *grid.file_evals)):
            require(name, every, "option of this grid")
    for method, options in grid.methods.items():
        for name in options:
            require(name, method_options[method], f"option of {method}")
    for method in method_options:
        for variant, options in _variants_of(grid, method, method_options).items():
            for name in options if method in grid.methods else ():
                require(name, method_options[method], f"option of {method} in the variant {variant!r}")
    _check_variants(grid, method_options)
    for name in grid.vary:
        method, _, option = name.rpartition(".")
        if method:
            require(method, method_options, "method in --vary")
        require(option, method_options[method] if method else every, f"option of {method or 'this grid'}")


def _check_variants(grid: Grid, methods: Collection[str]) -> None:
    """Raise UsageError for a variant that no method has."""
    shared = []
    for variant in grid.variants:
        method, name = _split(variant, methods)
        prefix, _, rest = variant.partition(".")
        if method and not name:
            raise UsageError(f"variants: {variant!r} has no name after the point; give {method}.NAME")
        # "t0.02" is a name without a method.
        if not method and prefix.isidentifier() and rest and not rest[0].isdigit():
            raise unknown_name("method of a variant METHOD.NAME", prefix, methods)
        if not method and variant:
            shared.append(variant)
    if shared and not any(shared[0] in _variants_of(grid, method, methods) for method in methods):
        raise UsageError(
            f"variants: {shared[0]!r} is a variant of no method, since each has variants of its own; give METHOD.NAME"
        )


def _variants_of(grid: Grid, method: str, methods: Collection[str]) -> dict[str, dict[str, Any]]:
    """A method's variants: its own, else those without a method, else a plain one. Options by names."""
    by_method: dict[str, dict[str, dict[str, Any]]] = {}
    for variant, options in grid.variants.items():
        of_method, name = _split(variant, methods)
        by_method.setdefault(of_method, {})[name] = options
    return by_method.get(method) or by_method.get("") or {"": {}}


def _split(variant: str, methods: Collection[str]) -> tuple[str, str]:
    """The method ("" for none) and the name of a variant."""
    method, point, name = variant.partition(".")
    return (method, name) if point and method in methods else ("", variant)


def _is_of_evaluation(option: str, evaluations: Sequence[str]) -> bool:
    return option.startswith(tuple(f"{name}_" for name in evaluations))


def without_repeats(cells: Sequence[Cell]) -> tuple[list[Cell], str]:
    """Leave out cells of methods that train nothing, if they differ from an earlier cell only in options of training. Returns the
    other cells in order, and a line that names the cells left out ("" for none)."""
    from methods.core.base import METHODS

    of_training = options_of_training(TrainConfig)
    kept: dict[str, Cell] = {}
    methods: list[str] = []  # one for each cell left out
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
