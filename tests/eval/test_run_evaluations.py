import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from common.errors import UsageError, UserError
from data.views.maker import ViewMaker
from data.views.spec import View
from eval.core.base import EVALUATIONS, Evaluation, EvaluationConfig
from eval.core.probe import Heads
from eval.core.run import run_evaluations
from eval.features.extract import compute_features
from eval.knn import KNNConfig
from eval.linear import LinearConfig
from eval.linear_authors import LinearAuthors, LinearAuthorsConfig
from rundir.results import Measurement, names_hash, read_results, write_results

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "knn": KNNConfig(ks=[3, 20]),
    "linear": LinearConfig(epochs=20),
    "linear_authors": LinearAuthorsConfig(epochs=3, batch_size=32, lrs=[0.003, 0.03]),
}


def test_what_reports_use_imports_no_torch():
    statistics = [
        f"common.statistics.{name}" for name in ("bootstrap", "average_precision", "confusion", "retrieval_map")
    ]
    modules = ", ".join(["eval", "eval.core.base", "rundir.results", *statistics])
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_every_name_is_an_evaluation():
    names = EVALUATIONS.names()
    assert {"knn", "linear", "linear_authors"} <= set(names)
    for name in names:
        kind = EVALUATIONS.get(name)
        assert issubclass(kind, Evaluation) and issubclass(kind.Config, EvaluationConfig)


@pytest.mark.parametrize("backbone", ["vit_nano", "resnet18_cifar", "pixels"])
def test_measurements_and_what_they_leave(make_test_context, backbone):
    context = make_test_context(backbone)
    found = run_evaluations(list(CONFIGS), CONFIGS, context)
    assert [(m.evaluation, m.metric, m.protocol.get("k")) for m in found] == [
        ("knn", "top1", 3),
        ("knn", "top1", 20),
        ("knn", "top5", 20),
        ("linear", "top1", None),
        ("linear", "top5", None),
        ("linear_authors", "top1", None),
        ("linear_authors", "top5", None),
    ]
    for m in found:
        assert 0 <= m.low <= m.value <= m.high <= 100
        assert m.n == len(context.test) == 48
        assert m.protocol["image_size"] == 16
        assert m.data["train"]["fingerprint"] == context.train.fingerprint
        with np.load(context.run_dir / m.predictions) as arrays:
            assert str(arrays["names_hash"]) == names_hash(context.test.names)
            assert 100 * arrays[m.metric].mean() == pytest.approx(m.value)
            np.testing.assert_array_equal(arrays["predicted"] == context.test.labels, arrays["top1"])
    by_name = {(m.evaluation, m.metric): m.value for m in found}
    assert by_name["knn", "top1"] > 30  # colours show through untrained networks, too; chance is 17
    assert by_name["linear", "top1"] > 30
    features = {"vit_nano": "last2"}.get(backbone, "pooled")
    decay = "weight decay 0," if backbone == "vit_nano" else "weight decay 1e-06,"
    assert decay in found[-1].protocol["optimizer"]
    assert found[-1].protocol["features"] == found[-3].protocol["features"] == features
    for name in CONFIGS:
        file = context.run_dir / "results" / f"{name}.json"
        assert read_results(file) == [m for m in found if m.evaluation == name]
        assert len(file.read_text().splitlines()) == len(json.loads(file.read_text())) + 2


def test_the_linear_probe_of_dinos_resnets_has_no_weight_decay(make_test_context):
    config = LinearAuthorsConfig(epochs=1, batch_size=32, lrs=[0.03], weight_decay=0.0)
    (top1, _) = run_evaluations(["linear_authors"], {"linear_authors": config}, make_test_context("resnet18_cifar"))
    assert "weight decay 0," in top1.protocol["optimizer"]


def test_what_was_measured_is_used_again(make_test_context, monkeypatch, capsys):
    first = run_evaluations(["knn"], CONFIGS, make_test_context())
    runs = []
    original = EVALUATIONS.get("knn").run
    monkeypatch.setattr(EVALUATIONS.get("knn"), "run", lambda self, context: runs.append(1) or original(self, context))
    assert run_evaluations(["knn"], CONFIGS, make_test_context()) == first
    assert not runs
    assert "measured before" in capsys.readouterr().err
    assert run_evaluations(["knn"], CONFIGS, make_test_context(), again=True) == first
    assert len(runs) == 1
    # Other options replace it, and so do other weights.
    others = run_evaluations(["knn"], {"knn": KNNConfig(ks=[5])}, make_test_context())
    assert len(runs) == 2
    file = make_test_context().run_dir / "results" / "knn.json"
    assert read_results(file) == others
    assert (
        run_evaluations(["knn"], {"knn": KNNConfig(ks=[5])}, make_test_context(seed=1)) == read_results(file) != others
    )
    # A lost predictions file is made again.
    (make_test_context().run_dir / others[0].predictions).unlink()
    run_evaluations(["knn"], {"knn": KNNConfig(ks=[5])}, make_test_context(seed=1))
    assert len(runs) == 4
    assert (make_test_context().run_dir / others[0].predictions).exists()


def test_results_on_other_data_are_kept_while_the_weights_are_the_same(make_test_context):
    first = run_evaluations(["knn"], CONFIGS, make_test_context())
    elsewhere = make_test_context()
    elsewhere.test.name = "elsewhere"
    second = run_evaluations(["knn"], CONFIGS, elsewhere)
    file = elsewhere.run_dir / "results" / "knn.json"
    assert read_results(file) == [*first, *second]
    third = run_evaluations(["knn"], CONFIGS, make_test_context(seed=1))
    assert read_results(file) == third


def test_no_evaluation_looks_at_test_labels_to_choose(make_test_context):
    honest, shuffled = make_test_context(out="a"), make_test_context(out="b")
    shuffled.test._labels = np.random.default_rng(0).permutation(shuffled.test.labels)
    names = list(CONFIGS)
    for one, other in zip(*(run_evaluations(names, CONFIGS, c) for c in (honest, shuffled)), strict=True):
        assert one.protocol == other.protocol
        with np.load(honest.run_dir / one.predictions) as a, np.load(shuffled.run_dir / other.predictions) as b:
            np.testing.assert_array_equal(a["predicted"], b["predicted"])


def test_unlabelled_images_are_counted_and_left_out(make_test_context):
    context = make_test_context()
    context.test._labels = context.test.labels.copy()
    context.test.labels[:10] = -1
    context.train._labels = np.where(np.arange(len(context.train)) % 2, context.train.labels, -1)
    for m in run_evaluations(list(CONFIGS), {**CONFIGS, "knn": KNNConfig(ks=[60])}, context):
        assert m.n == 38
        assert (m.data["test"]["labelled"], m.data["test"]["images"]) == (38, 48)
        with np.load(context.run_dir / m.predictions) as arrays:
            assert len(arrays["predicted"]) == 38
            assert str(arrays["names_hash"]) == names_hash(context.test.names[10:])
    with pytest.raises(UserError, match="only 60 labelled images"):
        run_evaluations(["knn"], {"knn": KNNConfig(ks=[61])}, context)
    context.test.labels[:] = -1
    with pytest.raises(UserError, match="no image of the test split has a label"):
        run_evaluations(["linear"], CONFIGS, context, again=True)


def test_neighbours_that_a_small_bank_has_not_are_left_out(make_test_context, capsys):
    context = make_test_context()
    bank = len(context.train)
    found = run_evaluations(["knn"], {"knn": KNNConfig(ks=[bank + 1, bank, 1])}, context)
    assert list(dict.fromkeys(m.protocol["k"] for m in found)) == [1, bank]
    assert f"knn: k = {bank + 1} left out: the bank has {bank} labelled images" in capsys.readouterr().err


def test_several_labels_an_image(make_test_context):
    context = make_test_context()
    for store in (context.train, context.test):
        store._label_sets = np.zeros((len(store), 6), bool)
        store.label_sets[np.arange(len(store)), store.labels] = True
        store.label_sets[:, 0] |= store.labels == 3
    found = run_evaluations(list(CONFIGS), CONFIGS, context)
    assert [(m.evaluation, m.metric) for m in found] == [("knn", "map")] * 2 + [
        ("linear", "map"),
        ("linear_authors", "map"),
    ]
    for m in found:
        with np.load(context.run_dir / m.predictions) as arrays:
            np.testing.assert_array_equal(arrays["label_sets"], context.test.label_sets)
            expected = average_precision_score(arrays["label_sets"], arrays["scores"])
        assert m.value == pytest.approx(100 * expected)
        assert m.low < m.value < m.high
    assert found[2].value > 60


@pytest.mark.parametrize("name", ["linear", "linear_authors"])
def test_probes_continue_where_they_were_interrupted(name, make_test_context, monkeypatch):
    whole = run_evaluations([name], CONFIGS, make_test_context(out="whole"))
    from eval.core import probe

    monkeypatch.setattr(probe, "SAVE_EVERY", 0)
    context = make_test_context()
    saves = []
    original = probe.HeadsCheckpoint.save

    def stops(self, heads, epochs, last):
        original(self, heads, epochs, last)
        saves.append(epochs)
        if epochs == 2 and len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(probe.HeadsCheckpoint, "save", stops)
    with pytest.raises(KeyboardInterrupt):
        run_evaluations([name], CONFIGS, context)
    again = run_evaluations([name], CONFIGS, make_test_context())
    epochs = list(range(1, CONFIGS[name].epochs + 1))
    assert saves == epochs * (2 if name == "linear" else 1)  # once to choose the learning rate, once with it
    assert [m.value for m in again] == [m.value for m in whole]
    assert [m.protocol for m in again] == [m.protocol for m in whole]


def test_the_authors_classifier_sees_the_crops_of_its_seed(make_test_context, monkeypatch):
    """Read and cut ahead of it over the ends of epochs, and one after the other here: to the bit, and in the same order."""
    context, seen = make_test_context(), []
    monkeypatch.setattr(Heads, "step", lambda heads, features, targets, *_: seen.append((features, targets)))
    LinearAuthors(LinearAuthorsConfig(epochs=2, batch_size=50, lrs=[0.01])).run(context)
    maker = ViewMaker([View(name="crop", size=16, scale=(0.08, 1.0))])
    for epoch in range(2):
        generator = torch.Generator().manual_seed((context.seed << 32) + epoch)
        for part in torch.randperm(120, generator=generator).split(50):
            crops = maker.make(
                context.train.batch(part), torch.arange(len(part))[None], maker.sample(len(part), generator)
            )
            features, targets = seen.pop(0)
            assert torch.equal(features, compute_features(context.backbone, crops[0], ["last2"])["last2"])
            assert targets.tolist() == context.train.labels[part].tolist()
    assert not seen


def test_the_authors_protocol_learns_from_augmented_images(make_test_context):
    context = make_test_context("pixels")
    config = LinearAuthorsConfig(epochs=15, batch_size=32, lrs=[0.001, 0.01])
    (top1, _) = LinearAuthors(config).run(context)
    assert top1.value > 50
    assert top1.protocol["chosen_lr"] in (0.001, 0.01)


def test_the_blocks_that_the_authors_classifier_sees(make_test_context):
    default, one = (
        run_evaluations(["linear_authors"], {"linear_authors": LinearAuthorsConfig(epochs=2, blocks=blocks)}, context)[
            0
        ]
        for blocks, context in ((None, make_test_context()), (1, make_test_context()))
    )
    assert (default.protocol["features"], one.protocol["features"]) == ("last2", "last1")
    last = make_test_context().features("train", "last1")
    torch.testing.assert_close(last, make_test_context().features("train", "pooled"))  # the CLS token of the last block


@pytest.mark.parametrize(
    "name, config, message",
    [
        ("linear_authors", LinearAuthorsConfig(blocks=0), "--linear_authors_blocks 0: give at least 1"),
        ("linear", LinearConfig(lrs=[]), "--linear_lrs"),
        ("linear", LinearConfig(lrs=[0.1, -1.0]), "more than 0"),
        ("linear", LinearConfig(lrs=[0.1, float("nan")]), "a finite number"),
        ("linear", LinearConfig(lrs=[0.1, 0.1]), "give different learning rates"),
        ("linear", LinearConfig(epochs=0), "--linear_epochs 0"),
        ("linear_authors", LinearAuthorsConfig(batch_size=0), "--linear_authors_batch_size 0"),
        ("knn", KNNConfig(ks=[0]), "at least 1"),
        ("knn", KNNConfig(temperature=-1), "more than 0"),
    ],
)
def test_wrong_options_are_refused_before_any_work(make_test_context, name, config, message):
    context = make_test_context()
    with pytest.raises(UserError, match=message):
        run_evaluations([name], {name: config}, context)
    assert not context.run_dir.exists()


def test_too_few_images_and_diverging_probes(make_test_context):
    context = make_test_context()
    with pytest.raises(UserError, match="diverged at every learning rate"):
        run_evaluations(["linear"], {"linear": LinearConfig(lrs=[1e300], epochs=2)}, context)
    context.train = context.train.subset(np.arange(9))
    with pytest.raises(UserError, match="9 labelled training images are too few"):
        run_evaluations(["linear"], {}, context)


def test_unknown_evaluation(make_test_context):
    with pytest.raises(UsageError, match="did you mean knn"):
        run_evaluations(["knnn"], {}, make_test_context())


def test_an_evaluation_from_elsewhere(make_test_context, monkeypatch):
    monkeypatch.setattr(EVALUATIONS, "_items", dict(EVALUATIONS._items))  # forgotten again after the test

    @EVALUATIONS.register("count")
    class Count(Evaluation):
        @dataclass(kw_only=True)
        class Config(EvaluationConfig):
            factor: float = 2.0

        def run(self, context):
            value = self.config.factor * len(context.test)
            about = {"protocol": {}, "data": context.data(), "interval": "none: no statistic"}
            return [Measurement("count", "images", value, None, None, len(context.test), **about)]

    (m,) = run_evaluations(["count"], {}, make_test_context())
    assert m.value == 96
    assert read_results(make_test_context().run_dir / "results" / "count.json") == [m]


def test_results_files(tmp_path):
    m = Measurement("knn", "top1", float("nan"), None, None, 3, {}, {})
    with pytest.raises(ValueError, match="JSON"):
        write_results(tmp_path / "knn.json", [m])
    assert read_results(tmp_path / "knn.json") == []
    (tmp_path / "knn.json").write_text('[{"evaluation": "knn"')
    with pytest.raises(UserError, match=r"knn\.json: no list of measurements"):
        read_results(tmp_path / "knn.json")


def test_weights_are_not_changed_by_evaluations(make_test_context):
    context = make_test_context("resnet18_cifar")
    before = {name: value.clone() for name, value in context.backbone.state_dict().items()}
    run_evaluations(["linear_authors"], {"linear_authors": LinearAuthorsConfig(epochs=1)}, context)
    for name, value in context.backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_evaluation_that_refuses_does_not_end_the_others(make_test_context, capsys):
    context = make_test_context()
    configs = {**CONFIGS, "knn": KNNConfig(ks=[500, 1000])}
    with pytest.raises(
        UserError, match=r"1 of 2 evaluations failed \(knn: k = 500, 1000, but .* give --knn_ks numbers"
    ):
        run_evaluations(["knn", "linear"], configs, context)
    assert "linear" in capsys.readouterr().out  # its table
    results = context.run_dir / "results"
    assert {m.metric for m in read_results(results / "linear.json")} == {"top1", "top5"}
    assert not (results / "knn.json").exists()
    # What was measured is used again, and what is mended is measured.
    assert len(run_evaluations(["knn", "linear"], CONFIGS, make_test_context())) == 5
