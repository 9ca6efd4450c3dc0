import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from eval.features import neighbours
from eval.features.neighbours import nearest_neighbours
from eval.features.votes import best_classes, knn_classify, knn_label_scores


def features(rows, width, seed):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def rounded(monkeypatch):
    """Banks of any size are first searched in bfloat16, on any CPU; the numbers of queries searched anew in float32."""
    anew = []
    search = neighbours._search

    def watched(bank, queries, k, columns, dtype=torch.float32):
        if dtype == torch.float32:
            anew.append(len(queries))
        return search(bank, queries, k, columns, dtype)

    monkeypatch.setattr(neighbours, "_search", watched)
    monkeypatch.setattr(neighbours, "_ROUNDED_FROM", (0, 0))
    monkeypatch.setattr(neighbours, "pick_precision", lambda name, device: "bf16")
    return anew


@pytest.mark.parametrize("k", [1, 30, 900])
@pytest.mark.parametrize("spread", [1.0, 0.1, 1e-3, 0.0])
def test_rounding_changes_no_neighbour(rounded, monkeypatch, k, spread):
    """Rows that differ by less and less, down to less than bfloat16 can tell, and to nothing."""
    monkeypatch.setitem(neighbours._TILE, "cpu", (16, 700))
    bank = features(1, 24, 2) + spread * features(3000, 24, 0)
    queries = features(40, 24, 1)
    found = list(nearest_neighbours(bank, queries, k))
    values, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    expected = (queries.double() @ bank.double().T).sort(dim=1, descending=True).values[:, :k]
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    again = (queries[:, None].double() * bank[places].double()).sum(2)
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == k for row in places.tolist())
    if spread == 1.0:
        assert sum(rounded) <= 4
    if spread <= 1e-3:
        assert sum(rounded) == 40


def test_a_row_that_rounding_hides_is_found(rounded):
    step = 2**-7  # of bfloat16 from 1 on
    bank = torch.tensor([[1 + 0.51 * step, 1 + 1.51 * step]]).repeat(500, 1)  # both are rounded up
    bank[77] = 1 + 1.49 * step  # both down, below all others
    query = torch.ones(1, 2)
    hidden, _, sure = neighbours._search_rounded(bank, query, 1, 65536, neighbours._lengths_of(bank, 65536))
    assert hidden.item() < bank[77].sum() and not sure
    ((values, places),) = nearest_neighbours(bank, query, 1)
    assert places.tolist() == [[77]] and values.item() == bank[77].sum()


@pytest.mark.parametrize("hidden", [0, 400, 999])
def test_the_nearest_row_is_found_where_every_rounding_speaks_against_it(rounded, hidden):
    """Query and nearest row lose 2^-8 each, as much as bfloat16 rounds, and their product half a step more. A bound with 2^-9 for
    each of the three, half of that, would be sure of a row that is second."""
    down = 1 + 2**-8  # half way, to the even 1
    query = torch.full((1, 257), down)
    query[0, -1] = 1
    bank = torch.ones(1000, 257)
    bank[:, -1] = 0  # 256 in bfloat16
    bank[500, -1] = 1.5  # 258.5, and 258 in bfloat16: always a candidate
    bank[hidden] = down
    bank[hidden, -1] = 0.98  # 258.99, and 256 in bfloat16, as all the others
    exact = (query.double() @ bank.double().T)[0]
    by_bfloat16 = (query.bfloat16() @ bank.bfloat16().T)[0].float()
    longest = (torch.linalg.vector_norm(bank, dim=1).max() * torch.linalg.vector_norm(query)).item()
    assert exact.argmax() == hidden and exact[500] - by_bfloat16.min() > (3.02 * 2**-9 + 257 * 2**-23) * longest
    ((_, places),) = nearest_neighbours(bank, query, 1)
    assert places.tolist() == [[hidden]]


@pytest.mark.parametrize("width", [1, 2, 31, 768, 4096])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e12])
def test_no_row_passes_the_bound_on_rounding(rounded, width, scale):
    """Numbers half way between two of bfloat16, and just beside half way, with either sign."""
    generator = torch.Generator().manual_seed(width)
    steps = (
        torch.randint(128, 256, (600, width), generator=generator)
        + torch.tensor([0.498, 0.5, 0.502])[torch.randint(3, (600, width), generator=generator)]
    )
    signs = torch.where(torch.rand(600, width, generator=generator) < 0.3, -1.0, 1.0)
    bank = scale * steps * signs * 2.0 ** torch.randint(-3, 3, (600, width), generator=generator)
    queries, k = bank[:20] / scale, 3
    exact = queries.double() @ bank.double().T
    best, places, sure = neighbours._search_rounded(bank, queries, k, 65536, neighbours._lengths_of(bank, 65536))
    assert sure.any()
    for query in sure.nonzero()[:, 0].tolist():
        nearest = exact[query].topk(k).values
        torch.testing.assert_close(best[query].double().sort(descending=True).values, nearest, rtol=1e-6, atol=0.0)
        assert len(set(places[query].tolist())) == k


@pytest.mark.parametrize("way", ["in float32", "by bfloat16"])
@pytest.mark.parametrize("tile", [(3, 50), (4, 33), (64, 1000)])
@pytest.mark.parametrize("k", [1, 7, 40, 257])
def test_nearest_neighbours_equal_a_full_sort(request, monkeypatch, tile, k, way):
    if way == "by bfloat16":
        request.getfixturevalue("rounded")
    monkeypatch.setitem(neighbours._TILE, "cpu", tile)
    bank, queries = features(257, 5, 0), features(10, 5, 1)
    found = list(nearest_neighbours(bank, queries, k))
    values, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    expected = (queries.double() @ bank.double().T).sort(dim=1, descending=True)
    torch.testing.assert_close(values, expected.values[:, :k].float())
    assert (places == expected.indices[:, :k]).all()


def test_grouped_search_equals_topk():
    values = features(6, 5003, 2)
    for k in (1, 20, 300):
        best, places = neighbours._top(values, k)
        torch.testing.assert_close(best.sort(dim=1, descending=True).values, values.topk(k).values, rtol=0, atol=0)
        assert (values.gather(1, places) == best).all()


def test_memory_is_bounded_by_the_tile(monkeypatch):
    monkeypatch.setitem(neighbours._TILE, "cpu", (8, 100))
    largest = 0
    top = neighbours._top

    def watched(values, k):
        nonlocal largest
        largest = max(largest, values.numel())
        return top(values, k)

    monkeypatch.setattr(neighbours, "_top", watched)
    assert sum(len(v) for v, _ in nearest_neighbours(features(1050, 4, 0), features(50, 4, 1), 10)) == 50
    assert largest == 800


def vote_by_hand(bank, labels, query, k, temperature):
    """The definition, one neighbour at a time."""
    similar = sorted(((F.cosine_similarity(row, query, dim=0).item(), y) for row, y in zip(bank, labels, strict=True)))
    votes = {}
    for similarity, label in similar[-k:]:
        for one in np.atleast_1d(label):
            votes[int(one)] = votes.get(int(one), 0.0) + math.exp(similarity / temperature)
    return votes


def test_votes_equal_their_definition():
    bank, queries = features(90, 6, 0) * 3, features(12, 6, 1) * 0.1  # not normalised
    labels = torch.arange(90) % 11
    guesses = knn_classify(bank, labels, queries, [1, 4, 30], 0.07, 11)
    for k, found in guesses.items():
        for query, guess in zip(queries, found, strict=True):
            votes = vote_by_hand(bank, labels.tolist(), query, k, 0.07)
            best = sorted(votes, key=votes.get, reverse=True)[:5]
            assert guess.tolist()[: len(best)] == best
            assert len(set(guess.tolist())) == 5


def test_some_rows_of_a_bank_are_a_bank(monkeypatch):
    monkeypatch.setattr("eval.features.votes.TOGETHER", 7)
    bank, queries, rows = features(50, 6, 0), features(9, 6, 1), torch.tensor([1, 3, 4, 8, 9, 20, 21, 22, 30, 49])
    labels = rows % 4
    found = knn_classify(bank, labels, queries, [5], 0.07, 4, bank_rows=rows)[5]
    assert (found == knn_classify(bank[rows], labels, queries, [5], 0.07, 4)[5]).all()


def test_label_scores_equal_their_definition():
    bank, queries = features(50, 6, 0), features(7, 6, 1)
    truth = features(50, 4, 2) > 0.5
    scores = knn_label_scores(bank, truth, queries, [3, 20], 0.1)
    sets = [np.flatnonzero(row.numpy()) for row in truth]
    for k, found in scores.items():
        assert found.min() >= 0 and found.max() <= 1 + 1e-6
        for query, score in zip(queries, found, strict=True):
            similar = (F.normalize(bank, dim=1) @ F.normalize(query, dim=0)).sort(descending=True)
            weights = (similar.values[:k].double() / 0.1).exp()
            expected = torch.zeros(4, dtype=torch.float64)
            for weight, place in zip(weights, similar.indices[:k], strict=True):
                expected[sets[place]] += weight
            torch.testing.assert_close(score.double(), expected / weights.sum(), rtol=1e-4, atol=1e-6)


def test_one_search_for_several_k_equals_several_searches():
    bank, queries, labels = features(300, 8, 0), features(40, 8, 1), torch.arange(300) % 7
    together = knn_classify(bank, labels, queries, [200, 5, 20], 0.07, 7)
    for k, guesses in together.items():
        assert (knn_classify(bank, labels, queries, [k], 0.07, 7)[k] == guesses).all()


def test_any_number_of_classes_and_images():
    bank, labels = features(5, 3, 0), torch.tensor([0, 1, 1, 0, 1])
    assert knn_classify(bank, labels, bank[:1], [5], 0.07, 2)[5].shape == (1, 2)
    assert (knn_classify(bank, labels, bank, [1], 0.07, 2)[1][:, 0] == labels).all()
    labels = torch.tensor([0, 70_000, 3, 69_999, 5])
    assert (knn_classify(bank, labels, bank, [1], 0.07, 70_001)[1][:, 0] == labels).all()


def test_small_temperatures_do_not_overflow():
    bank, labels = features(30, 4, 0), torch.arange(30) % 3
    for temperature in (1e-4, 1e-8):
        guesses = knn_classify(bank, labels, bank, [10], temperature, 3)[10]
        assert (guesses[:, 0] == labels).all()  # the nearest (itself) outvotes all others


def test_ties_are_ranked_as_the_reference_ranks_them():
    scores = torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 0.0]])
    assert best_classes(scores).tolist() == scores.sort(1, True).indices[:, :5].tolist()


@pytest.mark.parametrize(
    "ks, temperature, message",
    [
        ([6], 0.07, "k = 6, but the bank has only 5"),
        ([0], 0.07, "at least 1"),
        ([], 0.07, "none"),
        ([1], 0.0, "above 0"),
    ],
)
def test_wrong_options(ks, temperature, message):
    with pytest.raises(UserError, match=message):
        knn_classify(features(5, 3, 0), torch.zeros(5, dtype=torch.int64), features(2, 3, 1), ks, temperature, 1)


def test_unlabelled_images_in_the_bank_are_refused():
    with pytest.raises(UserError, match="labels from -1 to 1"):
        knn_classify(features(3, 3, 0), torch.tensor([-1, 0, 1]), features(2, 3, 1), [1], 0.07, 2)
