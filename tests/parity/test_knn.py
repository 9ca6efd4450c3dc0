"""Weighted k-NN against the authors' (tests/golden/knn.npz): exact counts."""

import numpy as np
import torch

from eval.features.votes import knn_classify


def test_equals_reference(golden):
    arrays = golden("knn")
    ks = [int(k) for k in arrays["ks"]]
    truth = torch.from_numpy(arrays["test_labels"])
    guesses = knn_classify(
        torch.from_numpy(arrays["train_features"]),
        torch.from_numpy(arrays["train_labels"]),
        torch.from_numpy(arrays["test_features"]),
        ks,
        float(arrays["temperature"]),
        int(arrays["train_labels"].max()) + 1,
    )
    hits = {k: (guesses[k] == truth[:, None]).numpy() for k in ks}
    top1 = [100 * hits[k][:, 0].sum() / len(truth) for k in ks]
    top5 = [100 * hits[k][:, : min(5, k)].sum() / len(truth) for k in ks]
    np.testing.assert_array_equal(top1, arrays["top1"])
    np.testing.assert_array_equal(top5, arrays["top5"])
