"""The lines of docs/quick-start.md, run on a folder of photos in their order, with smaller values than a user would give."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "quick-start.md").read_text()
#: What the test makes smaller.
SMALLER = {
    "vit_t16": "vit_nano",
    "96": "16",
    "48": "8",
    "100": "1",
    "64": "4",
    "4096": "32",
    "pca": None,
    "1": None,
    "2": None,
}
QUICK = ["--device", "cpu", "--precision", "fp32", "--log_every", "1"]
QUICK_DINO = ["--hidden_dim", "16", "--bottleneck_dim", "8", "--local_crops", "1"]


def lines(block: int) -> list[list[str]]:
    """The words of the commands in a block of the page."""
    text = re.findall(r"```\n(.*?)```", PAGE, re.S)[block]
    return [shlex.split(line) for line in text.splitlines()]


def test_the_page_has_ten_lines_at_most():
    assert sum(len(lines(block)) for block in (0, 1)) <= 10


def photos(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(count):
        file = folder / ("" if number % 2 else "below") / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)).save(file)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def start(words: list[str]) -> None:
    assert words[:2] == ["python", "run.py"]
    words = [SMALLER.get(word, word) for word in words[2:]]
    words = [word for word in words if word is not None]
    if words[0].startswith("-"):
        method = words[words.index("--method") + 1]
        words += QUICK + (QUICK_DINO if method == "dino" else [])
    assert run.main(words) == 0, words


@pytest.mark.slow
def test_from_photos_to_a_report(folder):
    photos(folder / "photos", 20, 0)
    setup, *commands = lines(0)
    assert setup == ["make", "setup"]
    for words in commands:
        start(words)
    page = (folder / "report" / "index.html").read_text()
    for words in ("DINO", "Barlow Twins", "Training loss", "Signs of collapse", "Attention: DINO"):
        assert words in page
    assert (folder / "report" / "tables" / "cost.tex").is_file()


@pytest.mark.slow
def test_sorted_photos_are_measured(folder):
    for split, seed in (("train", 1), ("val", 2)):
        for name in ("ant", "bee"):
            photos(folder / "sorted" / split / name, 12, seed)
    for words in lines(1):
        start([word for word in words if word not in ("barlow_twins", "linear")])  # a minute each
    assert "k-NN" in (folder / "comparison" / "report" / "index.html").read_text()
