"""Each head trains with one image a step, or refuses in one sentence before anything runs."""

import pytest

from common.errors import UserError
from eval.core.run import run_evaluations
from eval.segmentation import SegmentationConfig
from heads.segmentation.core.base import SEGMENTATION_HEADS

#: Inputs of a single cell leave BatchNorm one value a channel in every head that has it.
SIZES = {"vit_nano": (4, 32), "resnet18_cifar": (32,)}


@pytest.mark.parametrize("head", SEGMENTATION_HEADS.names())
@pytest.mark.parametrize("backbone, size", [(name, size) for name, sizes in SIZES.items() for size in sizes])
def test_batches_of_one(head, backbone, size, make_context, capsys):
    context = make_context(backbone)
    config = SegmentationConfig(heads=[head], epochs=1, batch_size=1, crop_size=size)
    try:
        (first, *_) = run_evaluations(["segmentation"], {"segmentation": config}, context)
    except UserError as error:
        assert str(error) == (
            f"--segmentation_batch_size 1: a BatchNorm of {head} would have a single value to normalise; give "
            "--segmentation_batch_size 2 or more (of segment: --batch_size)"
        )
        assert not (context.run_dir / "segmentation").exists() and "training" not in capsys.readouterr().err
        assert head == "deeplabv3" or size == 4
    else:
        assert first.n == len(context.test) and head != "deeplabv3"
