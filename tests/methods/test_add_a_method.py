"""The method in docs/add-a-method.md is complete, short, and learns."""

import re
from pathlib import Path

import pytest
import torch

from common.errors import UsageError
from common.registry import load_plugin
from methods.core.base import METHODS

DOC = Path(__file__).resolve().parents[2] / "docs" / "add-a-method.md"


@pytest.fixture(scope="module")
def code() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def simsiam(code, tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "simsiam.py"
    path.write_text(code, encoding="utf-8")
    load_plugin(str(path))
    yield METHODS.get("simsiam")
    del METHODS._items["simsiam"]


def test_is_short(code):
    assert len(code.splitlines()) < 50


def test_options_are_checked(simsiam):
    with pytest.raises(UsageError, match="--dim 0: give at least 1"):
        simsiam.Config(dim=0)


def test_learns(simsiam, make_method, train):
    method = make_method("simsiam", dim=32, predictor_dim=16)
    assert isinstance(method, simsiam)
    outputs = train(method, steps=30, lr=3e-3)
    losses = [output.loss.item() for output in outputs]
    assert losses[-1] < losses[0] - 0.3 and losses[-1] > -1
    first, second = outputs[-1].projections
    assert first.shape == second.shape == torch.Size([8, 32])


def test_views(simsiam):
    first, second = simsiam.views(simsiam.Config(), 64)
    assert first.blur_p == second.blur_p == 0.5 and first.augmentation.saturation == 0.4 and first.scale == (0.2, 1.0)
