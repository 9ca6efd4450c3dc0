"""The evaluation in docs/add-an-evaluation.md is complete, short, and measures what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

from common.errors import UsageError
from common.registry import load_plugin
from eval.core.base import EVALUATIONS
from eval.core.run import run_evaluations

DOC = Path(__file__).resolve().parents[2] / "docs" / "add-an-evaluation.md"


@pytest.fixture(scope="module")
def code() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def class_means(code, tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "class_means.py"
    path.write_text(code, encoding="utf-8")
    load_plugin(str(path))
    yield EVALUATIONS.get("class_means")
    del EVALUATIONS._items["class_means"]


def test_is_short(code):
    assert len(code.splitlines()) < 50


def test_options_are_checked(class_means, make_test_context):
    with pytest.raises(UsageError, match="--class_means_power 0"):
        run_evaluations(["class_means"], {"class_means": class_means.Config(power=0)}, make_test_context("pixels"))


def test_measures_and_declares_how_it_is_shown(class_means, make_test_context):
    context = make_test_context("pixels")
    (top1, _) = run_evaluations(["class_means"], {}, context)
    bank, queries = (context.features(split).numpy() for split in ("train", "test"))
    bank, queries = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (bank, queries))
    means = np.stack([bank[context.train.labels == label].mean(axis=0) for label in range(6)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    right = (queries @ means.T).argmax(axis=1) == context.test.labels
    assert top1.value == pytest.approx(100 * right.mean()) and top1.low < top1.value < top1.high
    assert top1.value > 60 and top1.protocol["power"] == 1
    assert top1.facts["evaluation"] == "Class means" and top1.facts["metric"] == "top-1" and top1.facts["headline"]
