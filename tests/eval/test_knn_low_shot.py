"""k-NN from a bank of few labels."""

from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F

from common.errors import UsageError, UserError
from data.label_subset import drawn_part, listed_part
from eval.core.run import run_evaluations
from eval.knn import KNNConfig
from eval.knn_low_shot import KNNLowShotConfig


@pytest.fixture
def names_list(colours, tmp_path):
    """Five training images of each class, under their folders' names as ``1percent.txt`` has none."""
    file = tmp_path / "25percent.txt"
    file.write_text("".join(f"class{label}/{i}.png\n" for label in range(6) for i in range(5)))
    return file


def vote_by_hand(context, rows, k, temperature=0.07):
    bank = F.normalize(context.features("train")[rows], dim=1).double()
    labels = context.train.labels[rows]
    hits = []
    for query, truth in zip(F.normalize(context.features("test"), dim=1).double(), context.test.labels, strict=True):
        votes = np.zeros(6)
        similar = (bank @ query).numpy()
        for place in np.argsort(-similar)[:k]:
            votes[labels[place]] += np.exp(similar[place] / temperature)
        hits.append(votes.argmax() == truth)
    return 100 * np.mean(hits)


def test_the_bank_is_a_part_of_every_class(make_test_context):
    context = make_test_context()
    config = KNNLowShotConfig(fractions=[0.1, 0.5], ks=[3, 5])
    found = run_evaluations(["knn_low_shot"], {"knn_low_shot": config}, context)
    top1 = {(m.protocol["labelled_images"], m.protocol["k"]): m for m in found if m.metric == "top1"}
    assert set(top1) == {(12, 3), (12, 5), (60, 3), (60, 5)}
    for fraction, size in ((0.1, 12), (0.5, 60)):
        rows, _ = drawn_part(context.train, fraction, 0)
        assert np.bincount(context.train.labels[rows]).tolist() == [size // 6] * 6
        for k in (3, 5):
            assert top1[size, k].value == pytest.approx(vote_by_hand(context, rows, k))
    assert len({m.predictions for m in found}) == 4
    assert top1[12, 3].protocol["labels"] == "10% of each class, drawn by seed 0"


def test_all_labels_are_knn(make_test_context):
    context = make_test_context()
    configs = {"knn": KNNConfig(ks=[7]), "knn_low_shot": KNNLowShotConfig(fractions=[1.0], ks=[7])}
    found = [m.value for m in run_evaluations(["knn", "knn_low_shot"], configs, context)]
    assert found[: len(found) // 2] == found[len(found) // 2 :]


def test_other_seeds_draw_others(make_test_context):
    store = make_test_context().train
    first, again, other = (drawn_part(store, 0.1, seed)[0] for seed in (0, 0, 1))
    assert (first == again).all()
    assert set(first) != set(other)
    assert len(drawn_part(store, 0.001, 0)[0]) == 6  # one of each class at least


def test_a_list_says_which(make_test_context, names_list):
    context = make_test_context()
    config = KNNLowShotConfig(lists=[str(names_list)], ks=[5])
    (m, *_) = run_evaluations(["knn_low_shot"], {"knn_low_shot": config}, context)
    rows = [i for i, name in enumerate(context.train.names) if int(Path(name).stem) < 5]
    assert m.value == pytest.approx(vote_by_hand(context, np.array(rows), 5))
    assert (m.protocol["labels"], m.protocol["labelled_images"]) == ("list 25percent.txt", 30)
    names_list.write_text("".join(f"class{label}/{i}.png\n" for label in range(6) for i in range(5, 10)))
    (other, *_) = run_evaluations(["knn_low_shot"], {"knn_low_shot": config}, context)
    assert other.request != m.request  # another list under the same name


def test_damaged_images_on_a_list_are_counted(make_test_context, names_list):
    store = make_test_context().train
    store.damaged.append(("train/class0/gone.png", "empty file"))
    names_list.write_text("class0/1.png\ngone.png\n")
    rows, about = listed_part(store, names_list)
    assert (len(rows), about["damaged"]) == (1, 1)


@pytest.mark.parametrize(
    "text, message",
    [
        ("class0/1.png\nother.png", r"other\.png is no training image of imagefolder"),
        ("1.png", r"1\.png is the name of 6 training images"),
        ("class0/1.png\nclass0/1.png", "names some images twice"),
        ("\n", "names no images"),
    ],
)
def test_wrong_lists(make_test_context, names_list, text, message):
    names_list.write_text(text)
    with pytest.raises(UserError, match=message):
        listed_part(make_test_context().train, names_list)


def test_wrong_options(make_test_context, tmp_path):
    with pytest.raises(UsageError, match=r"--knn_low_shot_fractions 1\.5"):
        run_evaluations(["knn_low_shot"], {"knn_low_shot": KNNLowShotConfig(fractions=[1.5])}, make_test_context())
    with pytest.raises(UserError, match="k = 10, 20, but the bank has only 6 labelled images; give"):
        run_evaluations(["knn_low_shot"], {"knn_low_shot": KNNLowShotConfig(fractions=[0.01])}, make_test_context())
    with pytest.raises(UserError, match=r"none\.txt"):
        config = KNNLowShotConfig(lists=[str(tmp_path / "none.txt")], ks=[1])
        run_evaluations(["knn_low_shot"], {"knn_low_shot": config}, make_test_context())
