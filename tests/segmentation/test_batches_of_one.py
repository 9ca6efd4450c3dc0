"""Each head trains with one image a step, or refuses in one sentence before anything runs."""

import pytest
import torch

from backbones import build_backbone
from common.errors import UserError
from eval.core.base import Outlook
from eval.core.run import run_evaluations
from eval.segmentation import Segmentation, SegmentationConfig
from heads.segmentation.core.base import SEGMENTATION_HEADS

SENTENCE = (
    "--segmentation_batch_size 1: a BatchNorm of {} would have a single value to normalise; give "
    "--segmentation_batch_size 2 or more (of segment: --batch_size)"
)


@pytest.mark.parametrize("head", SEGMENTATION_HEADS.names())
def test_batches_of_one(head, make_context, capsys):
    context = make_context()
    config = SegmentationConfig(heads=[head], epochs=1, batch_size=1)
    try:
        (first, *_) = run_evaluations(["segmentation"], {"segmentation": config}, context)
    except UserError as error:
        assert str(error) == SENTENCE.format(head) and head == "deeplabv3"
        assert not (context.run_dir / "segmentation").exists() and "training" not in capsys.readouterr().err
    else:
        assert first.n == len(context.test) and head != "deeplabv3"


@pytest.mark.parametrize("head", SEGMENTATION_HEADS.names())
def test_maps_of_a_single_cell(head, stores):
    """Then every BatchNorm that reads the map as it is has one value a channel."""
    with torch.device("meta"):
        backbone = build_backbone("vit_t16", 16)
    outlook = Outlook(*(store.listing for store in stores), backbone, "vit_t16", 16, 0)
    try:
        Segmentation(SegmentationConfig(heads=[head], batch_size=1)).check(outlook)
    except UserError as error:
        assert str(error) == SENTENCE.format(head) and not head.startswith("linear")
    else:
        assert head.startswith("linear")
    Segmentation(SegmentationConfig(heads=[head], batch_size=2)).check(outlook)


def test_heads_and_evaluations_are_looked_at_with_one_backbone(stores):
    with torch.device("meta"):
        backbone = build_backbone("resnet18_cifar", 32)
    outlook = Outlook(*(store.listing for store in stores), backbone, "resnet18_cifar", 32, 0)
    segmentation = Segmentation(SegmentationConfig(heads=["linear", "setr_naive"], batch_size=1))
    for _ in range(2):
        segmentation.check(outlook)
    assert {(p.device.type, type(p)) for p in backbone.parameters()} == {("meta", torch.nn.Parameter)}
