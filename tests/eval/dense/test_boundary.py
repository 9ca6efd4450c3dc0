import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from eval.dense.boundary import boundary_f, contour, recall_and_decay, region_jaccard


def blobs(height, width, seed):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(rng.integers(1, 5)):
        y, x, radius = rng.integers(height), rng.integers(width), rng.integers(2, max(3, height // 3))
        mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return mask


def contour_by_hand(mask):
    """The definition, a pixel at a time: differs from the right, the lower or the lower right pixel."""
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            for down, right in ((0, 1), (1, 0), (1, 1)):
                if y + down < height and x + right < width:
                    result[y, x] |= mask[y, x] != mask[y + down, x + right]
    return result


def f_by_dilation(mask, truth):
    """The definition: contours dilated by a disk."""
    radius = int(np.ceil(0.008 * np.linalg.norm(mask.shape)))
    steps = np.arange(-radius, radius + 1)
    disk = steps[:, None] ** 2 + steps**2 <= radius**2
    found, wanted = contour_by_hand(mask), contour_by_hand(truth)
    if not found.any() or not wanted.any():
        return float(found.any() == wanted.any())
    precision = (found & binary_dilation(wanted, disk)).sum() / found.sum()
    recall = (wanted & binary_dilation(found, disk)).sum() / wanted.sum()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(12))
def test_contours_and_their_f_measure_equal_the_definition(seed):
    height, width = ((40, 70), (150, 97), (200, 220))[seed % 3]
    mask, truth = blobs(height, width, seed), blobs(height, width, seed if seed % 4 == 0 else seed + 100)
    truth = np.roll(truth, seed, axis=(0, 1))
    assert (contour(mask) == contour_by_hand(mask)).all()
    assert boundary_f(mask, truth) == pytest.approx(f_by_dilation(mask, truth), abs=1e-12)


def test_equal_empty_and_full_masks():
    mask, empty, full = blobs(30, 40, 0), np.zeros((30, 40), bool), np.ones((30, 40), bool)
    assert boundary_f(mask, mask) == region_jaccard(mask, mask) == 1
    assert boundary_f(empty, mask) == boundary_f(mask, empty) == region_jaccard(mask, empty) == 0
    assert boundary_f(empty, empty) == region_jaccard(empty, empty) == 1
    assert boundary_f(full, empty) == 1  # neither has a contour within the image
    assert region_jaccard(full, mask) == mask.mean()


def test_one_pixel_apart_matches_and_far_apart_does_not():
    truth = np.zeros((480, 854), bool)
    truth[100:200, 100:200] = True
    assert boundary_f(np.roll(truth, 8, 1), truth) == 1  # ⌈0.008 · 979.7⌉ pixels
    assert boundary_f(np.roll(truth, 300, 1), truth) == 0
    assert 0 < boundary_f(np.roll(truth, 12, 1), truth) < 1


def test_recall_and_decay():
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    recall, decay = recall_and_decay(values)
    assert recall == pytest.approx(4 / 9)  # 0.5 is not above 0.5
    assert decay == pytest.approx(0.8 - 0.2)  # quarters of three frames, which share their ends
    assert recall_and_decay(np.array([0.7, 0.1])) == (0.5, pytest.approx(0.6))
