import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from common.statistics.average_precision import average_precision, mean_average_precision


@pytest.mark.parametrize("levels", [4, 10**6])  # with many ties, with hardly any
def test_equals_sklearn(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(0, levels, 120) / levels
    positives = rng.random(120) < 0.2
    weights = rng.integers(0, 3, (20, 120)).astype(float)
    expected = [average_precision_score(positives, scores, sample_weight=w) for w in weights]
    np.testing.assert_allclose(average_precision(scores, positives, weights), expected, atol=1e-12)


def test_weights_are_repetitions():
    rng = np.random.default_rng(0)
    scores, positives = rng.random(60), rng.random(60) < 0.3
    weights = rng.integers(0, 4, 60)
    repeated = average_precision_score(np.repeat(positives, weights), np.repeat(scores, weights))
    assert average_precision(scores, positives, weights[None])[0] == pytest.approx(repeated)


def test_classes_without_positives_do_not_count():
    scores = np.random.default_rng(1).random((30, 3))
    truth = np.zeros((30, 3), bool)
    truth[:5, 0] = truth[3:9, 1] = True
    expected = np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in (0, 1)])
    statistic = mean_average_precision(scores, truth)
    assert statistic(np.ones((1, 30)))[0] == pytest.approx(expected)
    # A resample that lacks the first class altogether.
    weights = np.ones((1, 30))
    weights[0, :5] = 0
    only_second = average_precision(scores[:, 1], truth[:, 1], weights)[0]
    assert statistic(weights)[0] == pytest.approx(only_second)
