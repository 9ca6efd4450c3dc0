"""The picture in docs/add-a-picture.md is complete, short, and drawn wherever pictures are."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import run as command_line
from backbones import build_backbone
from commands.train import read_options
from commands.visualize import draw_for_run
from common.errors import UsageError
from common.registry import load_plugin
from reports import build_report
from reports.visual.core.base import VISUALIZATIONS
from tests.reports.factory import write_run

ROOT = Path(__file__).resolve().parents[3]
DOC = ROOT / "docs" / "add-a-picture.md"


@pytest.fixture(scope="module")
def code() -> str:
    (block,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def plugin(code, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "similarity.py"
    path.write_text(code, encoding="utf-8")
    load_plugin(str(path))
    return path


@pytest.fixture
def photo(tmp_path) -> Path:
    """The left half red noise, the right half blue."""
    pixels = np.random.default_rng(0).integers(0, 40, (48, 64, 3), np.uint8)
    pixels[:, :32, 0] += 200
    pixels[:, 32:, 2] += 200
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_is_short(code):
    assert len(code.splitlines()) < 60


def test_imports_no_torch(plugin):
    code = f"import sys; from common.registry import load_plugin; load_plugin({str(plugin)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_patch_is_most_similar_to_itself_and_to_its_half(plugin, photo):
    module = sys.modules[VISUALIZATIONS.get("similarity").__module__]
    cosines = module.similarities(build_backbone("vit_nano", 32).eval(), np.asarray(Image.open(photo)), 0.5, 0.2)
    rows, columns = cosines.shape
    assert cosines[rows // 2, int(0.2 * columns)] == pytest.approx(1, abs=1e-5)
    assert cosines[:, : columns // 2].mean() > cosines[:, columns // 2 :].mean()


def test_the_command_draws_it(plugin, photo, tmp_path, capsys):
    words = [
        "visualize",
        "similarity",
        "--plugin",
        plugin,
        "--backbone",
        "vit_nano",
        "--images",
        photo,
        "--out",
        tmp_path,
    ]
    assert command_line.main(list(map(str, words))) == 0
    path, vector = capsys.readouterr().out.split()
    assert (
        path == str(tmp_path / "similarity-vit_nano.png")
        and vector == path.replace(".png", ".pdf")
        and min(Image.open(path).size) > 250
    )
    assert command_line.main([*map(str, words), "--down", "2"]) == 2
    assert "--down 2.0: give 0 or more and less than 1" in capsys.readouterr().err
    assert command_line.main(["visualize", "--help", "--plugin", str(plugin)]) == 0
    assert re.search(r"similarity +Cosine similarity of all patches' features", capsys.readouterr().out)


def test_runs_and_reports_know_it(plugin, photo, tmp_path, capsys):
    assert read_options(["--visualize", "similarity", "pca"]).train.visualize == ["similarity", "pca"]
    with pytest.raises(UsageError, match="unknown picture of a run 'similarly'; did you mean similarity"):
        read_options(["--visualize", "similarly"])
    with pytest.raises(UsageError, match="unknown picture of a run 'collapse'"):
        read_options(["--visualize", "collapse"])
    run = write_run(tmp_path / "runs" / "dino-seed0", "dino", "vit_s8", seed=0)
    draw_for_run(run, ["similarity"])  # which has no checkpoint
    assert "no similarity: " in capsys.readouterr().out
    (run / "figures").mkdir(exist_ok=True)
    Image.open(photo).save(run / "figures" / "similarity-vit_s8.png")
    assert "Similar patches: DINO" in build_report([run], tmp_path / "out").read_text()
