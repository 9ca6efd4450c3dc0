"""Revisited Oxford/Paris mean average precision against the authors' (tests/golden/retrieval_map.npz)."""

import numpy as np

from common.statistics.retrieval_map import retrieval_map


def test_equals_reference(golden):
    arrays = golden("retrieval_map")
    queries = range(arrays["ranks"].shape[1])
    aps, precisions = retrieval_map(
        arrays["ranks"], [arrays[f"ok_{q}"] for q in queries], [arrays[f"junk_{q}"] for q in queries], arrays["kappas"]
    )
    assert abs(np.nanmean(aps) - arrays["map"]) < 1e-9
    np.testing.assert_array_equal(np.isnan(aps), np.isnan(arrays["aps"]))
    np.testing.assert_allclose(aps, arrays["aps"], rtol=0, atol=1e-9, equal_nan=True)
    np.testing.assert_allclose(np.nanmean(precisions, axis=0), arrays["mp_at_k"], rtol=0, atol=1e-9)
