"""Options declare their range and what they affect; checks, help and grids read it there."""

import doctest
import math
from dataclasses import dataclass, field

import pytest

import common.options
from common.cli import make_parser, parse
from common.errors import UsageError
from common.options import check, one_of, option, options_of_training, options_without_effect
from data.sets.core.base import DATASETS
from training.config import TrainConfig


def short(value):
    if len(value) > 3:
        raise ValueError("give at most 3 letters")


@dataclass(kw_only=True)
class Nested:
    share: float = option(0.5, at_least=0, below=1)
    """a share"""


@dataclass(kw_only=True)
class Config:
    lr: float = option(0.1, at_least=0, only_training=True)
    """learning rate"""
    parts: list[float] = option([0.5], above=0, at_most=1)
    """parts"""
    size: int | None = option(None, at_least=8, at_most=64, unit="pixels")
    """a size"""
    name: str = option("abc", form=short)
    """a name"""
    device: str = option("auto", changes_results=False)
    """a device"""
    flag: bool = False
    """a flag"""
    data: str = option("demo", names=DATASETS.names)
    """a data set"""
    nested: Nested = field(default_factory=Nested)


def test_docstrings():
    assert doctest.testmod(common.options).failed == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1}, "--a_lr -1: give 0 or more"),
        ({"lr": math.nan}, "--a_lr nan: give a finite number"),
        ({"lr": math.inf}, "--a_lr inf: give a finite number"),
        ({"parts": [0.1, 0]}, "--a_parts 0.1 0: give more than 0 and at most 1"),
        ({"size": 7}, "--a_size 7: give 8 to 64 pixels"),
        ({"name": "abcd"}, "--a_name abcd: give at most 3 letters"),
        ({"parts": []}, "--a_parts: give one value or several: more than 0 and at most 1"),
        ({"nested": Nested(share=1.0)}, "--share 1.0: give 0 or more and less than 1"),
    ],
)
def test_check(options, message):
    with pytest.raises(UsageError) as raised:
        check(Config(**options), prefix="a_")
    assert str(raised.value) == message


def test_valid_values_pass():
    check(Config(lr=10**400))
    check(Config(lr=0, parts=[1.0], size=64, name="", nested=Nested(share=0)))


def test_lists_are_not_shared():
    Config().parts.append(2)
    assert Config().parts == [0.5]


def test_a_command_checks_and_shows_ranges(capsys):
    parser = make_parser("try", "")
    parser.add_arguments(Config, dest="options", prefix="a_")
    assert parse(parser, ["--a_lr", "0"]).options.lr == 0
    with pytest.raises(UsageError, match=r"^--a_lr -1\.0: give 0 or more$"):
        parse(parser, ["--a_lr", "-1"])
    with pytest.raises(UsageError, match=r"^--share 2\.0: give 0 or more and less than 1$"):
        parse(parser, ["--share", "2"])
    parser.print_help()
    text = capsys.readouterr().out
    assert "learning rate [0 or more]" in text and "a share [0 or more and less than 1]" in text
    assert "a flag [" not in text and "a device [" not in text
    assert f"a data set [{', '.join(DATASETS.names())}]" in " ".join(text.split())


def test_what_options_affect():
    assert options_without_effect(Config) == {"device"}
    assert options_of_training(Config) == {"lr"}


def test_options_that_a_continued_run_may_change():
    assert options_without_effect(TrainConfig) == {
        *("out", "visualize", "data_root", "stream", "device", "strategy", "compile", "evals"),
        *("tensorboard", "wandb", "pictures_every", "log_every", "checkpoint_every", "keep_checkpoints"),
    }


def test_one_of_several_names():
    form = one_of("colour", lambda: ["red", "green"])
    form("red")
    form(["red", "green"])
    with pytest.raises(UsageError, match="unknown colour 'gren'; did you mean green"):
        form(["red", "gren"])
    with pytest.raises(ValueError, match="give at least one colour"):
        form([])
