"""What ``compare --dry_run`` says of a grid's length."""

import json
import time

import pytest
from rich.console import Console

from commands.compare import print_plan
from commands.train import read_options
from common.cli import words_of
from training.grids.estimate import TimeEstimate, in_words, product_speed
from training.grids.grid import Cell

OPTIONS = {
    "method": "barlow_twins",
    "backbone": "vit_nano",
    "data": "imagefolder",
    "image_size": 16,
    "epochs": 2,
    "batch_size": 8,
    "projector": "32-32",
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture
def options(folder):
    return {**OPTIONS, "data_root": str(folder)}


def ended(directory, **end):
    directory.mkdir(parents=True)
    (directory / "log.jsonl").write_text(json.dumps({"kind": "end", **end}) + "\n")
    return directory


def minutes_of(estimate, options):
    asked = read_options(words_of(options))
    return estimate.minutes(asked.train, asked.method)


def test_time_follows_from_the_speed_of_runs_that_ended(options, tmp_path):
    run = ended(tmp_path / "a", training_flops=2e9, images_per_second=10.0)
    estimate = TimeEstimate([(options, run)])
    minutes = minutes_of(estimate, options)
    assert minutes_of(estimate, {**options, "epochs": 4, "seed": 1}) == pytest.approx(2 * minutes)
    faster = TimeEstimate([(options, ended(tmp_path / "b", training_flops=2e9, images_per_second=40.0))])
    assert minutes_of(faster, options) == pytest.approx(minutes / 4)
    assert "runs that have ended" in estimate.source


def test_an_untrained_backbone_takes_no_time(folder):
    assert (
        minutes_of(
            TimeEstimate([]),
            {"method": "random", "backbone": "vit_nano", "data": "imagefolder", "data_root": str(folder)},
        )
        == 0
    )


def test_a_plan_without_data_still_lists_its_runs(options, tmp_path):
    missing = {**options, "data_root": str(tmp_path / "nowhere")}
    console = Console(record=True, width=200)
    cells = [Cell("one", options), Cell("two", missing)]
    asked = {cell.name: read_options(words_of(cell.options)) for cell in cells}
    print_plan("Plan", cells, asked, tmp_path, 1, console)
    text = console.export_text()
    assert "two" in text and "nowhere" in text and "1 runs of unknown length" in text and "unknown" in text


@pytest.mark.parametrize(
    ("minutes", "words"), [(0.5, "30 s"), (3, "3 min"), (150, "2.5 h"), (9000, "6.2 d"), (None, "unknown")]
)
def test_in_words(minutes, words):
    assert in_words(minutes) == words


def test_the_speed_of_a_processor_does_not_depend_on_other_load(monkeypatch):
    """By the clock on the wall, other programs make a product as slow as there are of them."""
    monkeypatch.setattr(time, "perf_counter", lambda: pytest.fail("looked at the wall's clock"))
    assert product_speed.__wrapped__("cpu", "fp32") > 0
