"""Classes of test images without training images: every evaluation tells them, with the number of images."""

from types import SimpleNamespace

import numpy as np
import pytest

from eval.core.online import Monitor
from eval.core.run import run_evaluations
from eval.core.untrained import without_training
from eval.finetune import FinetuneConfig
from eval.knn_low_shot import KNNLowShotConfig
from eval.linear import LinearConfig
from reports import build_report
from rundir.options import write_options
from rundir.paths import results_file
from rundir.results import read_results, untrained_words


class Store(SimpleNamespace):
    def __len__(self):
        return len(self.labels if self.label_sets is None else self.label_sets)


def test_images_are_counted():
    titles = ("a", "b", "c", "d")
    one = [
        Store(labels=np.array(labels), label_sets=None, titles=titles) for labels in ([0, 1, -1, 1], [2, 0, -1, 2, 3])
    ]
    assert without_training(*one) == {"images": 3, "classes": ["c", "d"]}
    assert without_training(*one, np.array([1, 3])) == {"images": 4, "classes": ["a", "c", "d"]}
    sets = ([[1, 0, 0, 0], [1, 1, 0, 0]], [[1, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0]])
    several = [Store(labels=None, label_sets=np.array(rows, bool), titles=titles) for rows in sets]
    assert without_training(*several) == {"images": 2, "classes": ["c", "d"]}
    assert without_training(several[0], several[0]) == {}


@pytest.mark.parametrize("damaged", [False, True], ids=["empty", "damaged"])
def test_every_evaluation_tells_them(damaged, colours, make_test_context, tmp_path, capsys):
    for file in (colours / "train/class5").iterdir():
        file.write_bytes(b"x") if damaged else file.unlink()
    (tmp_path / "list.txt").write_text("\n".join(f"class{c}/{i}.png" for c in range(4) for i in range(3)))
    configs = {
        "knn": None,
        "linear": LinearConfig(epochs=1),
        "retrieval": None,
        "knn_low_shot": KNNLowShotConfig(lists=[str(tmp_path / "list.txt")], ks=[1]),
        "finetune": FinetuneConfig(epochs=1, fractions=[1.0], lrs=[1e-3], batch_size=16),
    }
    context = make_test_context()
    run_evaluations(list(configs), {name: config for name, config in configs.items() if config}, context)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "knn, linear, retrieval, finetune: 8 of 48 test images are of a class without training images: class5" in said
    )
    assert "knn_low_shot: 16 of 48 test images are of 2 classes without training images: class4, class5" in said
    for name in configs:
        lacking = ["class4", "class5"] if name == "knn_low_shot" else ["class5"]
        assert all(
            m.data["test"]["without_training"]["classes"] == lacking
            for m in read_results(results_file(context.run_dir, name))
        )
    write_options(context.run_dir, {"method": "random", "backbone": "vit_nano", "data": "imagefolder", "seed": 0})
    page = build_report([context.run_dir], tmp_path / "report").read_text()
    assert "8 of 48 test images are of a class without training images: class5" in page


def test_nothing_is_said_of_whole_data(make_test_context, capsys):
    (first, *_) = run_evaluations(["knn"], {}, make_test_context())
    assert "without_training" not in first.data["test"] and not untrained_words(first.data)
    assert "without training" not in capsys.readouterr().err


def test_the_online_knn_tells_what_its_bank_lacks(capsys):
    images = [Store(labels=np.array(labels), label_sets=None) for labels in ([0, 0, -1], [0, 1, 1, -1])]
    Monitor(SimpleNamespace(images=images, views=[], config=None, device=None), None)
    said = " ".join(capsys.readouterr().err.split())
    assert "online k-NN: 2 of 3 held-out images are of classes without an image among the 2 training images" in said


@pytest.mark.parametrize("test", [None, 5, {}, {"without_training": 5}, {"without_training": {"classes": 1}}])
def test_other_data_of_a_file_says_nothing(test):
    assert untrained_words({"test": test}) == ""
