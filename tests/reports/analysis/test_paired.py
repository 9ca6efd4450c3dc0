"""Tests over seeds and images against simulated reports of known truth, and against independent formulas."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.false_findings import SPREADS, Setting, _outcomes, _standard_error, power_table, simulate
from common.statistics.bootstrap import mean_interval, resample_counts
from reports.analysis.paired import Components, components_of_means, components_of_resamples, corrected, pair_tests
from reports.analysis.power import Needed, needed
from reports.analysis.statistics import holm

REPORTS = 400
#: False findings of a procedure at 5% stay below this with probability 0.999.
MOST = stats.binom.ppf(0.999, REPORTS, 0.05) / REPORTS


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
def test_reports_without_a_difference_find_none_at_5_percent(seeds, ratio):
    for spread in ("equal", "one row ×5"):
        rates = simulate(Setting(seeds=seeds, ratio=ratio, spread=spread, images=40), REPORTS)
        assert rates.false <= MOST, (spread, rates)
        assert 0.93 <= rates.coverage <= 0.975, (spread, rates)


def test_holm_on_lone_pairs_would_find_too_much():
    """Why there is more: the p of lone pairs and Holm's correction, with two seeds."""
    rates = simulate(Setting(seeds=2, ratio=10.0, images=40), REPORTS)
    assert rates.false <= MOST < 0.15 < rates.false_holm


@pytest.mark.parametrize(
    "setting",
    [
        Setting(seeds=1, ratio=0.0, images=160, group=4),
        Setting(seeds=3, ratio=1.0, images=160, group=4),
        Setting(seeds=1, binary=True, images=200),
        Setting(seeds=(5, 5, 3, 2), ratio=10.0, spread="one row ×5", images=40),
        Setting(rows=2, seeds=3, ratio=10.0, spread="one row ×20", images=40),
        Setting(rows=8, columns=2, seeds=3, ratio=1.0, spread="one row ×20", images=40),
    ],
    ids=str,
)
def test_groups_single_seeds_and_mixed_reports_hold_their_level(setting):
    assert simulate(setting, REPORTS).false <= MOST


def test_groups_drawn_as_single_images_would_find_too_much():
    setting = Setting(seeds=1, ratio=0.0, images=160, group=8)
    rng = np.random.default_rng(0)
    found = {True: 0, False: 0}
    for _ in range(400):
        of_group = rng.normal(size=(2, 1, 20))
        rows = list(of_group[..., setting.groups] + 0.5 * rng.normal(size=(2, 1, 160)))
        for grouped in found:
            tests = pair_tests(
                components_of_means(rows, setting.groups if grouped else None), np.array([0]), np.array([1])
            )
            found[grouped] += tests.p[0] < 0.05
    assert found[True] / 400 <= stats.binom.ppf(0.999, 400, 0.05) / 400 < 0.3 < found[False] / 400


def test_true_differences_are_found_with_enough_seeds():
    shares = [simulate(Setting(seeds=seeds, effect=8.0, images=40), 100).power for seeds in (2, 3, 5)]
    assert shares[0] < 0.1 < 0.5 < shares[1] < 0.95 < shares[2]
    assert power_table(4, (50.0,)).count("100%") >= 6


def test_the_seeds_that_would_show_a_difference_do():
    """Numbers of seeds from well-known variances, tried: about 80% of differences are found, and clearly fewer with fewer seeds."""
    rng = np.random.default_rng(5)
    for ratio, size in ((1.0, 6.0), (10.0, 8.0)):
        setting = Setting(seeds=30, ratio=ratio, images=80)
        rows = [row[0] for row in _outcomes(setting, rng, [rng.normal(size=(1, 30)) for _ in range(4)])]
        parts = components_of_means(rows)
        one = needed(parts, *np.triu_indices(4, 1), size * _standard_error(setting), 24, 4, 0.05)
        assert 3 < one.seeds < 20
        enough, fewer = (
            simulate(Setting(seeds=seeds, ratio=ratio, effect=size), 100).power for seeds in (one.seeds, one.seeds // 2)
        )
        assert fewer < 0.6 < 0.7 < enough <= 1
    single = components_of_means([row[:1] for row in rows])
    one = needed(single, *np.triu_indices(4, 1), 2 * _standard_error(setting), 24, 4, 0.05)
    covariance = np.cov([row[0] for row in rows])
    variance = np.median(
        [covariance[a, a] + covariance[b, b] - 2 * covariance[a, b] for a in range(4) for b in range(a)]
    )
    by_hand = variance * ((stats.norm.isf(0.05 / 48) + stats.norm.ppf(0.8)) / (2 * _standard_error(setting))) ** 2
    assert one.seeds is None and one.images == pytest.approx(by_hand, rel=0.12)
    assert needed(single, *np.triu_indices(4, 1), 1e-4, 24, 4, 0.05) == Needed(1e-4, None, None)


def test_components_against_the_definitions():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(3, 50)), rng.normal(size=(2, 50))
    parts = components_of_means([first, second])
    expected = np.cov(np.stack([first.mean(0), second.mean(0)])) / 50
    assert parts.over_images == pytest.approx(expected)
    assert parts.over_seeds == pytest.approx([first.mean(1).var(ddof=1), second.mean(1).var(ddof=1)])
    # Obuchowski & Rockette: variance of one training minus the covariance of two, over images.
    covariance = np.cov(first) / 50
    of_two = covariance[np.triu_indices(3, 1)].mean()
    assert parts.interaction[0] == pytest.approx(np.diag(covariance).mean() - of_two)
    assert parts.units == 50
    single = np.arange(50)
    grouped = components_of_means([first, second], single)
    assert grouped.over_images == pytest.approx(parts.over_images)
    assert grouped.interaction == pytest.approx(parts.interaction)


def test_components_of_resamples_approach_those_of_means():
    rng = np.random.default_rng(2)
    rows = [rng.normal(size=(n, 60)) for n in (3, 2)]
    groups = np.arange(60) // 2
    draws = list(resample_counts(60, 20000, groups=groups))
    resampled = [np.concatenate([row @ counts.T / 60 for counts in draws], axis=1) for row in rows]
    parts = components_of_resamples([row.mean(1) for row in rows], resampled, 30)
    exact = components_of_means(rows, groups)
    assert parts.over_seeds == pytest.approx(exact.over_seeds)
    assert parts.over_images == pytest.approx(exact.over_images * 29 / 30, abs=0.05 * exact.over_images.max())
    assert parts.interaction == pytest.approx(exact.interaction * 29 / 30, rel=0.05)


def _parts(mean, over_images, over_seeds, seeds, interaction=(0.0, 0.0), units=10**6):
    return Components(
        np.array(mean), np.diag(over_images), np.array(over_seeds), np.array(interaction), np.array(seeds), units
    )


def test_limits_are_students_t_and_the_normal_distribution():
    pair = np.array([0]), np.array([1])
    for n, t in ((2, 20.0), (3, 4.0), (6, 3.0)):
        seeds_only = pair_tests(_parts([t, 0.0], [1e-12, 1e-12], [n / 2] * 2, [n, n]), *pair)
        assert seeds_only.p_own == pytest.approx(2 * stats.t.sf(t, n - 1), rel=2e-3)
        assert seeds_only.p_rows == pytest.approx(2 * stats.t.sf(t, 2 * (n - 1)), rel=2e-3)
    images_only = pair_tests(_parts([2.0, 0.0], [0.5, 0.5], [1e-12, 1e-12], [3, 3]), *pair)
    assert images_only.p_rows == pytest.approx(2 * stats.norm.sf(2), rel=1e-3)
    # What images explain is not counted twice.
    shared = pair_tests(_parts([2.0, 0.0], [0.5, 0.5], [0.3, 0.3], [3, 3], interaction=(0.3, 0.3)), *pair)
    assert shared.p == pytest.approx(2 * stats.norm.sf(2), rel=1e-3)


def test_averaged_p_against_a_drawn_average():
    tests = pair_tests(
        _parts([3.0, 0.0, 1.0], [0.2] * 3, [0.4, 0.1, 0.3], [3, 3, 2], (0.1,) * 3), np.array([0]), np.array([1])
    )
    rng = np.random.default_rng(3)
    pooled = (2 * 0.4 + 2 * 0.1 + 0.3) / 5
    for p, spread, degrees in ((tests.p_rows, 0.4 + pooled, 5), (tests.p_own, 0.5, 2)):
        drawn = spread / 3 * degrees / rng.chisquare(degrees, 200_000)
        variance = 0.4 + np.maximum(drawn - 0.2 / 3, 0)
        assert p == pytest.approx(np.mean(2 * stats.norm.sf(3 / np.sqrt(variance))), rel=0.02)


def test_corrected_is_holm_without_seeds_and_never_smaller():
    rng = np.random.default_rng(4)
    p = rng.random(12)
    assert corrected(p, np.zeros(12), 4) == pytest.approx(holm(p))
    assert corrected(p * 1e-6, np.full(12, 0.004), 4) == pytest.approx(np.full(12, 0.02))
    assert corrected(p[:1] * 1e-6, np.array([0.04]), 1) == pytest.approx([0.04])


def test_group_interval_draws_groups():
    values, groups = np.repeat([0.0, 1.0], 50), np.repeat([0, 1], 50)
    assert mean_interval(values, groups=groups) == (0.0, 1.0)
    low, high = mean_interval(values)
    assert 0.35 < low < high < 0.65
    assert set(SPREADS) >= {"equal", "one row ×5"}
