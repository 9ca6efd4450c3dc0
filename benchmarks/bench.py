"""What every benchmark is given: the device, how thorough to be, the authors' code, and the machine's ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.authors import Authors
from benchmarks.timing import Limit, Measurement, Spread, measure
from training.machine.devices import keep_memory, synchronize

T = TypeVar("T")


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
    rounds: int = 5
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

    def measure(
        self,
        benchmark: str,
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

        def prepare(name: str) -> None:
            if kept != ["ours" in name] and self.device.type == "cpu":
                kept[:] = ["ours" in name]
                keep_memory(kept[0])
                contenders[name]()

        try:
            return measure(benchmark, case, contenders, self.rounds, amount, unit, limits, clock or self.clock, prepare)
        finally:
            keep_memory(self.device.type == "cpu")

    def product(self, precision: str) -> float:
        """Operations a second of a large square matrix product, a multiply-add counting as two."""
        name = f"matrix product, {precision}"
        if name not in self._ceilings:
            side = self.pick(8192 if self.device.type == "cuda" else 3072, 512)
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[precision]
            a, b = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            self._ceilings[name] = 2 * side**3 / self._fastest(lambda: torch.mm(a, b, out=out))
        return self._ceilings[name]

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


def ceilings(bench: Bench) -> list[Measurement]:
    """The machine's limits that do not belong to one benchmark."""
    copy, one = bench.copy(), bench.copy(threads=1)
    found = [("fp32", bench.product("fp32")), ("bf16", bench.product("bf16")), ("fp64", bench.product("fp64"))]
    rows = [(f"matrix product, {precision}", flops / 1e9, "GFLOP/s") for precision, flops in found]
    rows += [("memory copy, read and written", copy / 1e9, "GB/s"), ("the same on one thread", one / 1e9, "GB/s")]
    return [Measurement("ceilings", case, "machine", Spread(v, v, v), unit) for case, v, unit in rows]
