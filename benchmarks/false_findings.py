"""Simulates whole reports, of known truth, through the functions that reports use: how often a report with no difference finds
one, how many intervals hold the truth, and which differences are found. Makes the tables of docs/statistics.md.

``python -m benchmarks.false_findings`` (about half an hour on one core), ``--reports 200`` for a quick look.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from reports.analysis.comparison import ALPHA
from reports.analysis.paired import components_of_means, corrected, pair_tests
from reports.analysis.statistics import holm, mcnemar

#: Ratios of the variance of one training's mean over seeds to that over images.
RATIOS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
#: Standard deviations over seeds relative to the first row's.
SPREADS = {
    "equal": lambda rows: np.ones(rows),
    "one row ×5": lambda rows: np.r_[np.ones(rows - 1), 5.0],
    "one row ×20": lambda rows: np.r_[np.ones(rows - 1), 20.0],
    "half ×5": lambda rows: np.r_[np.ones(rows - rows // 2), np.full(rows // 2, 5.0)],
    "one row ÷5": lambda rows: np.r_[np.ones(rows - 1), 0.2],
}
#: Reports simulated at once, which bounds the memory.
_BATCH = 250


@dataclass(frozen=True)
class Setting:
    """What a simulated report is like.

    Attributes:
        seeds: of every row, or of each row.
        ratio, spread: see ``RATIOS`` and ``SPREADS``.
        shared: correlation of the columns' seed effects: a seed that is good at k-NN is good at the linear probe.
        interaction: variance of a seed's own errors on an image, relative to a row's.
        group: images in each group that is drawn (a video's objects), which share half of their variance.
        effect: how much better the first row is, in standard errors over images of a difference.
        binary: right or wrong on each image, as for McNemar's test; for one seed.
    """

    rows: int = 4
    columns: int = 4
    seeds: int | tuple[int, ...] = 3
    ratio: float = 1.0
    spread: str = "equal"
    shared: float = 0.0
    interaction: float = 0.5
    images: int = 80
    group: int = 1
    effect: float = 0.0
    binary: bool = False

    @property
    def seeds_of_rows(self) -> np.ndarray:
        return np.broadcast_to(self.seeds, self.rows)

    @property
    def groups(self) -> np.ndarray | None:
        return None if self.group == 1 else np.arange(self.images) // self.group


@dataclass(frozen=True)
class Rates:
    """Shares of reports with a false finding (and with Holm's correction of lone pairs' p alone), of intervals of differences
    that hold the truth, and of true differences found (NaN without any)."""

    false: float
    false_holm: float
    coverage: float
    power: float
    reports: int


def simulate(setting: Setting, reports: int, seed: int = 0) -> Rates:
    """Simulate ``reports`` reports in which all rows are equal, but for the first one's ``effect``."""
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(setting.rows, 1)
    truth = setting.effect * _standard_error(setting) * (first == 0)
    null = np.tile(truth == 0, setting.columns)
    false = false_holm = covered = found = 0.0
    for start in range(0, reports, _BATCH):
        size = min(_BATCH, reports - start)
        together = [rng.normal(size=(size, seeds)) for seeds in setting.seeds_of_rows]
        tests = []
        for _ in range(setting.columns):
            rows = _outcomes(setting, rng, together)
            tests.append(_test(setting, rows, first, second))
            covered += (np.abs(tests[-1].difference - truth) <= tests[-1].half).mean(-1).sum() / setting.columns
        p, p_rows, p_own = (np.concatenate([getattr(t, key) for t in tests], -1) for key in ("p", "p_rows", "p_own"))
        for lone, rows_p, own_p in zip(p, p_rows, p_own, strict=True):
            holds = np.maximum(corrected(rows_p, own_p, setting.columns), lone) < ALPHA
            false += (holds & null).any()
            false_holm += ((holm(lone) < ALPHA) & null).any()
            found += holds[~null].mean() if not null.all() else np.nan
    return Rates(false / reports, false_holm / reports, covered / reports, found / reports, reports)


def _test(setting: Setting, rows: list[np.ndarray], first: np.ndarray, second: np.ndarray):
    tests = pair_tests(components_of_means(rows, setting.groups), first, second)
    if not setting.binary:
        return tests
    right = [row[:, 0] > 0 for row in rows]
    only = [np.stack([(right[a] & ~right[b]).sum(-1) for a, b in pairs], -1) for pairs in _both_ways(first, second)]
    p = mcnemar(*only)
    return replace(tests, p=p, p_rows=p)


def _both_ways(first: np.ndarray, second: np.ndarray) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    pairs = list(zip(first, second, strict=True))
    return pairs, [(b, a) for a, b in pairs]


def _standard_error(setting: Setting) -> float:
    """Of a difference, over images, by the rows' own errors on images (variance 1 each, in groups half of it shared)."""
    if setting.binary:
        return np.sqrt(2 * 0.2 / setting.images)
    return np.sqrt(2 * (0.5 + 0.5 * setting.group) / setting.images)


def _outcomes(setting: Setting, rng: np.random.Generator, together: list[np.ndarray]) -> list[np.ndarray]:
    """Each row's outcomes in one column, ``[reports, seeds, images]``."""
    size, images = len(together[0]), setting.images
    if setting.binary:
        ability = rng.uniform(0.2, 0.8, size=(size, 1, images))
        gain = [setting.effect * _standard_error(setting) if row == 0 else 0.0 for row in range(setting.rows)]
        return [(rng.random((size, 1, images)) < ability + more).astype(np.float64) for more in gain]
    easy = rng.normal(size=(size, 1, images))
    deviation = np.sqrt(setting.ratio) * _standard_error(setting) / np.sqrt(2) * SPREADS[setting.spread](setting.rows)
    rows = []
    for row, common in enumerate(together):
        seeds = common.shape[1]
        own = rng.normal(size=common.shape)
        effect = deviation[row] * (np.sqrt(setting.shared) * common + np.sqrt(1 - setting.shared) * own)
        if row == 0:
            effect = effect + setting.effect * _standard_error(setting)
        on_images = rng.normal(size=(size, 1, images))
        if setting.groups is not None:
            of_group = rng.normal(size=(size, 1, images // setting.group))
            on_images = np.sqrt(0.5) * (on_images + of_group[..., setting.groups])
        errors = np.sqrt(setting.interaction) * rng.normal(size=(size, seeds, images))
        rows.append(easy + on_images + errors + effect[..., None])
    return rows


def null_settings() -> Iterator[tuple[str, Setting]]:
    """Settings without a difference, with the line of the table that each belongs to."""
    yield "1 seed, right or wrong, 4 rows", Setting(seeds=1, binary=True, images=200)
    yield "1 seed, scores, 4 rows", Setting(seeds=1, ratio=0.0)
    yield "1 seed, groups of 4, 4 rows", Setting(seeds=1, ratio=0.0, images=160, group=4)
    for seeds, spread in itertools.product((2, 3, 5), SPREADS):
        for rows in (2, 4, 8):
            if rows == 2 and spread == "half ×5":
                continue
            for ratio, shared in itertools.product(RATIOS if rows == 4 else (0.0, 1.0, 10.0), (0.0, 0.8)):
                if (ratio == 0 and (shared or spread != "equal")) or (
                    shared and (rows != 4 or ratio not in (1.0, 10.0))
                ):
                    continue
                columns = 4 if rows < 8 else 2
                setting = Setting(rows, columns, seeds, ratio, spread, shared, images=60)
                yield f"{seeds} seeds, {spread}, {rows} rows", setting
    for ratio in (0.0, 1.0, 10.0):
        for spread in ("equal", "one row ×5"):
            mixed = Setting(seeds=(2, 3, 5, 5), ratio=ratio, spread=spread, images=60)
            yield "2, 3, 5 and 5 seeds, 4 rows", mixed
            yield "5, 5, 3 and 2 seeds, 4 rows", replace(mixed, seeds=(5, 5, 3, 2))
        for seeds in (2, 3, 5):
            yield f"{seeds} seeds, groups of 4, 4 rows", Setting(seeds=seeds, ratio=ratio, images=160, group=4)


def null_table(settings: Iterable[tuple[str, Setting]], reports: int) -> str:
    """Markdown: for each line the largest share of false findings over its settings, and the range of coverage."""
    lines: dict[str, list[Rates]] = {}
    for number, (name, setting) in enumerate(settings):
        lines.setdefault(name, []).append(simulate(setting, reports, seed=number))
        print(f"{name}, ratio {setting.ratio:g}, shared {setting.shared:g}: {lines[name][-1]}", flush=True)
    text = ["| report | settings | false findings, at most | with Holm alone | coverage |", "|---|---|---|---|---|"]
    for name, rates in lines.items():
        coverage = [100 * rate.coverage for rate in rates]
        text.append(
            f"| {name} | {len(rates)} | {100 * max(rate.false for rate in rates):.1f}% "
            f"| {100 * max(rate.false_holm for rate in rates):.1f}% | {min(coverage):.1f} to {max(coverage):.1f}% |"
        )
    return "\n".join(text)


def power_table(reports: int, effects: tuple[float, ...] = (4.0, 6.0, 10.0, 20.0, 40.0)) -> str:
    """Markdown: shares of true differences found, by their size in standard errors over images."""
    text = [f"| seeds | ratio | {' | '.join(f'{effect:g}' for effect in effects)} |", "|---" * (2 + len(effects)) + "|"]
    for seeds, ratio in [(1, 0.0), *itertools.product((2, 3, 5), (0.0, 1.0, 10.0))]:
        shares = [simulate(Setting(seeds=seeds, ratio=ratio, effect=effect), reports).power for effect in effects]
        text.append(f"| {seeds} | {ratio:g} | {' | '.join(f'{100 * share:.0f}%' for share in shares)} |")
        print(text[-1], flush=True)
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=2000, help="reports simulated in each setting")
    reports = parser.parse_args().reports
    null = null_table(null_settings(), reports)
    power = power_table(max(reports // 4, 1))
    print(f"\n{null}\n\n{power}")


if __name__ == "__main__":
    main()
