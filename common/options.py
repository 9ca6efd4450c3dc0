"""An option of a command is a dataclass field that declares its default, its range and what it affects.

>>> @dataclass(kw_only=True)
... class Config:
...     lr: float = option(5e-4, at_least=0, only_training=True)
...     device: str = option("auto", changes_results=False)
>>> check(Config(lr=-1))
Traceback (most recent call last):
common.errors.UsageError: --lr -1: give 0 or more
>>> options_without_effect(Config)
frozenset({'device'})

The string under a field is its help; ``common.cli.make_parser`` appends the range and the names to choose from. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from common.errors import UsageError, unknown_name

#: Range of image sides, for ``option``. No disk has room for a store of larger images.
IMAGE_SIZE = {"at_least": 8, "at_most": 4096, "unit": "pixels"}


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a number.

    >>> str(Range(above=0, at_most=1)), str(Range(at_least=8, at_most=4096, unit="pixels"))
    ('more than 0 and at most 1', '8 to 4096 pixels')
    """

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    unit: str = ""

    def __contains__(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    def __str__(self) -> str:
        if math.isfinite(self.at_least) and math.isfinite(self.at_most):
            return f"{self.at_least} to {self.at_most} {self.unit}".rstrip()
        bounds = {
            "0 or more" if self.at_least == 0 else f"at least {self.at_least}": self.at_least,
            f"more than {self.above}": self.above,
            f"at most {self.at_most}": self.at_most,
            f"less than {self.below}": self.below,
        }
        return f"{' and '.join(text for text, bound in bounds.items() if math.isfinite(bound))} {self.unit}".rstrip()


def option(
    default: Any = MISSING,
    *,
    form: Callable[[Any], Any] | None = None,
    names: Callable[[], Iterable[str]] | None = None,
    changes_results: bool = True,
    only_training: bool = False,
    **bounds: Any,
) -> Any:
    """Declare an option as a dataclass field.

    Args:
        default: a list is copied for each instance. None means "decided elsewhere" and is always valid.
        form: raises ValueError, with advice, for a malformed value.
        names: lists the names to choose from, for help, such as ``DATASETS.names``; default: those of ``one_of``.
        changes_results: False if the option affects only speed, place or further output. A run can continue with another
            value, and runs that differ only in it count as one.
        only_training: whether runs of an untrained method do not depend on it.
        bounds: fields of ``Range`` for a number, or for each number in a list or tuple.
    """
    facts = {
        "range": Range(**bounds),
        "form": form,
        "names": names or getattr(form, "names", None),
        "changes_results": changes_results,
        "only_training": only_training,
    }
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=facts)
    return dataclasses.field(default=default, metadata=facts)


def facts_of(config_class: type, name: str) -> Mapping[str, Any]:
    """The facts that an option declares; a subclass that changes only the default keeps them."""
    for kind in config_class.__mro__:
        declared = vars(kind).get("__dataclass_fields__", {}).get(name)
        if declared is not None and "range" in declared.metadata:
            return declared.metadata
    return {}


def check(config: Any, prefix: str = "") -> None:
    """Check the options of a dataclass instance against their declarations; numbers must be finite. Raises UsageError.

    ``prefix`` begins their names on the command line ("finetune_")."""
    for declared in dataclasses.fields(config):
        value = getattr(config, declared.name)
        if value is None:
            continue
        if isinstance(value, (list, tuple)) and declared.type in _ONE_NUMBER:
            raise UsageError(several_values(prefix + declared.name, value))
        if dataclasses.is_dataclass(value):
            check(value)  # simple-parsing gives nested options no prefix
        facts = facts_of(type(config), declared.name)
        check_value(prefix + declared.name, value, facts.get("range", Range()))
        if form := facts.get("form"):
            try:
                form(value)
            except ValueError as error:
                raise UsageError(f"--{prefix}{declared.name} {value}: {error}") from error


#: Types of fields that hold one number, as ``dataclasses.fields`` gives them.
_ONE_NUMBER = (int, float, int | None, float | None, "int", "float", "int | None", "float | None")


def is_side(option_name: str) -> bool:
    """Whether an option (without dashes) is the side of a square in pixels, such as ``image_size`` or ``copydays_size``."""
    return option_name.endswith("size") and not option_name.endswith("batch_size")


def several_values(option_name: str, values: Iterable[Any]) -> str:
    """What to say of several values for an option (without dashes) that takes one.

    >>> several_values("lr", [1, 2])
    '--lr 1 2: give one value'
    """
    advice = "give one value"
    if is_side(option_name):
        advice = (
            "give one side in pixels; crops and evaluation images are squares, cut from photos of any shape "
            "(in pictures of whole photos it is their short side)"
        )
    return f"--{option_name} {' '.join(map(str, values))}: {advice}"


def check_value(option_name: str, value: Any, allowed: Range) -> None:
    """Raise UsageError for numbers that are not finite or not allowed, and for an empty list where a range is declared."""
    items = value if isinstance(value, (list, tuple)) else [value]
    if not items and allowed != Range():
        raise UsageError(f"--{option_name}: give one value or several: {allowed}")
    for number in items:
        if isinstance(number, float) and not math.isfinite(number):
            expected = "a finite number"
        elif isinstance(number, (int, float)) and not isinstance(number, bool) and number not in allowed:
            expected = allowed
        else:
            continue
        raise UsageError(f"--{option_name} {' '.join(map(str, items))}: give {expected}")


def one_of(kind: str, names: Callable[[], Iterable[str]]) -> Callable[[str | Sequence[str]], None]:
    """Make a ``form`` for an option that is one of ``names()``, or a list of them; messages call one a ``kind``."""

    def form(value: str | Sequence[str]) -> None:
        given = [value] if isinstance(value, str) else value
        if not given:
            raise ValueError(f"give at least one {kind} ({', '.join(names())})")
        for name in given:
            if name not in names():
                raise unknown_name(kind, name, names())

    form.names = names
    return form


def options_without_effect(config_class: type) -> frozenset[str]:
    """Names of the options that do not change results."""
    names = [declared.name for declared in dataclasses.fields(config_class)]
    return frozenset(name for name in names if not facts_of(config_class, name).get("changes_results", True))


def options_of_training(config_class: type) -> frozenset[str]:
    """Names of the options that only training reads."""
    names = [declared.name for declared in dataclasses.fields(config_class)]
    return frozenset(name for name in names if facts_of(config_class, name).get("only_training", False))
