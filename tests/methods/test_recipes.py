"""Every method has settings for a few thousand small images: ``--recipe small``."""

import dataclasses

import pytest

from commands.train import read_options
from common.cli import words_of as words_of_cell
from common.errors import UsageError
from methods.core.base import METHODS
from training.config import TrainConfig
from training.grids.checks import cautions, refusals
from training.grids.grid import cells_of, grid_of, options_of_methods
from training.grids.options import CompareCommand
from training.plan import make_plan

TRAINED = [name for name in METHODS.names() if METHODS.get(name).trains]


def words_of(method, *more):
    return ["--method", method, "--backbone", "vit_pico", "--recipe", "small", "--device", "cpu", *more]


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_is_too_large_for_thousands_of_images(name):
    options = read_options(words_of(name, "--data", "demo", "--image_size", "32"))
    assert options.train.recipe == "small" and options.train.batch_size == 128 and options.train.epochs == 100
    plan = make_plan(options.train, options.method, fetch=False)  # of 2,600 images
    assert refusals(plan) == [] and not any("large data sets" in caution for caution in cautions(plan))
    names = {field.name for kind in (TrainConfig, METHODS.get(name).Config) for field in dataclasses.fields(kind)}
    assert METHODS.get(name).small.keys() <= names


@pytest.mark.parametrize("name", METHODS.names())
def test_published_values_stay_the_default(name):
    options = read_options(["--method", name])
    assert options.train == TrainConfig(**{"method": name, **METHODS.get(name).recipe})
    assert options.method == METHODS.get(name).Config()


def test_options_that_are_given_win():
    options = read_options(words_of("dino", "--out_dim", "64", "--lr", "0.01"))
    assert (options.method.out_dim, options.train.lr, options.method.hidden_dim) == (64, 0.01, 256)


def test_methods_without_training_have_none():
    assert read_options(["--method", "pixels", "--recipe", "small"]).train.backbone == "pixels"


def test_an_unknown_recipe_is_refused():
    with pytest.raises(UsageError, match="small"):
        read_options(["--method", "dino", "--recipe", "tiny"])


def test_a_run_of_another_recipe_is_no_configuration_for_this_one(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("method: dino\nrecipe: published\nout_dim: 65536\n")
    with pytest.raises(UsageError, match="leave one out"):
        read_options(["--config", str(config), "--recipe", "small"])
    config.write_text("method: dino\nout_dim: 64\n")
    options = read_options(["--config", str(config), "--recipe", "small"])
    assert (options.method.out_dim, options.method.hidden_dim) == (64, 256)


def test_cells_of_a_grid_have_it_and_their_own_values_win():
    command = CompareCommand(methods=["dino", "vicreg"], backbones=["vit_pico"])
    grid = grid_of(command, {"recipe": "small", "lr": 0.5})
    cells = cells_of(grid, options_of_methods(grid.methods))
    asked = [read_options(words_of_cell(cell.options)) for cell in cells]
    assert [(one.train.recipe, one.train.lr, one.train.batch_size) for one in asked] == [("small", 0.5, 128)] * 2
