import numpy as np
import pytest

from common.statistics.retrieval_map import retrieval_map

RANKS = np.array([[3, 1, 4, 0, 2]]).T


def test_by_hand():
    # Without junk 1, the positives 3 and 0 are at places 0 and 2.
    aps, precisions = retrieval_map(RANKS, [[3, 0]], [[1]], cutoffs=[1, 2, 10])
    assert aps.tolist() == [pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)]
    assert precisions.tolist() == [[1.0, 0.5, pytest.approx(2 / 3)]]  # the last cut-off is lowered to 3


def test_queries_without_positives_do_not_count():
    aps, precisions = retrieval_map(np.repeat(RANKS, 2, 1), [[3], []], [[], [1]])
    assert aps[0] == 1.0 and np.isnan(aps[1])
    assert precisions[0].tolist() == [1.0, 1.0, 1.0] and np.isnan(precisions[1]).all()


def test_wrong_input():
    with pytest.raises(ValueError, match="no query"):
        retrieval_map(RANKS, [[]], [[]])
    with pytest.raises(ValueError, match="0 of its 1 positives"):
        retrieval_map(RANKS, [[9]], [[]])
    with pytest.raises(ValueError, match="positives of 2"):
        retrieval_map(RANKS, [[1], [2]], [[]])
