"""Retrieval metrics against their definitions in plain loops, and as an evaluation."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from eval import retrieval
from eval.core.base import EVALUATIONS
from eval.retrieval import METRICS, Retrieval, has_relevant, retrieval_scores
from rundir.results import names_hash


def by_hand(gallery, gallery_sets, queries, query_sets):
    """Precision at 1, R-precision and MAP@R of each query; labels as sets."""
    results = {metric: [] for metric in METRICS}
    for query, wanted in zip(queries.astype(np.float64), query_sets, strict=True):
        similarity = [
            sum(a * b for a, b in zip(query, row, strict=True)) / np.sqrt((query**2).sum() * (row**2).sum())
            for row in gallery.astype(np.float64)
        ]
        ranking = sorted(range(len(gallery)), key=lambda i: -similarity[i])
        relevant = [bool(wanted & gallery_sets[i]) for i in ranking]
        R = sum(relevant)
        results["precision_at_1"].append(float(relevant[0]))
        results["r_precision"].append(sum(relevant[:R]) / R)
        precisions = [sum(relevant[: rank + 1]) / (rank + 1) if relevant[rank] else 0.0 for rank in range(R)]
        results["map_at_r"].append(sum(precisions) / R)
    return results


def features(n, seed, d=6):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("chunk", [256, 7])
def test_single_labels(monkeypatch, chunk):
    monkeypatch.setattr(retrieval, "_CHUNK", chunk)
    rng = np.random.default_rng(3)
    gallery, queries = features(60, 0), features(20, 1)
    # Classes of very different sizes: R differs between the queries of a chunk.
    gallery_labels = np.concatenate([np.arange(5), rng.choice(5, 55, p=[0.6, 0.2, 0.1, 0.05, 0.05])])
    query_labels = rng.integers(0, 5, 20)
    expected = by_hand(gallery, [{x} for x in gallery_labels], queries, [{x} for x in query_labels])
    found = retrieval_scores(*map(torch.from_numpy, (gallery, gallery_labels, queries, query_labels)))
    assert found.keys() == expected.keys()
    for metric, values in expected.items():
        np.testing.assert_allclose(found[metric], values, rtol=0, atol=1e-12, err_msg=metric)
    assert 0 < np.mean(expected["map_at_r"]) < np.mean(expected["r_precision"]) < 1


def test_several_labels():
    rng = np.random.default_rng(4)
    gallery, queries = features(50, 0), features(15, 1)
    gallery_sets, query_sets = rng.random((50, 4)) < 0.25, rng.random((15, 4)) < 0.4
    gallery_sets[:4] |= np.eye(4, dtype=bool)
    query_sets[np.arange(15), np.arange(15) % 4] = True
    sets = [[set(np.flatnonzero(row)) for row in rows] for rows in (gallery_sets, query_sets)]
    expected = by_hand(gallery, sets[0], queries, sets[1])
    found = retrieval_scores(*map(torch.from_numpy, (gallery, gallery_sets, queries, query_sets)))
    for metric, values in expected.items():
        np.testing.assert_allclose(found[metric], values, rtol=0, atol=1e-12, err_msg=metric)


def test_rows_of_a_gallery_are_the_gallery_of_these_rows():
    gallery, labels = torch.from_numpy(features(40, 0)).double(), torch.arange(40) % 3
    queries, rows = torch.from_numpy(features(5, 1)), torch.tensor([7, 0, 39, 2, 20, 13, 4])
    about = (labels[rows], queries, torch.tensor([0, 1, 2, 0, 1]))
    found, expected = retrieval_scores(gallery, *about, gallery_rows=rows), retrieval_scores(gallery[rows], *about)
    assert all((found[metric] == expected[metric]).all() for metric in METRICS)


def test_perfect_and_hopeless_rankings():
    gallery = torch.eye(2).repeat_interleave(3, 0)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    perfect = retrieval_scores(gallery, labels, torch.eye(2), torch.tensor([0, 1]))
    hopeless = retrieval_scores(gallery, labels, torch.eye(2), torch.tensor([1, 0]))
    assert all((values == 1).all() for values in perfect.values())
    assert all((values == 0).all() for values in hopeless.values())


def test_queries_that_can_find_nothing():
    assert has_relevant(torch.tensor([0, 2]), torch.tensor([0, 1, 2])).tolist() == [True, False, True]
    sets = torch.tensor([[True, False, False], [True, True, False]])
    assert has_relevant(sets, ~sets).tolist() == [True, False]
    with pytest.raises(ValueError, match="relevant"):
        retrieval_scores(torch.eye(2), torch.tensor([0, 2]), torch.eye(2), torch.tensor([0, 1]))


def test_features_that_are_not_finite():
    with pytest.raises(UserError, match="not finite"):
        retrieval_scores(torch.full((2, 2), torch.nan), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 1]))


def test_evaluation(make_test_context):
    context = make_test_context()
    assert EVALUATIONS.get("retrieval") is Retrieval
    # Class 5 is hidden in the training split: its test images are no queries.
    hidden = context.train.labels.copy()
    hidden[hidden == 5] = -1
    context.train._labels = hidden
    evaluation = Retrieval(Retrieval.Config())
    assert evaluation.feature_kinds(context) == ["pooled"]
    measurements = {m.metric: m for m in evaluation.run(context)}
    assert list(measurements) == list(METRICS)
    rows = np.flatnonzero(context.test.labels != 5)
    bank = hidden >= 0
    expected = by_hand(
        context.features("train").numpy()[bank],
        [{x} for x in hidden[bank]],
        context.features("test").numpy()[rows],
        [{x} for x in context.test.labels[rows]],
    )
    for metric, measured in measurements.items():
        assert measured.n == 40 and measured.protocol["left_out"] == 8
        assert measured.value == pytest.approx(100 * np.mean(expected[metric]))
        assert measured.low < measured.value < measured.high and "queries" in measured.interval
        with np.load(context.run_dir / measured.predictions) as saved:
            np.testing.assert_allclose(saved[metric], expected[metric], atol=1e-12)
            assert str(saved["names_hash"]) == names_hash([context.test.names[row] for row in rows])


def test_nothing_to_retrieve(make_test_context):
    context = make_test_context()
    context.train._labels = np.where(context.train.labels == 0, 0, -1)
    context.test._labels = np.where(context.test.labels == 0, -1, context.test.labels)
    with pytest.raises(UserError, match="nothing can be retrieved"):
        Retrieval(Retrieval.Config()).run(context)
