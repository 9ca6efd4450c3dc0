"""Images that are not those of the training, or of earlier results, are told of."""

import shutil

import numpy as np
import pytest
from PIL import Image

import run as command_line
from commands.train import train
from tests.small_runs import make_folder, small_run


@pytest.fixture
def trained(tmp_path):
    """A run on images of its own, which are in ``tmp_path / "images"``."""
    root = make_folder(tmp_path / "images")
    return train(*small_run(root, tmp_path / "run", "barlow_twins", epochs=1))


def evaluate(run, capsys, *words: str) -> str:
    capsys.readouterr()
    options = ["--evals", "knn", "--knn_ks", "5", "--device", "cpu", *words]
    assert command_line.main(["evaluate", "--weights", str(run), *options]) == 0
    return " ".join(capsys.readouterr().err.split())


def warnings_in(said: str) -> list[str]:
    return [word for word in ("was trained on", "was measured on other images") if word in said]


def test_deleted_images_are_told_of(trained, tmp_path, capsys):
    assert not warnings_in(evaluate(trained, capsys))
    for file in sorted((tmp_path / "images" / "train").rglob("*.png"))[::2]:
        file.unlink()
    said = evaluate(trained, capsys)
    assert f"are not those that {trained} was trained on: 44 then, 22 now" in said
    assert "knn in" in said and "(44 train images then, 22 now)" in said
    said = evaluate(trained / "checkpoints" / "last.pt", capsys, "--out", str(tmp_path / "elsewhere"))
    assert warnings_in(said) == ["was trained on"]


def test_renamed_images_are_told_of(trained, tmp_path, capsys):
    for file in sorted((tmp_path / "images" / "train").rglob("*.png"))[:3]:
        file.rename(file.with_stem(f"new{file.stem}"))
    assert "of 44 images some have other names" in evaluate(trained, capsys)


def test_images_with_other_pixels_are_told_of(trained, tmp_path, capsys):
    evaluate(trained, capsys)
    file = next((tmp_path / "images" / "val").rglob("*.png"))
    Image.fromarray(np.zeros((36, 40, 3), np.uint8)).save(file)
    said = evaluate(trained, capsys)
    assert warnings_in(said) == ["was measured on other images"] and "other pixels or labels of test images" in said


@pytest.mark.slow
def test_other_data_and_a_moved_folder_are_no_change(trained, tmp_path, capsys):
    evaluate(trained, capsys)
    shutil.copytree(tmp_path / "images", tmp_path / "moved")
    shutil.rmtree(tmp_path / "images")
    assert not warnings_in(evaluate(trained, capsys, "--data_root", str(tmp_path / "moved")))
    assert not warnings_in(evaluate(trained, capsys, "--data", "demo"))
