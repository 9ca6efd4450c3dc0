import pytest
import torch
import torch.nn.functional as F

from eval.dense import propagation
from eval.dense.propagation import TILE, propagate


def full_matrix(target, sources, labels, radius, topk, temperature):
    """The reference's way: every patch against every other, then a mask, the best and their weights."""
    height, width, _ = target.shape
    affinity = (
        F.normalize(target, dim=-1).flatten(0, 1) @ F.normalize(sources, dim=-1).flatten(0, 2).T / temperature
    ).exp()
    rows = torch.arange(height).repeat_interleave(width)
    columns = torch.arange(width).repeat(height)
    near = ((rows[:, None] - rows).abs() <= radius) & ((columns[:, None] - columns).abs() <= radius)
    affinity *= near.repeat(1, len(sources))
    affinity[affinity < affinity.topk(topk, dim=1).values[:, -1:]] = 0
    affinity /= affinity.sum(1, keepdim=True)
    return (affinity @ labels.flatten(0, 2)).view(height, width, -1)


def random_frames(height, width, sources, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(sources + 1, height, width, 7, generator=generator)
    return features[0], features[1:], torch.randn(sources, height, width, classes, generator=generator).softmax(-1)


@pytest.mark.parametrize("sources", [1, 3])
@pytest.mark.parametrize(
    "height, width, radius",
    [(30, 52, 12), (7, 5, 2), (13, 26, 12), (24, 12, 3), (5, 6, 6), (TILE, TILE, 1), (9, 40, 0)],
)
def test_equals_the_full_masked_matrix(height, width, radius, sources):
    frames = random_frames(height, width, sources)
    topk = min(5, sources * (radius + 1) ** 2)
    found = propagate(*frames, radius, topk, 0.1)
    torch.testing.assert_close(found, full_matrix(*frames, radius, topk, 0.1), rtol=1e-5, atol=1e-6)


def test_ties_with_the_last_count_as_in_the_full_matrix():
    target, sources, labels = random_frames(6, 8, 2)
    sources = sources[:1, :, :1].expand(2, -1, 8, -1)  # equal along rows, and in both frames
    found = propagate(target, sources, labels, 3, 2, 0.1)
    torch.testing.assert_close(found, full_matrix(target, sources, labels, 3, 2, 0.1), rtol=1e-5, atol=1e-5)


def test_a_corner_has_fewer_candidates_than_wanted():
    target, sources, labels = random_frames(5, 5, 1)
    found = propagate(target, sources, labels, 1, 9, 0.1)
    assert found.isfinite().all()
    torch.testing.assert_close(found, full_matrix(target, sources, labels, 1, 9, 0.1), rtol=1e-5, atol=1e-6)


def test_memory_does_not_grow_with_the_height(monkeypatch):
    largest = {}

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not result._is_view():
                largest[height] = max(largest.get(height, 0), result.numel())
            return result

    for height in (24, 96):
        frames = random_frames(height, 24, 2)
        with Watched():
            propagate(*frames, 4, 5, 0.1)
    assert propagation.TILE == 12
    assert largest[96] == largest[24]  # a row of tiles, its window and both sources
    assert largest[96] < 2 * (96 * 24) ** 2 / 8
