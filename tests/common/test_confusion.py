import numpy as np
import pytest
import torch

from common.statistics.bootstrap import resample_counts
from common.statistics.confusion import bootstrap_scores, class_scores, confusion_matrix, scores


def random_images(count: int, classes: int, absent: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shape = tuple(rng.integers(5, 20, size=2))
        mask = rng.integers(0, classes, size=shape).astype(np.uint8)
        mask[mask == absent] = 0
        predicted = np.where(rng.random(shape) < 0.6, mask, rng.integers(0, classes, size=shape))
        predicted[predicted == absent] = 1
        mask[rng.random(shape) < 0.2] = 255
        yield predicted, mask


def test_equals_a_count_by_hand_and_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex  # two seconds, which only this test needs

    classes, absent = 6, 4
    total = np.zeros((classes, classes), dtype=np.int64)
    brute = np.zeros((classes, classes), dtype=np.int64)
    metric = MulticlassJaccardIndex(classes, ignore_index=255)
    for predicted, mask in random_images(8, classes, absent):
        total += confusion_matrix(predicted, mask, classes)
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                if mask[y, x] != 255:
                    brute[mask[y, x], predicted[y, x]] += 1
        metric.update(torch.from_numpy(predicted.astype(np.int64))[None], torch.from_numpy(mask.astype(np.int64))[None])
    assert (total == brute).all()
    assert scores(total)["miou"] == pytest.approx(100 * metric.compute().item(), abs=1e-4)
    assert np.isnan(class_scores(total)["iou"][absent])


def test_scores_of_a_small_matrix():
    matrix = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    by_class = class_scores(matrix)
    assert by_class["iou"][:2] == pytest.approx([3 / 6, 4 / 7])
    assert by_class["recall"][:2] == pytest.approx([3 / 4, 4 / 6])
    assert by_class["precision"][:2] == pytest.approx([3 / 5, 4 / 5])
    assert np.isnan(by_class["f1"][2])
    assert scores(matrix)["pixel_accuracy"] == pytest.approx(70.0)


def test_a_class_only_predicted_counts_as_zero():
    matrix = np.array([[3, 1], [0, 0]])
    assert scores(matrix)["miou"] == pytest.approx(100 * (0.75 + 0) / 2)
    assert scores(matrix)["recall"] == pytest.approx(75.0)


def test_bootstrap_equals_resampling_by_hand():
    matrices = np.stack([confusion_matrix(p, m, 5) for p, m in random_images(12, 5, 3)])
    fast = bootstrap_scores(matrices, resamples=50, seed=3)["miou"]
    counts = np.bincount(np.random.default_rng(3).integers(12, size=(50, 12))[0], minlength=12)
    (all_counts,) = resample_counts(12, 50, seed=3)
    assert (all_counts[0] == counts).all()
    slow = [scores(sum(c * m for c, m in zip(row, matrices, strict=True)))["miou"] for row in all_counts]
    assert fast == pytest.approx(slow)


def test_refuses_what_cannot_be_counted():
    with pytest.raises(ValueError, match="differ in size"):
        confusion_matrix(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        confusion_matrix(np.zeros((2, 2), int), np.full((2, 2), 7), 2)
