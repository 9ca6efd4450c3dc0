"""DINO's targets averaged over labels: against plain loops, with parts of batches, labels that may not be used, and no labels."""

import numpy as np
import pytest
import torch

from commands.train import train
from common.errors import UsageError, UserError
from data.store.store import ImageStore
from methods.core.base import METHODS, Progress, ViewBatch
from methods.core.labels import LabelMeans, alike
from reports.analysis.rows import rows_of
from rundir.paths import last_checkpoint
from rundir.read import read_runs
from training.batches import split
from training.checkpoint import load_checkpoint
from training.plan import make_plan
from training.resolve import resolve
from training.step import Stepper

SINGLE = torch.tensor([0, 2, -1, 0, 2, 2, 1, -1])
SEVERAL = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [0, 1, 1], [1, 0, 0]]).float()


def sets_of(labels):
    """The labels of each image, as sets."""
    if labels.ndim == 1:
        return [{label} - {-1} for label in labels.tolist()]
    return [set(row.nonzero().flatten().tolist()) for row in labels]


def means_by_loops(vectors_TBD, labels):
    """Each image's vectors become the mean over all views of the images that share a label, each image counted once."""
    sets, views = sets_of(labels), len(vectors_TBD)
    expected = vectors_TBD.clone()
    for i, own in enumerate(sets):
        sharing = [vectors_TBD[t, j] for j, other in enumerate(sets) if own & other for t in range(views)]
        if sharing:
            expected[:, i] = sum(sharing) / len(sharing)
    return expected


@pytest.mark.parametrize("labels", [SINGLE, SEVERAL, torch.full((8,), -1), torch.zeros(8, 3)])
def test_means_equal_loops(labels):
    vectors = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    means = LabelMeans(3, 5, momentum=0.0)
    assert torch.allclose(means(vectors, labels), means_by_loops(vectors, labels), atol=1e-6)
    assert not means.state_dict()
    sets = sets_of(labels)
    assert alike(labels, labels).tolist() == [[bool(a & b) for b in sets] for a in sets]


@pytest.mark.parametrize("labels", [SINGLE, SEVERAL])
def test_running_means_equal_loops(labels):
    means, running = LabelMeans(3, 5, momentum=0.75), {}
    for step in range(4):
        vectors = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(step))
        here = labels.roll(step, 0)[:3]  # not every label is in every batch
        vectors, sets = vectors[:, :3], sets_of(here)
        for label in set().union(*sets):
            of_label = [vectors[t, i] for i in range(3) if label in sets[i] for t in range(2)]
            mean = sum(of_label) / len(of_label)
            running[label] = 0.75 * running[label] + 0.25 * mean if label in running else mean
        expected = vectors.clone()
        for i, own in enumerate(sets):
            if own:
                expected[:, i] = sum(running[label] for label in own) / len(own)
        assert torch.allclose(means(vectors, here), expected, atol=1e-6)
    for label in range(3):
        assert torch.allclose(means.means[label], running.get(label, torch.zeros(5)), atol=1e-6)


def teacher_logits(method, batch):
    """What the loss gets from the teacher."""
    seen = []
    method.loss.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    method(batch)
    return seen[0]


@pytest.mark.parametrize("name", ["dino", "weak_dino"])
@pytest.mark.parametrize("labels", [SINGLE, SEVERAL])
def test_logits_are_averaged_before_centring(make_method, make_batch, name, labels):
    """Averaging vectors before the last layer averages its outputs; the student keeps its own."""
    usual, averaged = make_method(name), make_method(name, targets="label")
    batch = ViewBatch(make_batch(usual, batch=8).views, labels)
    expected = means_by_loops(teacher_logits(usual, batch), labels)
    assert torch.allclose(teacher_logits(averaged, batch), expected, atol=1e-6)
    student = [method.student(batch.views)[1] for method in (usual, averaged)]
    assert torch.equal(*student)


def test_without_labels_nothing_changes(make_method, make_batch):
    losses = []
    for options in ({}, {"targets": "label"}, {"targets": "label", "label_momentum": 0.9}):
        method = make_method("dino", **options)
        losses.append(method(ViewBatch(make_batch(method).views, torch.full((4,), -1))).loss)
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])


def gradients_of(method, config, parts):
    stepper = Stepper(method, config, torch.device("cpu"))
    loss, _ = stepper.step(parts, Progress(1, 1, 10))
    return loss, [p.grad.clone() for p in method.parameters() if p.grad is not None]


@pytest.mark.parametrize(("labels", "equal"), [([0, 1, 0, -1, 2, 2, -1, 2], True), ([0, 1, 2, -1, 2, 0, 1, 0], False)])
def test_parts_of_a_step_have_means_of_their_own(small, make_method, make_batch, tmp_path, labels, equal):
    """With --accumulate: a step of two parts is the mean of two steps, and equals one step where no label is in both parts."""
    config, _ = small(tmp_path, optimizer="sgd", warmup_epochs=0, clip_grad=0.0)
    config = resolve(config)

    def method():
        return make_method("dino", "linear", targets="label", centering="none", freeze_last_layer=0)

    batch = ViewBatch(make_batch(method(), batch=8).views, torch.tensor(labels))
    halves = split(batch, 2)
    loss, gradients = gradients_of(method(), config, halves)
    alone = [gradients_of(method(), config, [half]) for half in halves]
    assert torch.allclose(loss, (alone[0][0] + alone[1][0]) / 2)
    for ours, first, second in zip(gradients, alone[0][1], alone[1][1], strict=True):
        assert torch.allclose(ours, (first + second) / 2, atol=1e-6)
    whole, _ = gradients_of(method(), config, [batch])
    assert torch.allclose(loss, whole, rtol=1e-5) == equal


@pytest.mark.parametrize(
    ("method", "options", "labels"),
    [
        ("dino", {}, "all (targets)"),
        ("dino", {"label_fraction": 0.25, "accumulate": 2}, "25% (targets)"),
        ("weak_dino", {"label_momentum": 0.9}, "all (pairs, targets)"),
    ],
)
def test_runs_say_that_they_use_labels(small, tmp_path, method, options, labels):
    """Whole runs, with either pairing; a label that may not be used is none."""
    config, own = small(tmp_path / "run", method, targets="label", epochs=1, knn_every=0, **options)
    plan = make_plan(config, own)
    usable = torch.cat([batch.labels for batch in plan.batches().stream(0, 5)]) >= 0
    assert usable.float().mean() < 0.4 if config.label_fraction < 1 else usable.all()
    train(config, own)
    (row,) = rows_of(read_runs([tmp_path / "run"])[0])
    assert row.settings["labels"] == labels
    state = load_checkpoint(last_checkpoint(tmp_path / "run"))["method"]
    assert ("label_means.means" in state) == ("label_momentum" in options)
    assert row.cost["training_flops"]


def test_data_without_labels_are_refused(small, tmp_path, make_method, monkeypatch):
    monkeypatch.setattr(ImageStore, "labelled", property(lambda store: np.zeros(len(store), bool)))
    with pytest.raises(UserError, match="--method dino needs labels for its targets, and no training image of"):
        train(*small(tmp_path / "run", "dino", targets="label"))
    with pytest.raises(UsageError, match="DINO needs labels"):
        make_method("dino", num_classes=0, targets="label")
    assert make_method("dino", num_classes=0).label_means is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_momentum": 0.9}, "--label_momentum is about the means of --targets label; add that option"),
        ({"targets": "label", "label_momentum": 1.0}, "--label_momentum 1.0: give 0 or more and less than 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        METHODS.get("dino").Config(**options)
