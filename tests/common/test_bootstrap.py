import numpy as np
import pytest

from common.statistics.bootstrap import bootstrap, mean_interval, resample_counts


def test_intervals_of_accuracies_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth, n, times = 0.7, 500, 2000
    covered = 0
    for seed in range(times):
        low, high = mean_interval(rng.random(n) < truth, resamples=2000, seed=seed)
        covered += low <= truth <= high
    assert 0.93 < covered / times < 0.97


def test_intervals_of_any_statistic_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(600):
        x, y = rng.gamma(2.0, size=(2, 200))
        # A ratio of sums, as the IoU is.
        low, high = bootstrap(lambda w, x=x, y=y: (w @ x) / (w @ (x + y)), 200, resamples=500, seed=seed)
        covered += low <= 0.5 <= high
    assert 0.93 < covered / 600 < 0.97


def test_counting_distinct_values_equals_drawing_samples():
    values = np.random.default_rng(2).integers(0, 3, 300).astype(float)
    drawn = bootstrap(lambda w: w @ values / 300, 300, resamples=20000)
    assert mean_interval(values) == pytest.approx(drawn, abs=0.01)


def test_continuous_values():
    values = np.random.default_rng(3).normal(5, 2, 400)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_resamples_draw_n_of_n_and_do_not_depend_on_their_number():
    few = np.concatenate(list(resample_counts(700, 5, seed=4)))
    many = np.concatenate(list(resample_counts(700, 9000, seed=4)))
    assert few.shape == (5, 700) and many.shape == (9000, 700)
    assert (many.sum(axis=1) == 700).all()
    np.testing.assert_array_equal(few, many[:5])
    # Each sample is drawn Poisson-like: mean 1, variance 1 - 1/n.
    assert many.mean() == 1
    assert many.var() == pytest.approx(1 - 1 / 700, rel=0.01)


def test_seeds():
    values = np.arange(50) % 3 == 0
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert bootstrap(lambda w: w[:, 0], 50, seed=1) != bootstrap(lambda w: w[:, :25].sum(1), 50, seed=2)


def test_resamples_without_a_value_are_left_out():
    one_positive = np.arange(40) == 0
    low, high = bootstrap(lambda w: np.where(w @ one_positive > 0, 0.5, np.nan), 40)
    assert (low, high) == (0.5, 0.5)
    with pytest.raises(ValueError, match="no resample"):
        bootstrap(lambda w: np.full(len(w), np.nan), 40)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0]]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError, match="finite values"):
        mean_interval(np.array(values))
