"""Fine-tuning on tiny images."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UsageError, UserError
from data.sets.core.voc import CLASSES
from eval.core.run import run_evaluations
from eval.finetune import Finetune, FinetuneConfig, FinetuneTask, FinetuneTaskConfig, predict
from training.batches import Batches

SMALL = {"epochs": 4, "batch_size": 20, "drop_path": 0.0}


def test_a_step_is_sgd_with_two_rates(make_test_context, monkeypatch):
    """Against a loop of torch's own SGD on the same batches."""
    context = make_test_context("resnet18")
    evaluation = Finetune(FinetuneConfig(lrs=[0.5], backbone_lr_scale=0.01, weight_decay=1e-3, epochs=1, batch_size=40))
    first, seen = {}, []
    stream, begin = Batches.stream, FinetuneTask.train

    def watched(self, start, end):
        for batch in stream(self, start, end):
            seen.append(copy.deepcopy(batch))
            yield batch

    def remember(self, mode=True):
        first.setdefault("state", copy.deepcopy(self.state_dict()))
        return begin(self, mode)

    monkeypatch.setattr(Batches, "stream", watched)
    monkeypatch.setattr(FinetuneTask, "train", remember)
    rows = context.labelled("train")
    found = evaluation._trained(context, rows, 0.5).state_dict()
    assert len(seen) == 3

    backbone = copy.deepcopy(context.backbone)
    expected = FinetuneTask(FinetuneTaskConfig(), lambda **hints: backbone, 6)
    expected.load_state_dict(first["state"])
    for name, tensor in context.backbone.state_dict().items():
        torch.testing.assert_close(first["state"][f"backbone.{name}"], tensor)  # it starts from the weights
    groups = []
    for name, parameter in expected.named_parameters():
        peak = 0.5 if name.startswith("classifier") else 0.005
        groups.append({"params": [parameter], "peak": peak, "weight_decay": 1e-3 if parameter.ndim > 1 else 0.0})
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9)
    begin(expected)
    for step, batch in enumerate(seen):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * 0.5 * (1 + math.cos(math.pi * step / 3))
        optimizer.zero_grad()
        F.cross_entropy(expected.classifier(expected.backbone(batch.views[0])), batch.labels).backward()
        optimizer.step()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_learns_and_says_how(make_test_context):
    context = make_test_context()
    before = context.weights_hash
    config = FinetuneConfig(lrs=[1e-6, 3e-3], epochs=8, batch_size=20, drop_path=0.0)
    (top1, top5) = run_evaluations(["finetune"], {"finetune": config}, context)
    assert (top1.metric, top5.metric, top1.n) == ("top1", "top5", 48)
    assert top1.value > 50  # of six classes
    assert top1.protocol["chosen_lr"] == 3e-3
    assert 1 / 6 < top1.protocol["chosen_quality"] <= 1  # of twelve images
    assert len(list((context.run_dir / "finetune").iterdir())) == 3  # two to choose, one to measure
    del context.__dict__["weights_hash"]
    assert context.weights_hash == before  # the run's backbone is as it was
    with np.load(context.run_dir / top1.predictions) as arrays:
        assert 100 * arrays["top1"].mean() == pytest.approx(top1.value)


def test_test_labels_choose_nothing(make_test_context):
    config = FinetuneConfig(lrs=[1e-4, 1e-3], **{**SMALL, "epochs": 1})
    chosen = []
    for shuffled in (False, True):
        context = make_test_context(out=f"run{shuffled}")
        if shuffled:
            np.random.default_rng(0).shuffle(context.test.labels)
        (m, _) = run_evaluations(["finetune"], {"finetune": config}, context)
        chosen.append((m.protocol["chosen_lr"], m.protocol["chosen_quality"]))
    assert chosen[0] == chosen[1]


def test_stochastic_depth_is_of_vits(make_test_context):
    for backbone, drop_path in (("vit_nano", 0.1), ("resnet18_cifar", 0.0)):
        config = FinetuneConfig(lrs=[1e-3], epochs=1, batch_size=20)
        context = make_test_context(backbone, out=backbone)
        (m, _) = run_evaluations(["finetune"], {"finetune": config}, context)
        assert m.protocol["drop_path"] == drop_path


def test_parts_of_the_labels(make_test_context):
    context = make_test_context()
    config = FinetuneConfig(fractions=[0.25, 0.5], lrs=[1e-3], **SMALL)
    found = [m for m in run_evaluations(["finetune"], {"finetune": config}, context) if m.metric == "top1"]
    assert [m.protocol["labelled_images"] for m in found] == [30, 60]
    assert len({m.predictions for m in found}) == 2
    assert found[0].protocol["chosen_quality"] is None


def test_a_list_of_labelled_images(make_test_context, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"class{label}/{i}.png\n" for label in range(6) for i in range(4)))
    config = FinetuneConfig(lists=[str(tmp_path / "list.txt")], lrs=[1e-3], **SMALL)
    (m, _) = run_evaluations(["finetune"], {"finetune": config}, make_test_context())
    assert (m.protocol["labels"], m.protocol["labelled_images"]) == ("list list.txt", 24)


def test_what_has_been_trained_is_not_trained_again(make_test_context, monkeypatch):
    context = make_test_context()
    config = FinetuneConfig(lrs=[1e-3], **SMALL)
    first = run_evaluations(["finetune"], {"finetune": config}, context)
    monkeypatch.setattr(Batches, "stream", None)
    assert run_evaluations(["finetune"], {"finetune": config}, context, again=True) == first


def test_an_interrupted_training_continues_alike(make_test_context, monkeypatch):
    config = FinetuneConfig(lrs=[1e-3], **SMALL)
    whole = run_evaluations(["finetune"], {"finetune": config}, make_test_context(out="whole"))
    stream = Batches.stream

    def stops(self, start, end):
        for step, batch in enumerate(stream(self, start, end)):
            if step == 9:
                raise KeyboardInterrupt
            yield batch

    context = make_test_context(out="stopped")
    monkeypatch.setattr(Batches, "stream", stops)
    with pytest.raises(KeyboardInterrupt):
        run_evaluations(["finetune"], {"finetune": config}, context)
    monkeypatch.setattr(Batches, "stream", stream)
    assert run_evaluations(["finetune"], {"finetune": config}, context) == whole


def test_several_labels(make_test_context):
    context = make_test_context()
    for store in (context.train, context.test):
        store.classes = CLASSES[:6]
        store._label_sets = np.eye(6, dtype=bool)[store.labels] | np.eye(6, dtype=bool)[(store.labels // 2) * 2]
    (m,) = run_evaluations(["finetune"], {"finetune": FinetuneConfig(lrs=[3e-3], **SMALL)}, context)
    assert m.metric == "map" and m.value > 40


def test_logits_are_of_the_images_in_order(make_test_context):
    context = make_test_context()
    task = FinetuneTask(FinetuneTaskConfig(drop_path=0.0), lambda **hints: context.backbone, 6).eval()
    rows = np.array([5, 0, 30])
    scores = predict(context, task, context.test, rows)
    with torch.no_grad():
        expected = task.classifier(context.features("test")[rows])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_wrong_options(make_test_context):
    for options, message in (
        ({"fractions": [0]}, "--finetune_fractions 0"),
        ({"lrs": [-1.0]}, r"--finetune_lrs -1\.0"),
        ({"epochs": 0}, "--finetune_epochs 0"),
        ({"optimizer": "adam"}, "did you mean adamw"),
        ({"layer_decay": 0}, "--finetune_layer_decay 0"),
        ({"backbone_lr_scale": -1}, "--finetune_backbone_lr_scale -1: give 0 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            run_evaluations(["finetune"], {"finetune": FinetuneConfig(**options)}, make_test_context())
    with pytest.raises(UserError, match="--finetune_batch_size 256: imagefolder has 108 labelled images to train on"):
        run_evaluations(["finetune"], {"finetune": FinetuneConfig()}, make_test_context())
