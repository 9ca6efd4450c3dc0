"""Budgets: what they are turned into, and that a run keeps the one it began with."""

import json

import pytest
import yaml

from commands.train import train
from common.errors import UsageError, UserError
from methods.core.base import METHODS
from training import budget, plan
from training.costs import cost_of
from training.plan import make_plan


@pytest.mark.parametrize(
    "text", ["images", "images=", "images=-5", "images=0", "hours=3", "images=5e", "images=1=2", "images=nan"]
)
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(UsageError, match="--budget"):
        budget.parse_budget(text)


def test_images_and_epochs(small, tmp_path):
    # 44 images less the held-out 4 are 5 batches of 8 an epoch.
    assert make_plan(*small(tmp_path / "a", budget="images=96")).total_steps == 12
    assert make_plan(*small(tmp_path / "a", budget="epochs=1.5")).total_steps == round(1.5 * 5)
    assert make_plan(*small(tmp_path / "a", budget="images=1")).total_steps == 1


def test_operations_are_those_of_all_views(small, tmp_path):
    one = make_plan(*small(tmp_path / "a", "barlow_twins"))
    given = make_plan(*small(tmp_path / "a", "barlow_twins", budget=f"flops={one.costs['training_flops'] * 8 * 7}"))
    assert given.total_steps == 7


@pytest.mark.parametrize("labels", [None, 2])
@pytest.mark.parametrize("name", [name for name in METHODS.names() if METHODS.get(name).trains])
def test_every_method_can_be_counted(small, tmp_path, name, labels):
    """Whether images have one label, or several in as many columns; and never more than the quick bounds."""
    counted = make_plan(*small(tmp_path / "run", name))
    costs = cost_of(counted.build_method, counted.views, counted.config, labels)
    assert costs["training_flops"] > costs["flops"] and costs["memory"]["activations"] > 0
    assert costs["training_flops"] <= counted.most_costs["training_flops"] < 4 * costs["training_flops"]
    most = counted.most_costs["memory"]
    assert most["activations"] > costs["memory"].pop("activations") and most.items() >= costs["memory"].items()


@pytest.mark.parametrize("name", ["random", "pixels"])
def test_what_trains_nothing_has_neither_gradients_nor_moments(small, tmp_path, name):
    backbone = {"backbone": "pixels"} if name == "pixels" else {}
    costs = make_plan(*small(tmp_path / "run", name, **backbone)).costs
    assert costs["trained_parameters"] == 0 and costs["memory"]["gradients_and_optimizer"] == 0
    assert costs["training_flops"] is None


def test_equal_operations_are_more_steps_for_the_cheaper_method(small, tmp_path):
    dino, barlow = (
        make_plan(*small(tmp_path / m, m, budget="flops=1e9")).total_steps for m in ("dino", "barlow_twins")
    )
    assert barlow > dino


def test_minutes_are_measured_once_and_kept_by_a_run_that_continues(small, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "minutes_of_a_step", lambda *rest: 1 / 60)
    run = train(*small(tmp_path / "run", budget="minutes=0.2"))
    assert yaml.safe_load((run / "config.yaml").read_text())["epochs"] == pytest.approx(12 / 5)
    end = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()][-1]
    assert end["kind"] == "end" and end["step"] == 12 and end["images_seen"] == 96
    monkeypatch.setattr(plan, "minutes_of_a_step", lambda *rest: 1 / 120)
    train(*small(tmp_path / "run", budget="minutes=0.2"))  # finished already: its own length, not another
    with pytest.raises(UserError, match="other options"):
        train(*small(tmp_path / "run", budget="minutes=0.4"))


@pytest.mark.parametrize("epochs", [3, 1])
def test_a_step_can_be_timed(small, tmp_path, epochs):
    assert make_plan(*small(tmp_path / "run", budget="minutes=0.05", epochs=epochs)).total_steps >= 1


def test_a_method_without_training_needs_none(small, tmp_path):
    assert make_plan(*small(tmp_path / "run", "random", budget="images=96")).total_steps == 0
