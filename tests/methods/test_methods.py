"""What every method must do, on every kind of backbone."""

import copy
import dataclasses

import pytest
import torch

from common.cli import make_parser, parse, words_of
from common.errors import UsageError
from methods.core.base import METHODS, Progress
from training.config import TrainConfig

TRAINED = [
    *("dino", "barlow_twins", "weak_dino", "supervised"),
    *("simclr", "supcon", "byol", "mocov2", "mocov3", "vicreg", "swav"),
]


def test_names():
    assert {*TRAINED, "random"} <= set(METHODS.names())
    with pytest.raises(UsageError, match=r"unknown method 'dyno'; did you mean dino\?"):
        METHODS.get("dyno")


@pytest.mark.parametrize("backbone", ["vit_nano", "resnet18_cifar", "timm:test_vit"])
@pytest.mark.parametrize("name", TRAINED)
def test_step(make_method, make_batch, name, backbone):
    """One step in the trainer's order: finite loss, a gradient for every trained tensor, and every such tensor moves."""
    method = make_method(name, backbone)
    progress = Progress(step=2, steps_per_epoch=2, epochs=4)  # past the epoch of the frozen last layer
    groups = method.parameter_groups()
    trained = [p for p in method.parameters() if p.requires_grad]
    assert sorted(map(id, trained)) == sorted(id(p) for group in groups for p in group["params"])
    method.before_step(progress)
    output = method(make_batch(method))
    assert output.loss.shape == () and output.loss.isfinite()
    assert all(not value.requires_grad for value in output.metrics.values() if isinstance(value, torch.Tensor))
    if output.projections:
        first, second = output.projections
        assert first.shape == second.shape and len(first) == 4 and not first.requires_grad
    output.loss.backward()
    method.after_backward(progress)
    missing = [
        n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert not missing, missing
    torch.optim.SGD(groups, lr=0.1).step()
    method.after_step(progress)
    assert all(value.isfinite().all() for value in method.state_dict().values())


@pytest.mark.parametrize("backbone", ["vit_nano", "resnet18_cifar"])
@pytest.mark.parametrize("name", TRAINED)
def test_diagnosed_projections_are_those_of_a_step(make_method, make_batch, name, backbone):
    """Also where diagnostics give it the first views alone."""
    method = make_method(name, backbone, **({"drop_path": 0.0} if "dino" in name else {}))
    method.before_step(Progress(step=0, steps_per_epoch=2, epochs=4))
    batch = make_batch(method)
    few = dataclasses.replace(batch, views=batch.views[: method.projected_views])
    with torch.no_grad():
        expected = copy.deepcopy(method)(batch).projections
        got = method.project(few)
    assert (got is None) == (expected is None)
    if got is not None:
        torch.testing.assert_close(got, expected)


def test_evaluated_backbone(make_method):
    """The state dict holds every tensor once, and the evaluated backbone under a prefix of its own."""
    for name in [*TRAINED, "random"]:
        method = make_method(name)
        prefix = {"dino": "teacher.backbone.", "weak_dino": "teacher.backbone."}.get(name, "backbone.")
        state = method.state_dict()
        inner = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        assert inner == method.backbone.state_dict().keys()
        addresses = [value.data_ptr() for value in state.values() if value.numel()]
        assert len(addresses) == len(set(addresses))


@pytest.mark.parametrize("name", ["barlow_twins", "supervised", "vicreg", "byol"])
def test_overfits_few_images(make_method, train, name):
    """(DINO's loss may well rise while it learns: see test_dino.py for what its outputs say.)"""
    losses = [output.loss.item() for output in train(make_method(name), steps=40, lr=1e-2)]
    assert losses[-1] < 0.5 * losses[0], losses[::10]


@pytest.mark.parametrize("name", [*TRAINED, "random"])
def test_recipe_names_options(name):
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    recipe = METHODS.get(name).recipe
    assert recipe.keys() <= fields.keys()
    for option, value in recipe.items():
        assert value != fields[option], f"{option} is the default anyway"


@pytest.mark.parametrize("name", [*TRAINED, "random"])
def test_options_survive_the_command_line(name):
    """What ``config.yaml`` would hold comes back as the same configuration, and no option is one of the trainer's."""
    config_class = METHODS.get(name).Config
    config = config_class()
    assert not {f.name for f in dataclasses.fields(config)} & {f.name for f in dataclasses.fields(TrainConfig)}
    parser = make_parser("train", "")
    parser.add_arguments(config_class, dest="method")
    words = words_of(dataclasses.asdict(config))
    assert parse(parser, words).method == config
    help_text = parser.format_help()
    for field in dataclasses.fields(config):
        assert f"--{field.name} " in help_text


def test_trains():
    assert not METHODS.get("random").trains
    assert all(METHODS.get(name).trains for name in TRAINED)
    assert [name for name in TRAINED if METHODS.get(name).uses_labels] == ["supervised", "supcon"]


def test_weak_dino_is_dino_with_pairing(make_method, make_batch):
    dino, weak = METHODS.get("dino"), METHODS.get("weak_dino")
    assert weak.recipe == {**dino.recipe, "pairing": "same_label"}
    first, second = make_method("dino"), make_method("weak_dino")
    assert torch.equal(first(make_batch(first)).loss, second(make_batch(second)).loss)
