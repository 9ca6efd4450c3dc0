"""What plug-ins declare of themselves, read from their files without importing them."""

import importlib
import subprocess
import sys

import pytest

from common.registry import Registry, literals_of, plugins_of
from eval.core.base import EVALUATIONS, Evaluation, facts_of
from reports.visual.core.base import VISUALIZATIONS, for_reports

PACKAGES = ("methods", "eval", "heads.segmentation")


@pytest.mark.parametrize("package", PACKAGES)
def test_facts_of_files_are_those_of_the_classes(package):
    plugins = plugins_of(package)
    for name in plugins.names():
        importlib.import_module(f"{package}.{name}")
        facts = plugins.facts(name)
        assert facts["title"]
        for key, value in facts.items():
            assert getattr(plugins_of(package).get(name), key) == value, (name, key)


def test_reading_facts_imports_no_plugin():
    script = f"""
import sys
from common.registry import plugins_of
from eval.core.base import facts_of
assert facts_of("segmentation_setr_pup", "miou")["evaluation"] == "Segmentation SETR-PUP"
assert [plugins_of(package).facts(name)["title"] for package in {PACKAGES} for name in plugins_of(package).names()]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_literals_are_inherited_and_hidden(tmp_path):
    file = tmp_path / "plugin.py"
    file.write_text(
        "class Base:\n    title: str = 'base'\n    views = 2\n    made = 3\n"
        "@METHODS.register('mine')\nclass Mine(Base, Elsewhere):\n    title = 'Mine'\n    made = len('abc')\n    bare: int\n"
    )
    assert literals_of(file, "mine") == {"title": "Mine", "views": 2}
    assert literals_of(file, "other") == {}


def test_facts_of_a_plugin_from_outside():
    registry = Registry("evaluation")

    @registry.register("mine")
    class Mine(Evaluation):
        title = "My own"
        headline = ("score",)

    facts = registry.facts("mine")
    assert (facts["title"], facts["headline"], facts["grouped_by"]) == ("My own", ("score",), "images")
    assert registry.facts("unknown") == {}


@pytest.mark.parametrize(
    ("evaluation", "metric", "shown"),
    [
        ("knn", "top1", "k-NN top-1"),
        ("linear_authors", "map", "Linear (authors’) mAP"),
        ("svm", "map", "SVM mAP"),
        ("segmentation_linear_pixels", "miou", "Segmentation linear, pixels mIoU"),
        ("segmentation_of_mine", "mean_iou", "Segmentation of mine mean iou"),
        ("somebody_elses", "f1", "Somebody elses F1"),
    ],
)
def test_names_of_evaluations_and_metrics(evaluation, metric, shown):
    facts = facts_of(evaluation, metric)
    assert f"{facts['evaluation']} {facts['metric']}" == shown


def test_directions_and_headlines():
    assert facts_of("davis", "j_decay")["lower_is_better"] and not facts_of("davis", "j_mean")["lower_is_better"]
    assert facts_of("somebody_elses", "error")["lower_is_better"]
    assert [metric for metric in ("top1", "top5", "map") if facts_of("knn", metric)["headline"]] == ["top1", "map"]
    for name in EVALUATIONS.names():  # a headline has a title, so it is a metric that the evaluation knows
        facts = EVALUATIONS.facts(name)
        assert facts["headline"] and set(facts["headline"]) <= facts["metrics"].keys()
    assert facts_of("svm", "map_interpolated")["headline"]


def test_what_a_report_says_of_pictures_is_read_without_drawing_any():
    kinds = {name: VISUALIZATIONS.get(name) for name in VISUALIZATIONS.names()}
    titled = sorted((kind.place, kind.title, kind.caption, name) for name, kind in kinds.items() if kind.title)
    told = [(about["place"], about["title"], about["caption"], name) for name, about in for_reports().items()]
    assert told == titled
