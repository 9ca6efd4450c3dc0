"""Images without labels: any folder is training data, and what needs labels refuses in a sentence."""

import json

import pytest

from commands.data import describe
from commands.train import read_options, train
from common.errors import UsageError, UserError
from data.datasets import open_dataset
from eval.core.context import make_context
from eval.core.options import WeightsOptions
from reports.analysis.rows import rows_of
from reports.page.provenance import provenance
from rundir.read import read_runs
from tests.small_runs import small_run
from training.grids.grid import Cell
from training.grids.launchers.cells import CellState, progress_of
from training.plan import make_plan


@pytest.fixture
def photos(tmp_path, photo):
    """16 images, some in nested folders, and a file that is none."""
    for number in range(16):
        folder = tmp_path / "photos" / ("", "trip", "trip/day 2")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        photo(20 + number, 30, number).save(folder / f"{number:02}.png")
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/.hidden.png").write_text("")
    return tmp_path / "photos"


def opened(root, split="train"):
    return open_dataset("images", split, root, None, progress=False)


def test_flat_and_nested_folders(photos):
    store = opened(photos)
    assert len(store) == 16 and store.num_classes == 0 and not store.labelled.any()
    assert store.names[0] == "00.png" and store.names[-1] == "trip/day 2/14.png"
    assert [name for name, _ in store.damaged] == ["notes.txt"]
    assert len(opened(photos / "trip" / "day 2")) == 5


def test_no_test_images(photos):
    with pytest.raises(UserError, match="without labels are to train on, and have no test images"):
        opened(photos, "test")
    with pytest.raises(UserError, match="no images for the train split of images"):
        (photos / "empty").mkdir()
        opened(photos / "empty")


def test_a_link_back_is_an_error_and_not_an_endless_walk(photos):
    (photos / "trip" / "back").symlink_to(photos)
    with pytest.raises(UserError, match="trip/back: a link back to a folder above it"):
        opened(photos)


def test_a_flat_folder_for_imagefolder_names_the_way(photos):
    (photos / "train").mkdir()
    (photos / "00.png").rename(photos / "train/00.png")
    for root in (photos, photos / "trip"):
        with pytest.raises(UserError, match="--data images"):
            open_dataset("imagefolder", "train", root, None, progress=False)


@pytest.mark.parametrize(
    "method, message",
    [
        ("supcon", "--method supcon needs labels"),
        ("supervised", "--method supervised needs labels"),
        ("weak_dino", r"--pairing same_label \(--method weak_dino\) needs labels"),
    ],
)
def test_what_needs_labels_refuses(photos, tmp_path, method, message):
    with pytest.raises(UserError, match=f"{message}, and no training image of images has one"):
        _ = make_plan(*small_run(photos, tmp_path / "run", method, data="images")).images


def test_evaluations_refuse_before_training(photos):
    with pytest.raises(UsageError, match="--evals knn cannot measure on images, which has no labels"):
        read_options(["--data", "images", "--data_root", str(photos), "--evals", "knn"])


def test_a_run_says_that_it_has_no_labels(photos, folder, tmp_path, capsys):
    run = train(*small_run(photos, tmp_path / "run", "barlow_twins", data="images", epochs=1))
    assert "no labels: the online k-NN, which needs them, is left out" in capsys.readouterr().err
    start, *records = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    assert (start["images"], start["held_out"], start["labelled"]) == (16, 0, 0)
    assert {record["kind"] for record in records} >= {"step", "diagnostics", "end"}
    assert not [record for record in records if record["kind"] == "knn"]

    (read,), problems = read_runs([run])
    assert read.unlabelled and "its images have no labels" in problems[0].what
    assert any("no labels" in str(cell) for line in provenance(rows_of([read])).rows for cell in line)

    steps = [start, *(record for record in records if record["kind"] == "step")]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in steps))
    assert progress_of(CellState(Cell("run", {"evals": []}), run)).words.endswith(", no labels")

    with pytest.raises(UserError, match="no test images to measure on; give --data"):
        make_context(WeightsOptions(weights=str(run), device="cpu"))
    elsewhere = WeightsOptions(weights=str(run), data="imagefolder", data_root=str(folder), image_size=16, device="cpu")
    assert len(make_context(elsewhere).labelled("test")) == 4


def test_describing_them_needs_no_test_images(photos, capsys):
    describe("images", photos)
    printed = capsys.readouterr().out
    assert "labels an image" in printed and "none" in printed and "notes.txt" in printed
