"""Group runs that differ only in seed into rows, with their settings and cost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from backbones import PATCH_SIZES, title_of
from common.files import as_file_name
from reports.analysis.facts import method_facts
from reports.analysis.identity import IMAGES, as_text, identity_of, trained_options
from rundir.options import START, as_number, label_use
from rundir.read import Run

#: Headings of the settings that a fair comparison of methods holds equal.
SETTINGS = {name: name.capitalize() for name in ("patch", "input", "data", "start")}
SETTINGS |= {"budget": "Images seen", "labels": "Labels"}

#: A row's name spells out at most so many options; with more, rows get letters.
MOST_SPELT = 2
#: Setting "start" without ``--init``.
RANDOM = "random"


@dataclass
class Row:
    """Runs with the same options but for the seed.

    Attributes:
        runs: sorted by seed.
        method, backbone: names in the options; for released weights, the method is their file's name.
        facts: declarations of ``methods.core.base.Method``, such as ``title``.
        settings: text by keys of ``SETTINGS``.
        data: name of the training data; for released weights, of the data that they were evaluated on.
        cost: means over seeds (peak memory: the largest), None where not recorded: images_seen, devices (processes of the
            training), minutes (of all devices together), evaluation_minutes (of all evaluations of a run), energy_kwh,
            images_per_second, peak_memory_gib, parameters, flops (one image, forward), training_flops (the whole training).
        variant: what tells rows with the same method, backbone and data apart: the name of a grid's variant, options that a grid
            varies, else the differing options; a letter for more than ``MOST_SPELT`` of those.
    """

    runs: list[Run]
    method: str
    backbone: str
    facts: dict[str, Any]
    settings: dict[str, str]
    data: str
    cost: dict[str, float | None]
    device: str
    variant: str = ""

    @property
    def trained(self) -> bool:
        return self.settings["budget"] != "0"

    @property
    def used_labels(self) -> bool:
        """The training, or that of its initial weights, is known to have read labels."""
        return any(part not in ("none", "?") for part in self.settings["labels"].split(START))

    @property
    def seeds(self) -> list[Any]:
        return [run.seed for run in self.runs]

    @property
    def method_name(self) -> str:
        return self.facts["title"] or self.method

    @property
    def label(self) -> str:
        """Method, backbone and variant, for legends and sentences."""
        return ", ".join(part for part in (self.method_name, self.backbone, self.variant) if part)

    @property
    def paper_label(self) -> str:
        """``label`` with the backbone as papers write it."""
        return ", ".join(part for part in (self.method_name, title_of(self.backbone), self.variant) if part)


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Group runs into rows, sorted by data, backbone and method in the order of first appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(identity_of(run), []).append(run)
    rows = [_row(sorted(group, key=lambda run: _seed_order(run.seed))) for group in groups.values()]
    _tell_images_apart(rows)
    _name_variants(rows)
    names = ("data", "backbone", "method")
    orders = {name: list(dict.fromkeys(getattr(row, name) for row in rows)) for name in names}
    return sorted(rows, key=lambda row: [orders[name].index(getattr(row, name)) for name in names])


def _seed_order(seed: Any) -> tuple[int, float, str]:
    return (0, float(seed), "") if isinstance(seed, (int, float)) else (1, 0.0, str(seed))


def _recorded(run: Run, name: str) -> Any:
    """Look up ``name`` in the run's last record, its environment, and its options."""
    environment = run.environment
    places = [run.end or {}, environment, *(v for v in environment.values() if isinstance(v, dict)), run.config]
    return next((place[name] for place in places if place.get(name) is not None), None)


def _numbers(runs: Sequence[Run], name: str) -> list[float]:
    return [value for run in runs if (value := as_number(_recorded(run, name))) is not None]


def _mean(runs: Sequence[Run], name: str) -> float | None:
    return _mean_of(_numbers(runs, name))


def extension_of(run: Run) -> str:
    """Words on a training whose schedules were planned for fewer epochs at first; "" for others."""
    plans = run.config.get("extended_from")
    return f" (extended from {plain(plans)} epochs)" if plans else ""


def _mean_of(values: Sequence[float | None]) -> float | None:
    recorded = [value for value in values if value is not None]
    return sum(recorded) / len(recorded) if recorded else None


def _device_minutes(run: Run) -> float | None:
    minutes = as_number(_recorded(run, "minutes"))
    return None if minutes is None else minutes * (as_number(_recorded(run, "processes")) or 1)


def _evaluation_minutes(run: Run) -> float | None:
    """Minutes of a run's evaluations; metrics and heads that one measured share its time. None unless each has one."""
    seconds = {result.request or result.evaluation: result.seconds for result in run.results}
    return None if not seconds or None in seconds.values() else sum(seconds.values()) / 60


def _row(runs: list[Run]) -> Row:
    first = runs[0]
    backbone = str(first.config.get("backbone") or "unknown backbone")
    facts = method_facts(first)
    seen = _mean(runs, "images_seen") if facts["trains"] else 0.0
    minutes = _mean(runs, "minutes")
    speed = _mean([run for run in runs if run.end], "images_per_second")
    if speed is None and seen and minutes:
        speed = seen / (60 * minutes)
    data = str(first.config.get("data") or "?")
    an_image = _mean(runs, "training_flops")
    settings = {
        "patch": _patch(first, backbone),
        "input": _input(runs),
        "data": data,
        "start": _start(first),
        "budget": ("?" if seen is None else short_count(seen)) + extension_of(first),
        "labels": label_use(first.config, _recorded(first, "uses_labels")),
    }
    if "method" not in first.config:  # others' weights
        settings |= dict.fromkeys(("data", "start", "labels"), "?")
    return Row(
        runs,
        str(first.config.get("method") or _weights(first)),
        backbone,
        facts,
        settings,
        data=data,
        cost={
            "images_seen": seen,
            "devices": _mean([run for run in runs if run.has_log], "processes"),
            "minutes": _mean_of([_device_minutes(run) for run in runs]),
            "evaluation_minutes": _mean_of([_evaluation_minutes(run) for run in runs]),
            "energy_kwh": _mean([run for run in runs if run.end], "energy_kwh"),
            "images_per_second": speed,
            "peak_memory_gib": max(_numbers(runs, "peak_memory_gib"), default=None),
            "parameters": _mean(runs, "parameters"),
            "flops": _mean(runs, "flops"),
            "training_flops": an_image * seen if an_image and seen else None,
        },
        device=str(first.environment.get("device") or "?"),
    )


def _weights(run: Run) -> str:
    """A name for released weights."""
    name, key = PurePath(str(run.config.get("weights") or "of unknown origin")).name, run.config.get("key")
    return f"Weights {name}{f' ({key})' if key else ''}"


def _patch(run: Run, backbone: str) -> str:
    in_name = re.search(r"patch(\d+)|^vit_[a-z](\d+)$", backbone)  # timm's names, or ours
    named = in_name and (in_name[1] or in_name[2])
    return str(_recorded(run, "patch_size") or PATCH_SIZES.get(backbone) or named or "–")


def _input(runs: Sequence[Run]) -> str:
    """The side of input images: of a training, with other sizes of segmentation's crops after it; of an evaluation, that used."""
    own = str(_recorded(runs[0], "image_size") or "?")
    used: dict[str, None] = {}
    for result in itertools.chain.from_iterable(run.results for run in runs):
        view = re.match(r"crop (\d+(?: ?[×x] ?\d+)?)\b", str(result.protocol.get("train_view") or ""))
        used[view[1] if view else str(result.protocol.get("image_size") or own)] = None
    if used and not any(run.has_log for run in runs):
        return ", ".join(used)
    others = ", ".join(size for size in used if size != own)
    return f"{own} (evaluated also at {others})" if others else own


def _start(run: Run) -> str:
    """The initial weights."""
    init = run.config.get("init")
    return f"{PurePath(str(init)).name} ({str(run.config.get('init_sha256') or '?')[:8]})" if init else RANDOM


def _tell_images_apart(rows: Sequence[Row]) -> None:
    """Add a hash to a data name (``imagefolder``) that means different images in rows of equal ``knn_every``, on which it depends
    which are held out. Images are known by their source; those of older runs, which have none, by their pixels, at equal sizes."""
    runs = [(row, row.runs[0]) for row in rows if row.runs[0].fingerprint]
    sources = {(row.data, run.fingerprint): run.source for row, run in runs if run.source}
    alike: dict[tuple, list[tuple[Row, str]]] = {}
    known_by: dict[int, str] = {}
    for row, run in runs:
        source = run.source or sources.get((row.data, run.fingerprint), "")
        key = row.data, bool(run.config.get("knn_every"))
        alike.setdefault((*key, _recorded(run, "image_size")), []).append((row, run.fingerprint))
        if source:
            alike.setdefault(key, []).append((row, source))
        known_by[id(row)] = source or run.fingerprint
    differing = [group for group in alike.values() if len({images for _, images in group}) > 1]
    for row in {id(row): row for group in differing for row, _ in group}.values():
        row.data = row.settings["data"] = f"{row.data} ({known_by[id(row)][:6]})"


def _name_variants(rows: list[Row]) -> None:
    """Set ``variant`` of rows that a grid has named, and of others that would look alike."""
    named: dict[tuple, list[Row]] = {}
    for row in rows:
        row.variant = variant_in_grid(row)[0]
        named.setdefault((row.method, row.backbone, row.data, row.variant), []).append(row)
    for group in named.values():
        if len(group) == 1:
            continue
        keys, lettered = _telling_options(group)
        for number, row in enumerate(group):
            options = trained_options(row.runs[0])
            spelt = ", ".join(f"{key} {plain(options.get(key))}" for key in keys)
            own = f"variant {letters(number)}" if lettered else spelt
            row.variant = ", ".join(filter(None, (row.variant, own)))


def _telling_options(rows: Sequence[Row]) -> tuple[list[str], bool]:
    """Options that tell rows apart, and whether they are too many for a name: those that a grid varies, else all that differ."""
    differing = differing_options(rows)
    varied = [key for key in dict.fromkeys(key for row in rows for key in variant_in_grid(row)[1]) if key in differing]
    values = {as_text([row.runs[0].config.get(key) for key in varied]) for row in rows}
    if len(values) == len(rows):
        return varied, False
    if "init" in differing:  # both options below follow from it
        differing = [key for key in differing if key not in ("init_sha256", "init_labels")]
    return differing, len(differing) > MOST_SPELT


def name_in_grid(row: Row) -> str:
    """What a grid has named a run's directory between backbone and seed: "small", "small-lr=0.1"; "" elsewhere."""
    method, backbone = (re.escape(as_file_name(str(part))) for part in (row.method, row.backbone))
    for run in row.runs:
        if inside := re.fullmatch(rf"{method}-{backbone}-(.+)-seed{re.escape(str(run.seed))}", run.name):
            return inside[1]
    return ""


def variant_in_grid(row: Row) -> tuple[str, list[str]]:
    """The name of a grid's variant, and the options that the grid varies; neither for an untrained row, which may stand for several
    variants."""
    if not row.facts["trains"]:
        return "", []
    variant, *varied = re.split(r"(?:^|-)(?=[a-z]\w*=)", name_in_grid(row))
    return variant.replace("_", " "), [text.partition("=")[0] for text in varied]


def letters(number: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    return (letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def differing_options(rows: Sequence[Row]) -> list[str]:
    """Options that differ between rows, in the order of the first row's configuration."""
    configs = [trained_options(row.runs[0]) for row in rows]
    keys = dict.fromkeys(key for config in configs for key in config if key != IMAGES)
    return [key for key in keys if len({as_text(config.get(key)) for config in configs}) > 1]


def unequal_settings(a: Row, b: Row) -> list[str]:
    """Settings in which two rows differ; an untrained backbone has only a patch and an input size."""
    names = SETTINGS if a.trained and b.trained else ("patch", "input")
    return [name for name in names if a.settings[name] != b.settings[name]]


def plain(value: Any) -> str:
    """Format an option's value for readers."""
    if value is None or isinstance(value, bool):
        return {None: "–", True: "on", False: "off"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(plain, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={plain(item)}" for key, item in value.items())
    return str(value)


def short_count(value: float | None) -> str:
    """Format a count with three digits: 1.28 M."""
    if value is None:
        return "–"
    for limit, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"
