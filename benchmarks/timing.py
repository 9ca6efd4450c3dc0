"""Timing things in turns, so that whatever else a machine does hits all of them, and the figures that come of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from common.progress import working


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        values = sorted(values)
        return cls(statistics.median(values), values[0], values[-1])


@dataclass(frozen=True)
class Limit:
    """What the machine can do at best.

    Attributes:
        name: what was measured of it ("matrix product, bf16").
        ceiling: how much of it a second (operations, bytes).
        per_unit: how much of it one unit of the measured work needs.
    """

    name: str
    ceiling: float
    per_unit: float


@dataclass(frozen=True)
class Measurement:
    """One contender's speed.

    Attributes:
        case: what was done, in which sizes.
        contender: by what ("ours, bf16").
        value: in ``unit``.
        unit: a rate (the more the better), seconds, or another number that is no speed.
        ratios: how many times as fast as each reference, of the same round.
        limit: name of the ceiling.
        reached: part of it.
    """

    case: str
    contender: str
    value: Spread
    unit: str
    ratios: dict[str, Spread] = field(default_factory=dict)
    limit: str | None = None
    reached: float | None = None


def take_turns(
    case: str,
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    prepare: Callable[[str], bool] = lambda name: False,
) -> dict[str, list[float]]:
    """Seconds that each contender takes in each round, while ``case`` is shown with its progress. A contender returns when its
    work is done (on an accelerator: after a synchronisation). It runs once untimed at first, and wherever ``prepare``, called with
    its name before, returns True."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with working(case, rounds * len(contenders)) as turns:
        for number in range(rounds):
            for name, work in contenders.items():
                turns.advance(turns.done, name)
                if prepare(name) or number == 0:
                    work()
                began = clock()
                work()
                seconds[name].append(clock() - began)
                turns.advance(turns.done + 1)
    return seconds


def measure(
    case: str,
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    amount: float | None,
    unit: str,
    limits: Mapping[str, Limit] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    prepare: Callable[[str], bool] = lambda name: False,
) -> list[Measurement]:
    """Time contenders in turns. Those whose name begins with "ours" are compared with each of the others.

    Args:
        amount: units of work that a contender does; None: all of it is one, and the value is seconds.
        limits: of contenders, by name.
        prepare: as ``take_turns`` has it.
    """
    seconds = take_turns(case, contenders, rounds, clock, prepare)
    references = [name for name in contenders if not name.startswith("ours")]
    found = []
    for name, times in seconds.items():
        value = Spread.of(times if amount is None else [amount / t for t in times])
        ratios = {}
        if name.startswith("ours"):
            for other in references:
                ratios[other] = Spread.of(b / a for a, b in zip(times, seconds[other], strict=True))
        limit = (limits or {}).get(name)
        rate = 1 / value.median if amount is None else value.median
        reached = limit and rate * limit.per_unit / limit.ceiling
        found.append(Measurement(case, name, value, unit, ratios, limit and limit.name, reached))
    return found
