"""The head in docs/add-a-head.md is complete, short, and learns."""

import re
from pathlib import Path

import pytest
import torch

from backbones import build_backbone
from common.registry import load_plugin
from eval.dense.task import SegmentationTask, TaskConfig
from eval.segmentation import SegmentationConfig
from heads.segmentation.core.base import SEGMENTATION_HEADS
from methods.core.base import ViewBatch

DOC = Path(__file__).resolve().parents[2] / "docs" / "add-a-head.md"


@pytest.fixture(scope="module")
def code() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def fcn(code, tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "fcn.py"
    path.write_text(code, encoding="utf-8")
    load_plugin(str(path))
    yield SEGMENTATION_HEADS.get("fcn")
    del SEGMENTATION_HEADS._items["fcn"]


def test_is_short(code):
    assert len(code.splitlines()) < 20


def test_learns(fcn):
    SegmentationConfig(heads=["linear", "fcn"])
    torch.manual_seed(0)
    task = SegmentationTask(TaskConfig(head="fcn"), lambda: build_backbone("vit_nano", image_size=32), num_classes=3)
    task.train()
    assert isinstance(task.head, fcn)
    images = torch.randn(4, 3, 32, 32)
    masks = (images.mean(1) > 0).to(torch.uint8)
    optimizer = torch.optim.Adam(task.head.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = task(ViewBatch([images], masks)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_any_size(fcn):
    head = fcn([8], [4], 5).eval()
    assert head([torch.randn(2, 8, 7, 9)], (30, 37)).shape == (2, 5, 30, 37)
    assert SEGMENTATION_HEADS.facts("fcn")["title"] == "FCN"
