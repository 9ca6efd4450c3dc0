"""Features of any folder's images, as a file."""

import importlib.util
import json

import numpy as np
import pytest

import run as command_line
import ssl_compare
from common.errors import UserError
from data.store.decode import require_pixels
from eval.features.folder import writer_of


@pytest.fixture
def photos(tmp_path, photo):
    """Seven images in nested folders, one twice as long as wide, and two files that are none."""
    for number, name in enumerate(("b.png", "a.png", "trip/c.png", "trip/d e.jpg", "z.png", "trip/é.png", "x/y/q.png")):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(40, 40 + 40 * (number == 2), number).save(file)
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/trip/empty.png").write_bytes(b"")
    return tmp_path / "photos"


NAMES = ["a.png", "b.png", "trip/c.png", "trip/d e.jpg", "trip/é.png", "x/y/q.png", "z.png"]
UNREADABLE = ["notes.txt", "trip/empty.png"]


def read(path):
    """Names, features, tokens (or None) and meta data of a file."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            tokens = file.get("tokens")
            return file["files"].tolist(), file["features"], tokens, json.loads(str(file["about"]))
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = json.loads(pq.read_metadata(path).metadata[b"ssl_compare"])
    columns = {
        name: np.stack(table[name].to_numpy()).reshape(-1, *about["shapes"][name])
        for name in table.column_names
        if name != "file"
    }
    return table["file"].to_pylist(), columns["features"], columns.get("tokens"), about


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_one_row_an_image_in_order(photos, tmp_path, ending, capsys):
    if ending == "parquet" and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("needs pip install '.[hf]', as .ci/run does")
    out = tmp_path / f"features.{ending}"
    words = f"--images {photos} --out {out} --backbone vit_nano --image_size 32 --tokens --batch_size 2 --device cpu"
    assert command_line.main(["features", *words.split(), "--precision", "fp32"]) == 0
    printed = capsys.readouterr().err
    assert all(f"{name}: no usable image (" in printed for name in UNREADABLE)

    names, features, tokens, about = read(out)
    assert names == NAMES and features.dtype == tokens.dtype == np.float32
    assert [entry["file"] for entry in about["unreadable"]] == UNREADABLE
    assert (about["backbone"], about["image_size"], about["rows"]) == ("vit_nano", 32, 7)
    assert about["weights"] == "untrained" and "256/224" in about["transform"]

    network = ssl_compare.load(None, "vit_nano", image_size=32, device="cpu", precision="fp32")
    assert np.allclose(features, network.features([photos / name for name in NAMES]), atol=1e-5)
    assert np.allclose(tokens[3], network.tokens(require_pixels(photos / "trip/d e.jpg")), atol=1e-5)


def test_from_python_and_without_tokens(photos, tmp_path):
    path = ssl_compare.features(None, photos, tmp_path / "f.npz", backbone="vit_nano", image_size=32, device="cpu")
    names, features, tokens, _ = read(path)
    assert names == NAMES and features.shape == (7, 96) and tokens is None


def test_what_cannot_be_written_keeps_the_old_file(photos, tmp_path, capsys):
    out = tmp_path / "f.npz"
    out.write_text("old")
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.txt").write_text("x")
    for images, message in (("none", "none of its 1 files can be read as an image"), ("nowhere", "no such folder")):
        words = f"--images {tmp_path / images} --out {out} --backbone vit_nano --image_size 32 --device cpu"
        assert command_line.main(["features", *words.split()]) == 1
        assert message in capsys.readouterr().err
    assert out.read_text() == "old" and not list(tmp_path.glob(".*"))
    assert command_line.main(["features", "--images", str(photos), "--out", "f.csv", "--backbone", "vit_nano"]) == 2
    assert "give a name that ends in .parquet or .npz" in capsys.readouterr().err


def test_parquet_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="needs the package pyarrow, which is not installed"):
        writer_of(tmp_path / "f.parquet")
