"""The data set in docs/add-a-data-set.md is complete, short, and can be trained on."""

import re
from pathlib import Path

import pytest

import run
from common.errors import UserError
from common.registry import load_plugin
from data import datasets
from data.sets.core.base import DATASETS

DOC = Path(__file__).resolve().parents[2] / "docs" / "add-a-data-set.md"


@pytest.fixture
def plugin(tmp_path) -> Path:
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    assert len(block.splitlines()) < 50
    path = tmp_path / "pets.py"
    path.write_text(block, encoding="utf-8")
    load_plugin(str(path))
    yield path
    load_plugin.__globals__["sys"].modules.pop("plugin_pets")
    del DATASETS._items["pets"]


@pytest.fixture
def pets(tmp_path, photo) -> Path:
    """Three images of two breeds to train on, two to test on."""
    lists = {"trainval.txt": ["Bengal_1 1 1 1", "Great_Pyrenees_7 2 2 1", "Bengal_3 1 1 1"]}
    lists["test.txt"] = ["Great_Pyrenees_9 2 2 1", "Bengal_2 1 1 1"]
    root = tmp_path / "pets"
    for folder in ("annotations", "images"):
        (root / folder).mkdir(parents=True)
    for seed, (file, lines) in enumerate(lists.items()):
        (root / "annotations" / file).write_text("\n".join(lines) + "\n")
        for i, line in enumerate(lines):
            photo(40, 50, 10 * seed + i).save(root / "images" / f"{line.split()[0]}.jpg")
    return root


def test_images_and_labels(plugin, pets):
    train, test = (datasets.open_dataset("pets", split, pets, 32, progress=False) for split in ("train", "test"))
    assert train.classes == test.classes == ("Bengal", "Great_Pyrenees")
    assert train.labels.tolist() == [0, 1, 0] and test.labels.tolist() == [1, 0]
    assert train.names[0] == "images/Bengal_1.jpg" and datasets.default_image_size("pets") == 224
    assert DATASETS.facts("pets")["title"] == "Oxford-IIIT Pet"
    (pets / "images/Bengal_3.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of the files that trainval\.txt lists are missing: images/Bengal_3\.jpg"):
        datasets.open_dataset("pets", "train", pets, 32, progress=False)


def test_it_is_fetched(plugin, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setitem(DATASETS.get("pets").fetch.__globals__, "download", lambda url, path, md5: fetched.append(path))
    monkeypatch.setitem(DATASETS.get("pets").fetch.__globals__, "unpack", lambda archive, folder: None)
    datasets.fetch("pets", tmp_path)
    assert [path.name for path in fetched] == ["images.tar.gz", "annotations.tar.gz"]


def test_commands_take_it(plugin, pets, capsys):
    options = ["--plugin", str(plugin), "--data_root", str(pets)]
    assert run.main(["data", "pets", *options]) == 0
    assert "Great_Pyrenees" in capsys.readouterr().out
    training = ["--data", "pets", "--method", "dino", "--backbone", "vit_nano", "--batch_size", "2", "--dry_run"]
    assert run.main([*training, *options]) == 0
    assert run.main(["data", "pts", *options]) == 2
    assert "unknown data set 'pts'; did you mean pets?" in capsys.readouterr().err
