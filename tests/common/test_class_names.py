"""Names of classes for readers."""

import subprocess
import sys

import pytest

from common.class_names import readable
from common.errors import UserError
from data.datasets import open_dataset
from reports.page.classes import _readable
from reports.visual.core.images import class_names


@pytest.mark.parametrize("separator", ["\t", ",", " ", ", "])
def test_class_and_name_a_line_in_any_order(tmp_path, separator):
    lines = [("n02", "electric ray, crampfish"), ("other", "no class here"), ("n01", "tench")]
    (tmp_path / "names.txt").write_text("\n".join(f"{name}{separator}{words}" for name, words in lines) + "\n")
    assert readable(["n01", "n02"], tmp_path / "names.txt") == ("tench", "electric ray, crampfish")


def test_one_name_a_line(tmp_path):
    (tmp_path / "names.txt").write_text("great white shark\n\nhammerhead, a shark\n", encoding="utf-8-sig")
    assert readable(["a", "b"], str(tmp_path / "names.txt")) == ("great white shark", "hammerhead, a shark")


def test_files_that_do_not_name_the_classes(tmp_path):
    (tmp_path / "names.txt").write_text("a one\nc two\nd three\n")
    with pytest.raises(UserError, match=r"3 lines, which name 1 of the 2 classes \(not b\)"):
        readable(["a", "b"], tmp_path / "names.txt")
    with pytest.raises(UserError, match="cannot be read"):
        readable(["a"], tmp_path / "nothing.txt")
    problems = []
    assert _readable(["background", "a", "b"], tmp_path / "names.txt", "demo", problems) == ["background", "a", "b"]
    assert "its classes keep their names" in problems[0].what


def test_synsets_have_their_words_without_a_file():
    assert readable(["n01440764", "n01443537"]) == ("tench", "goldfish")
    assert readable(["n02012849", "n03126707"]) == ("crane (n02012849)", "crane (n03126707)")
    assert readable(["n01440764", "cat"]) == ("n01440764", "cat")
    assert readable(["n99999999"]) == ("n99999999",) and readable([]) == ()
    code = "import sys; from common.class_names import readable; readable(['n01440764']); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pictures_and_masks_have_them(image_folder, tmp_path):
    store = open_dataset("imagefolder", "train", image_folder, None, progress=False)
    fingerprint = store.fingerprint
    assert class_names(store, 0) == "ant" and store.mask_classes == ("background", "ant", "bee")
    (tmp_path / "names.txt").write_text("bee\thoney bee\nant\tred ant\n")
    store.name_classes(tmp_path / "names.txt")
    assert class_names(store, 0) == "red ant" and store.mask_classes == ("background", "red ant", "honey bee")
    assert store.subset([0]).titles == store.titles and store.classes == ("ant", "bee")
    assert store.fingerprint == fingerprint
