"""The statistics do what they claim, on data whose truth is known."""

import numpy as np
import pytest
from scipy import special, stats

from common.statistics.bootstrap import resample_counts
from reports.analysis.statistics import (
    bootstrap_means,
    difference_test,
    holm,
    mcnemar,
    over_seeds,
    percentile_interval,
)

#: Rejections of a true null at 5% in TRIALS trials stay below this with probability 0.999.
TRIALS = 2000
MOST = stats.binom.ppf(0.999, TRIALS, 0.05)


def test_t_interval_over_seeds_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(TRIALS):
        summary = over_seeds(rng.normal(70, 0.5, size=3))
        covered += summary.low <= 70 <= summary.high
    assert 0.93 <= covered / TRIALS <= 0.97


def test_t_distribution_is_that_of_scipy_stats():
    assert over_seeds([1.0, 2.0, 4.0]).high == pytest.approx(stats.t.interval(0.95, 2, 7 / 3, stats.sem([1, 2, 4]))[1])
    p, half = difference_test(np.array([1.0, 0.3]), 0.2, 31)
    assert p == pytest.approx(2 * stats.t.sf(np.array([1.0, 0.3]) / np.sqrt(0.2), 30))
    assert half == pytest.approx(stats.t.ppf(0.975, 30) * np.sqrt(0.2))


def test_one_seed_says_nothing_of_the_spread():
    summary = over_seeds([70.0])
    assert (summary.n, summary.mean, summary.std, summary.low, summary.high) == (1, 70.0, None, None, None)
    equal = over_seeds([70.1, 70.1, 70.1])
    assert (equal.n, equal.mean, equal.std, equal.low, equal.high) == (3, pytest.approx(70.1), 0.0, None, None)
    with pytest.raises(ValueError, match="non-empty"):
        over_seeds([])


@pytest.mark.parametrize("truth", [0.3, 0.8])
def test_percentile_bootstrap_covers_the_truth(truth):
    rng = np.random.default_rng(1)
    correct = rng.random((500, TRIALS)) < truth  # every column is another test set
    low, high = percentile_interval(bootstrap_means(correct, resamples=1000))
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_mcnemar_equals_the_binomial_test_and_holds_its_level():
    for a, b in ((0, 0), (1, 0), (5, 5), (3, 14), (40, 17)):
        expected = stats.binomtest(a, a + b, 0.5).pvalue if a + b else 1.0
        assert mcnemar(a, b) == pytest.approx(expected)
    rng = np.random.default_rng(2)
    ability = rng.beta(4, 2, size=(TRIALS, 300))
    first, second = rng.random(ability.shape) < ability, rng.random(ability.shape) < ability
    p = mcnemar((first & ~second).sum(1), (~first & second).sum(1))
    assert np.sum(p < 0.05) <= MOST
    better = rng.random(ability.shape) < np.minimum(ability + 0.1, 1)
    assert np.mean(mcnemar((better & ~second).sum(1), (~better & second).sum(1)) < 0.05) > 0.5


def _trained(rng, seeds, ability, seed_std):
    """Correctness of some trainings on the same images: ``[seeds, images]``."""
    chance = ability + rng.normal(0, seed_std, size=(seeds, 1)) + rng.normal(0, 0.1, size=(seeds, len(ability)))
    return (rng.random(chance.shape) < np.clip(chance, 0, 1)).astype(float)


@pytest.mark.parametrize(("seeds", "seed_std"), [((3, 3), 0.03), ((2, 5), 0.02), ((3, 3), 0.0), ((1, 1), 0.0)])
def test_difference_over_seeds_and_images_holds_its_level(seeds, seed_std):
    rng = np.random.default_rng(3)
    trials = 1000
    rejected = covered = 0
    for _ in range(trials):
        ability = rng.beta(4, 2, size=200)
        first, second = _trained(rng, seeds[0], ability, seed_std), _trained(rng, seeds[1], ability, seed_std)
        pair = first.mean(0) - second.mean(0)
        over = [(x.mean(1).var(ddof=1), len(x)) for x in (first, second)] if min(seeds) > 1 else []
        p, half = difference_test(pair.mean(), pair.var() / len(pair), len(pair), over)
        rejected += p < 0.05
        covered += abs(pair.mean()) <= half
    assert rejected <= stats.binom.ppf(0.999, trials, 0.05)
    assert covered == trials - rejected


def test_seeds_alone_would_claim_too_much():
    """The reason for the two-way test: with images as the only chance, trainings that differ by their seed alone are
    called different far too often."""
    rng = np.random.default_rng(4)
    naive = careful = 0
    for _ in range(500):
        ability = rng.beta(4, 2, size=500)
        first, second = _trained(rng, 3, ability, 0.04), _trained(rng, 3, ability, 0.04)
        pair = first.mean(0) - second.mean(0)
        image_variance = pair.var() / len(pair)
        naive += difference_test(pair.mean(), image_variance, 500)[0] < 0.05
        over = [(x.mean(1).var(ddof=1), len(x)) for x in (first, second)]
        careful += difference_test(pair.mean(), image_variance, 500, over)[0] < 0.05
    assert careful / 500 < 0.08 < 0.3 < naive / 500


def test_difference_test_finds_a_real_difference():
    p, half = difference_test(5.0, 0.5, 1000, [(1.0, 3), (1.0, 3)])
    assert p < 0.05
    assert 0 < half < 5
    assert difference_test(0.0, 0.0, 10)[0] == 1
    assert difference_test(1.0, 0.0, 10)[0] == 0


def test_degrees_of_freedom_take_the_variance_over_seeds_by_its_upper_limit():
    """Against the formula with scipy's quantiles: two and three seeds, of which the images explain a part."""
    images, (a, b), shared = 0.4, (0.02 / 2, 0.9 / 3), 0.05
    variance = images + a + b - shared
    limit = (a + b - shared) * (a / stats.chi2.ppf(0.25, 1) + b * 2 / stats.chi2.ppf(0.25, 2)) / (a + b)
    share = limit / (images + limit)
    of_seeds = (a + b) ** 2 / (a**2 / 1 + b**2 / 2)
    freedom = 1 / (share**2 / of_seeds + (1 - share) ** 2 / 99)
    p, half = difference_test(1.1, images, 100, [(0.02, 2), (0.9, 3)], shared)
    assert p == pytest.approx(2 * stats.t.sf(1.1 / np.sqrt(variance), freedom))
    assert half == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    # Only images, where seeds add nothing to them; only seeds, where there is no variance over images: Satterthwaite's degrees.
    assert difference_test(1.0, 0.5, 100, [(0.1, 2), (0.1, 2)], 0.2)[0] == difference_test(1.0, 0.5, 100)[0]
    assert difference_test(1.0, 0.0, 100, [(0.5, 2), (0.5, 2)])[0] == pytest.approx(2 * stats.t.sf(1 / np.sqrt(0.5), 2))


def test_holm_against_the_definition():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert holm([]).shape == (0,)
    rng = np.random.default_rng(5)
    false = [np.any(holm(rng.random(6)) < 0.05) for _ in range(TRIALS)]
    assert np.sum(false) <= MOST


def test_paired_bootstrap_of_miou_holds_its_level():
    from reports.analysis.outcomes import Outcomes

    rng = np.random.default_rng(6)
    trials, images = 300, 120
    rejected = 0
    for _ in range(trials):
        ability = rng.beta(4, 2, size=(images, 1))
        matrices = []
        for _ in range(2):
            right = rng.binomial(60, np.clip(ability + rng.normal(0, 0.1, size=(images, 3)), 0, 1))
            confusion = np.repeat((60 - right)[:, :, None] // 2, 3, axis=2)
            confusion[:, range(3), range(3)] = right
            matrices.append(Outcomes("", images, "miou", matrices=confusion))
        first, second = (one.resampled(resample_counts(images, 500)) for one in matrices)
        whole = [float(one.resampled(iter([np.ones((1, images))]))[0]) for one in matrices]
        rejected += difference_test(whole[0] - whole[1], np.var(first - second), images)[0] < 0.05
    assert rejected <= stats.binom.ppf(0.999, trials, 0.05)


def test_intervals_stay_on_the_scale_and_cover():
    """The logit's interval against its definition, inside the scale for any values, and as often right as the plain one."""
    low, high = over_seeds([61.7, 68.3], (0, 100)).low, over_seeds([61.7, 68.3], (0, 100)).high
    half = stats.t.ppf(0.975, 1) * 0.033 / (0.65 * 0.35)
    assert (low, high) == pytest.approx(
        (100 * special.expit(special.logit(0.65) - half), 100 * special.expit(special.logit(0.65) + half))
    )
    rng = np.random.default_rng(7)
    for scale, spread in (((0, 100), 40), ((-100, 100), 90), ((0, None), 3), ((0, 1), 0.3)):
        for n in (2, 3, 5):
            for _ in range(200):
                values = np.clip(rng.normal(spread, spread, size=n), scale[0], scale[1] if scale[1] else np.inf)
                summary = over_seeds(values, scale)
                if summary.low is not None:
                    assert scale[0] <= summary.low < summary.mean < summary.high <= (scale[1] or np.inf), (
                        values,
                        summary,
                    )
    assert over_seeds([130.0, 150.0], (0, 100)).high == over_seeds([130.0, 150.0]).high  # not on this scale
    for n, truth, std in ((2, 70, 2), (3, 70, 5), (3, 95, 1), (5, 50, 8)):
        covered = 0
        for _ in range(TRIALS):
            summary = over_seeds(rng.normal(truth, std, size=n), (0, 100))
            covered += summary.low <= truth <= summary.high
        assert 0.93 <= covered / TRIALS <= 0.97, (n, truth, std, covered / TRIALS)
