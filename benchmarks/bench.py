"""What every benchmark is given: the device, how thorough to be, the authors' code, and the machine's ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.authors import Authors
from benchmarks.timing import Limit, Measurement, Spread, measure
from training.machine.devices import keep_memory, synchronize

T = TypeVar("T")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Bench:
    """
    Attributes:
        device: to compute on.
        rounds: how often each contender is timed.
        quick: small sizes, to see that everything works.
        authors: the authors' own code, or None.
        run: a run directory whose weights the accuracy of features is measured with, or None.
    """

    device: torch.device
    rounds: int = 3
    quick: bool = False
    authors: Authors | None = None
    run: Path | None = None
    _ceilings: dict[str, float] = field(default_factory=dict)

    @property
    def clock(self) -> Callable[[], float]:
        """On one thread of a CPU its own time, which others on the machine take no part of; else the clock on the wall."""
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.thread_time if alone else time.perf_counter

    def pick(self, thorough: T, quick: T) -> T:
        return quick if self.quick else thorough

    @cached_property
    def small_products(self) -> dict[str, float]:
        """Operations a second of a small matrix product in each precision: a moment tells which of them the device is fast in, and
        about how fast it is."""
        side = 4096 if self.device.type == "cuda" else 384
        return {precision: self._product(precision, side) for precision in DTYPES}

    @property
    def precisions(self) -> list[str]:
        """Those that are timed: fp32, and others that are no slower. Emulated ones, up to 40 times as slow, are of no use."""
        return [name for name, rate in self.small_products.items() if rate >= self.small_products["fp32"]]

    def measure(
        self,
        case: str,
        contenders: Mapping[str, Callable[[], object]],
        amount: float | None,
        unit: str,
        limits: Mapping[str, Limit] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> list[Measurement]:
        """Time contenders in turns: see ``benchmarks.timing.measure``. On a CPU, memory is kept for what is ours, as commands
        have it, and for others returned to the system, as in a process of their own; after each such change the contender runs
        once untimed."""
        kept: list[bool] = []

        def prepare(name: str) -> bool:
            changes = kept != ["ours" in name] and self.device.type == "cpu"
            if changes:
                kept[:] = ["ours" in name]
                keep_memory(kept[0])
            return changes

        try:
            return measure(case, contenders, self.rounds, amount, unit, limits, clock or self.clock, prepare)
        finally:
            keep_memory(self.device.type == "cpu")

    def product(self, precision: str) -> float:
        """Operations a second of a large square matrix product, a multiply-add counting as two."""
        name = f"matrix product, {precision}"
        if name not in self._ceilings:
            side = self.pick(8192 if self.device.type == "cuda" else 3072, 512)
            self._ceilings[name] = self._product(precision, side)
        return self._ceilings[name]

    def _product(self, precision: str, side: int) -> float:
        a, b = (torch.randn(side, side, device=self.device).to(DTYPES[precision]) for _ in range(2))
        out = torch.empty_like(a)
        return 2 * side**3 / self._fastest(lambda: torch.mm(a, b, out=out))

    def copy(self, threads: int | None = None) -> float:
        """Bytes a second that a copy of a large tensor reads and writes; ``threads`` of a CPU: default: all."""
        name = "memory copy" if threads is None else f"memory copy, {threads} thread"
        if name not in self._ceilings:
            before = torch.get_num_threads()
            torch.set_num_threads(threads or before)
            source = torch.zeros(
                self.pick(2**32 if self.device.type == "cuda" else 2**28, 2**24), dtype=torch.uint8, device=self.device
            )
            target = torch.zeros_like(source)
            self._ceilings[name] = 2 * source.nbytes / self._fastest(lambda: target.copy_(source))
            torch.set_num_threads(before)
        return self._ceilings[name]

    def _fastest(self, work: Callable[[], object], repeats: int = 8) -> float:
        """The best of several times: what the machine can do when nothing else keeps it from it."""
        times = []
        for _ in range(repeats):
            synchronize(self.device)
            began = self.clock()
            work()
            synchronize(self.device)
            times.append(self.clock() - began)
        return min(times)


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of what is done, a multiply-add counting as two; matrix products and convolutions only."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def ceilings(bench: Bench) -> Iterator[list[Measurement]]:
    """The machine's limits that do not belong to one benchmark."""
    rows = [(f"matrix product, {name}", bench.product(name) / 1e9, "GFLOP/s") for name in bench.precisions]
    copies = {"memory copy, read and written": bench.copy(), "the same on one thread": bench.copy(threads=1)}
    rows += [(name, rate / 1e9, "GB/s") for name, rate in copies.items()]
    yield [Measurement("the machine", name, Spread(v, v, v), unit) for name, v, unit in rows]
