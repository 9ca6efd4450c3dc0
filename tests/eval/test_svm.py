"""Support vector machines on a tiny data set in VOC 2007's layout."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from common.errors import UsageError, UserError
from common.statistics.average_precision import interpolated_precision
from data.datasets import open_dataset
from data.sets.voc2007 import difficult_only
from eval.core.context import make_context
from eval.core.options import WeightsOptions
from eval.core.run import run_evaluations
from eval.knn import KNNConfig
from eval.svm import SVMConfig
from reports.analysis.outcomes import outcomes_of

COLOURS = {"cat": (220, 40, 40), "dog": (40, 220, 40), "cow": (40, 40, 220)}
COSTS = [0.1, 0.5, 5.0]


def write_voc2007(root: Path) -> Path:
    """Stripes of the classes' colours over heavy noise. Every sixth image has a difficult dog; one has nothing else."""
    rng = np.random.default_rng(0)
    folder = root / "VOCdevkit" / "VOC2007"
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    number = 0
    for split, count in (("trainval", 60), ("test", 36)):
        ids = []
        for i in range(count):
            number += 1
            ids.append(f"{number:06d}")
            objects = {name: 0 for name in COLOURS if rng.random() < 0.4} or {"cat": 0}
            if i % 6 == 0:
                objects = {**objects, "dog": 1}
            if i == 12:
                objects = {"dog": 1}
            pixels = rng.normal(110, 70, (24, 24, 3))
            for place, name in enumerate(objects):
                pixels[8 * place : 8 * place + 8] += 0.35 * np.array(COLOURS[name])
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "JPEGImages" / f"{ids[-1]}.jpg")
            items = "".join(
                f"<object><name>{name}</name><difficult>{difficult}</difficult></object>"
                for name, difficult in objects.items()
            )
            (folder / "Annotations" / f"{ids[-1]}.xml").write_text(f"<annotation>{items}</annotation>")
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids))
    return root


@pytest.fixture
def context(tmp_path):
    root = write_voc2007(tmp_path / "data")
    return make_context(
        WeightsOptions(
            backbone="vit_nano",
            data="voc2007",
            data_root=str(root),
            image_size=16,
            device="cpu",
            precision="fp32",
            out=tmp_path / "run",
        )
    )


def voc_precision(scores, positives, eleven):
    """VOC's development kit, an image at a time."""
    order = np.argsort(-scores)
    hits = np.cumsum(positives[order])
    precision, recall = hits / np.arange(1, len(scores) + 1), hits / positives.sum()
    if eleven:
        return np.mean([max(precision[recall >= k / 10 - 1e-12]) for k in range(11)])
    area, before = 0.0, 0.0
    for place in range(len(scores)):
        area += (recall[place] - before) * precision[place:].max()
        before = recall[place]
    return area


@pytest.mark.parametrize("seed", range(4))
def test_interpolated_precision_equals_voc_s(seed):
    rng = np.random.default_rng(seed)
    scores, positives = rng.normal(size=50), rng.random(50) < 0.3
    ones = np.ones((1, 50))
    for points in (11, None):
        expected = voc_precision(scores, positives, points == 11)
        assert interpolated_precision(scores, positives, ones, points)[0] == pytest.approx(expected)
    # An image that is drawn three times counts as three, and one that is not drawn as none.
    weights = rng.integers(0, 4, 50)
    for points in (11, None):
        repeated = interpolated_precision(
            np.repeat(scores, weights), np.repeat(positives, weights), np.ones((1, weights.sum())), points
        )
        assert interpolated_precision(scores, positives, weights[None], points) == pytest.approx(repeated)
    assert np.isnan(interpolated_precision(scores, np.zeros(50, bool), ones, 11))[0]


def test_equals_the_protocol_by_hand(context):
    found = {m.metric: m for m in run_evaluations(["svm"], {"svm": SVMConfig(costs=COSTS)}, context)}
    splits = {}
    for split in ("train", "test"):
        store = getattr(context, split)
        difficult = difficult_only(store)
        rows = (store.label_sets | difficult).any(axis=1)
        features = context.features(split, "pooled").numpy().astype(np.float64)[rows]
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        splits[split] = features, store.label_sets[rows], difficult[rows]
    (train, labels, ignored), (test, truth, skipped) = splits["train"], splits["test"]
    assert ignored.any() and skipped.any() and len(test) == 36
    eleven, whole, scores = [], [], np.zeros(truth.shape)
    for c in np.flatnonzero(truth.any(axis=0)):
        features, present = train[~ignored[:, c]], labels[~ignored[:, c], c]
        quality = {}
        for cost in COSTS:
            options = {
                "C": cost,
                "class_weight": {True: 2, False: 1},
                "dual": True,
                "max_iter": 2000,
                "random_state": 0,
            }
            quality[cost] = []
            for fit, held in StratifiedKFold(3).split(features, present):
                machine = LinearSVC(**options).fit(features[fit], present[fit])
                quality[cost].append(average_precision_score(present[held], machine.decision_function(features[held])))
        best = max(COSTS, key=lambda cost: np.mean(quality[cost]))
        name = context.train.classes[c]
        assert found["map"].protocol["chosen_costs"][name] == best
        machine = LinearSVC(**{**options, "C": best}).fit(features, present)
        scores[:, c] = machine.decision_function(test)
        counted = ~skipped[:, c]
        eleven.append(voc_precision(scores[counted, c], truth[counted, c], True))
        whole.append(voc_precision(scores[counted, c], truth[counted, c], False))
        assert found[f"ap_11_point_{name}"].value == pytest.approx(100 * eleven[-1], abs=1e-3)
    assert found["map_11_point"].value == pytest.approx(100 * np.mean(eleven), abs=1e-3)
    assert found["map_interpolated"].value == pytest.approx(100 * np.mean(whole), abs=1e-3)
    rows = truth.any(axis=1)
    area = [average_precision_score(truth[rows, c], scores[rows, c]) for c in np.flatnonzero(truth.any(axis=0))]
    assert found["map"].value == pytest.approx(100 * np.mean(area), abs=1e-3)
    assert (found["map"].n, found["map_11_point"].n) == (rows.sum(), 36)
    assert 0 < rows.sum() < 36  # some have difficult objects only
    assert found["map_11_point"].low < found["map_11_point"].value < found["map_11_point"].high
    assert found["map"].value > 50  # the colours are there to be found


def test_difficult_objects_are_what_voc_s_lists_mark_by_0(context):
    store = context.train
    dog = store.classes.index("dog")
    difficult = difficult_only(store)
    for image in range(len(store)):
        text = (store.root / "Annotations" / f"{Path(store.names[image]).stem}.xml").read_text()
        mark = 1 if "<name>dog</name><difficult>0" in text else 0 if "<name>dog</name><difficult>1" in text else -1
        assert store.label_sets[image, dog] == (mark == 1)
        assert difficult[image, dog] == (mark == 0)


def test_rare_classes_are_named_and_stay(context, capsys):
    cow = context.train.classes.index("cow")
    context.train.label_sets[np.flatnonzero(context.train.label_sets[:, cow])[2:], cow] = False
    found = {m.metric: m for m in run_evaluations(["svm"], {"svm": SVMConfig(costs=[0.1])}, context)}
    assert "cow (2)" in found["map"].protocol["few_training_images"]
    assert "cow" not in found["map"].protocol["chosen_costs"]
    assert "ap_11_point_cow" in found
    assert "few training images of" in capsys.readouterr().err


def test_what_is_wrong_is_said(context, make_test_context, tmp_path):
    with pytest.raises(UserError, match="svm measures images with several labels, and imagefolder has one each"):
        run_evaluations(["svm"], {}, make_test_context())
    with pytest.raises(UsageError, match="--svm_costs 0"):
        run_evaluations(["svm"], {"svm": SVMConfig(costs=[0])}, context)
    context.train.label_sets[2:] = False
    with pytest.raises(UserError, match="no class of voc2007 has 3 training images"):
        run_evaluations(["svm"], {"svm": SVMConfig(costs=[0.1])}, context)


def test_wrong_layouts_of_voc2007(tmp_path):
    root = write_voc2007(tmp_path)
    folder = root / "VOCdevkit" / "VOC2007"
    with pytest.raises(UserError, match="no ImageSets/Main here"):
        open_dataset("voc2007", "train", folder / "JPEGImages", 16)
    (folder / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the files that trainval\.txt lists are missing: JPEGImages/000002\.jpg"):
        open_dataset("voc2007", "train", root, 16)
    (folder / "ImageSets" / "Main" / "test.txt").unlink()
    with pytest.raises(UserError, match="list of the test images is missing"):
        open_dataset("voc2007", "test", root, 16)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n000001")
    with pytest.raises(UserError, match="1 of its names stand there twice"):
        open_dataset("voc2007", "train", root, 16)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("000001\n../x\0")
    with pytest.raises(UserError, match=r"trainval\.txt, line 2: .* is no name of an image"):
        open_dataset("voc2007", "train", root, 16)


def test_published_measure_is_resampled_from_what_was_saved(context):
    """Reports test it, with its difficult objects: outcomes give the measurement again."""
    found = {m.metric: m for m in run_evaluations(["svm"], {"svm": SVMConfig(costs=[0.1])}, context)}
    for metric in ("map", "map_interpolated", "map_11_point"):
        outcomes = outcomes_of(found[metric])
        assert outcomes.n == found[metric].n
        assert float(outcomes.resampled(iter([np.ones((1, outcomes.n))]))[0]) == pytest.approx(found[metric].value)
    assert found["map_interpolated"].facts["headline"] and not found["map"].facts["headline"]


def test_features_are_shared_with_other_evaluations(context):
    configs = {"svm": SVMConfig(costs=[0.1]), "knn": KNNConfig(ks=[5])}
    run_evaluations(["svm", "knn"], configs, context)
    assert len(list((context.run_dir / "features").glob("*-pooled-*.npy"))) == 2
    assert torch.isfinite(context.features("test", "pooled")).all()
