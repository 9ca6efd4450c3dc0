"""Supervised training: one label, several, none."""

import pytest
import torch
import torch.nn.functional as F

from common.errors import UsageError
from methods.core.base import ViewBatch
from methods.supervised import Supervised, SupervisedConfig, labelled, labelled_loss

LOGITS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def test_unlabelled_images_are_left_out():
    labels = torch.tensor([0, -1, 2, -1, 1])
    total, rows = labelled_loss(LOGITS, labels), [0, 2, 4]
    assert labelled(labels).nonzero().flatten().tolist() == rows
    assert torch.allclose(total / 3, F.cross_entropy(LOGITS[rows], torch.tensor([0, 2, 1])))


def test_several_labels():
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]]).float()
    total, rows = labelled_loss(LOGITS, labels), [0, 2, 3]
    assert labelled(labels).nonzero().flatten().tolist() == rows
    assert torch.allclose(total / 3, F.binary_cross_entropy_with_logits(LOGITS[rows], labels[rows]))


@pytest.mark.parametrize("labels", [torch.full((4,), -1), torch.zeros(4, 3)])
def test_a_batch_without_labels_teaches_nothing(make_method, make_batch, labels):
    method = make_method("supervised")
    output = method(ViewBatch(make_batch(method).views, labels))
    output.loss.backward()
    assert output.loss == 0 and output.metrics["labelled"] == 0
    assert not any(p.grad.any() for p in method.parameters())


def test_views():
    (view,) = Supervised.views(SupervisedConfig(), 64)
    assert (view.size, view.scale, view.augmentation.flip) == (64, (0.08, 1.0), 0.5)
    assert not (view.augmentation.jitter_p or view.augmentation.grayscale_p or view.blur_p or view.solarize_p)


def test_data_without_labels(make_method):
    with pytest.raises(UsageError, match="Supervised needs labels"):
        make_method("supervised", num_classes=0)
