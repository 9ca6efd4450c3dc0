import numpy as np
import pytest

from common.errors import UsageError, UserError
from data.pairing import labelled, make_pairing


def pair(labels, anchors, views=4, paired=None, fraction=1.0, label_sets=None, seed=0):
    usable = labelled(np.asarray(labels), label_sets, fraction, seed)
    pairing = make_pairing("same_label", np.asarray(labels), label_sets, views, paired, usable)
    return pairing.sources(np.asarray(anchors), np.random.default_rng(seed))


def test_same_image_repeats_the_anchor():
    pairing = make_pairing("same_image", np.array([0, 1]), None, 3, None, np.ones(2, bool))
    assert pairing.sources(np.array([1, 0, 1]), np.random.default_rng(0)).tolist() == [[1, 0, 1]] * 3


def test_views_come_from_different_images_of_the_label():
    labels = np.random.default_rng(1).integers(0, 5, 200)
    anchors = np.random.default_rng(2).integers(0, 200, 1024)
    sources = pair(labels, anchors, views=10)
    assert sources.shape == (10, 1024) and sources.dtype == np.int64
    assert (sources[0] == anchors).all()
    assert (labels[sources] == labels[anchors]).all()
    assert all(len(set(column)) == 10 for column in sources.T)  # neither the anchor nor any other image twice


def test_every_other_image_is_equally_likely_in_every_view():
    labels = np.array([0, 1, 0, 1, 0, 0, 1, 0, 0])  # class 0 has six images, the anchor is its third
    draws = 30_000
    sources = pair(labels, np.full(draws, 4), views=4)
    others = np.array([0, 2, 5, 7, 8])
    for view in sources[1:]:
        share = np.bincount(view, minlength=9)[others] / draws
        assert abs(share - 1 / 5).max() < 5 * np.sqrt(0.16 / draws)  # five standard deviations
    # and independent of which image an earlier view has, among those left
    after = sources[2][sources[1] == 8]
    share = np.bincount(after, minlength=9)[[0, 2, 5, 7]] / len(after)
    assert abs(share - 1 / 4).max() < 5 * np.sqrt(0.1875 / len(after))


def test_the_largest_class_without_repeats_and_the_smallest_with():
    assert {tuple(sorted(c)) for c in pair([0] * 4, [0] * 50, views=4).T} == {(0, 1, 2, 3)}
    sources = pair([0] * 3, [1] * 2000, views=4)[1:]
    assert set(sources.ravel()) == {0, 2}  # never the anchor, though images repeat
    assert abs((sources == 0).mean() - 0.5) < 0.05


def test_alone_or_unlabelled_anchors_stand_for_themselves():
    assert (pair([0, 1, 1, -1], [0, 3, 0], views=3) == [[0, 3, 0]] * 3).all()


def test_only_the_named_views_are_paired():
    sources = pair([0] * 20, [5] * 30, views=4, paired=[1, 3])
    assert (sources[[0, 2]] == 5).all() and (sources[[1, 3]] != 5).all()
    assert (pair([0] * 20, [5] * 30, views=2, paired=[0])[1] == 5).all()
    assert (pair([0] * 20, [5] * 30, views=2, paired=[]) == 5).all()


def test_only_images_whose_label_may_be_used_take_part():
    labels = np.repeat([0, 1, 2], 100)
    usable = labelled(labels, None, 0.1, 3)
    anchors = np.arange(300)
    pairing = make_pairing("same_label", labels, None, 4, None, usable)
    sources = pairing.sources(anchors, np.random.default_rng(0))
    assert (sources[:, ~usable] == anchors[~usable]).all()
    assert usable[sources[1:, usable]].all()
    assert (sources[1:, usable] != anchors[usable]).all()


def test_several_labels_share_one_with_every_view():
    sets = np.random.default_rng(0).random((80, 6)) < 0.3
    anchors = np.arange(80)
    sources = pair(np.full(80, -1), anchors, views=5, label_sets=sets)
    for column, anchor in zip(sources.T, anchors, strict=True):
        if not sets[anchor].any():
            assert (column == anchor).all()
        else:
            assert sets[column].all(axis=0).any()  # one label that all views have
            assert anchor not in column[1:]


def test_several_labels_are_all_used_and_one_shared_with_nobody_is_not():
    sets = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
    sources = pair(np.full(4, -1), [0] * 600, views=2, label_sets=sets)[1]
    assert abs((sources == 1).mean() - 0.5) < 0.1 and set(sources) == {1, 2, 3}


def test_sources_depend_on_the_generator_alone():
    pairing = make_pairing("same_label", np.repeat([0, 1], 50), None, 4, None, np.ones(100, bool))
    first, again, other = (pairing.sources(np.arange(100), np.random.default_rng(s)) for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_labelled_is_stratified(fraction):
    labels = np.repeat([0, 1, 2, -1], [1000, 100, 3, 50])
    usable = labelled(labels, None, fraction, 0)
    for label, size in enumerate((1000, 100, 3)):
        assert usable[labels == label].sum() == max(1, round(fraction * size))
    assert not usable[labels == -1].any()


def test_labelled_is_drawn_by_seed_and_nested():
    labels = np.repeat(np.arange(5), 100)
    assert (labelled(labels, None, 0.1, 0) == labelled(labels, None, 0.1, 0)).all()
    assert (labelled(labels, None, 0.1, 0) != labelled(labels, None, 0.1, 1)).any()
    assert labelled(labels, None, 0.5, 0)[labelled(labels, None, 0.1, 0)].all()


def test_labelled_with_several_labels():
    sets = np.random.default_rng(0).random((500, 4)) < [0.5, 0.2, 0.05, 0.01]
    usable = labelled(np.full(500, -1), sets, 0.1, 0)
    for label in range(4):
        assert (usable & sets[:, label]).sum() >= max(1, round(0.1 * sets[:, label].sum()))
    assert usable.sum() < 0.2 * 500 and not usable[~sets.any(axis=1)].any()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(UsageError, match="label_fraction"):
        labelled(np.zeros(4, np.int64), None, fraction, 0)


def test_wrong_pairings_are_refused():
    labels, usable = np.zeros(4, np.int64), np.ones(4, bool)
    with pytest.raises(UsageError, match="unknown pairing 'same_class'"):
        make_pairing("same_class", labels, None, 2, None, usable)
    for paired in ([2], [-1], [1, 1]):
        with pytest.raises(UsageError, match="paired_views"):
            make_pairing("same_label", labels, None, 2, paired, usable)
    with pytest.raises(UserError, match="needs labels"):
        make_pairing("same_label", labels - 1, None, 2, None, ~usable)


def test_seeded_draws_are_what_they_were():
    """By an index of six numbers of 64 bits an image, before that of two of 32."""
    rng = np.random.default_rng(0)
    labels, sets = rng.integers(-1, 4, 30), rng.random((30, 5)) < 0.3
    anchors = np.arange(8)
    assert pair(labels, anchors, 3, seed=7).tolist()[1:] == [[25, 22, 18, 24, 20, 5, 6, 7], [19, 29, 12, 4, 3, 5, 6, 7]]
    half = pair(labels, anchors, 3, fraction=0.5, seed=7)
    assert half.tolist()[1:] == [[21, 1, 2, 4, 3, 5, 6, 7], [14, 1, 2, 4, 3, 5, 6, 7]]
    several = pair(labels, anchors, 3, label_sets=sets, seed=7)
    assert several.tolist()[1:] == [[18, 19, 2, 28, 4, 5, 7, 0], [8, 7, 2, 27, 4, 5, 25, 6]]
