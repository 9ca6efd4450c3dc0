"""``ssl_compare``: each block of docs/python.md runs as in a notebook, beside files whose names are the toolkit's, too."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.S)

NOTEBOOK = """
import sys
import data, eval                   # the notebook's own
blocks = sys.stdin.read().split("\\0")
for block in blocks:
    exec(compile(block, block, "exec"))

import numpy as np
assert features.shape == (4, 96) and features.dtype == np.float32
assert tokens.shape == (8, 8, 96) and attention.shape == (3, 8, 8) and tuple(batch.shape) == (4, 3, 32, 32)
assert (attention.sum((1, 2)) < 1).all()

# Features here are those that the evaluation keeps.
from pathlib import Path
kept = [np.load(path) for path in sorted(Path("runs/first/features").rglob("*.npy"))]
assert any(one.shape == features.shape and np.allclose(one, features, atol=1e-5) for one in kept), [one.shape for one in kept]

assert set(frame.method) == {"barlow_twins", "random"} and (frame.seed == 0).all() and (frame["protocol.k"].dropna() == 5).all()
assert {"run", "value", "low", "high", "n", "backbone", "epochs"} <= set(frame.columns)
assert list(untrained.evaluation.unique()) == ["knn"] and len(table) == 2 and "Method" in table.columns
assert data.__file__ is None and eval.mine and sys.modules["eval"] is eval
print("DONE")
"""


@pytest.fixture(scope="module")
def notebook_folder(tmp_path_factory):
    """``photos/`` as the page has it, and a ``data/`` folder and an ``eval.py`` of the notebook's own."""
    folder = tmp_path_factory.mktemp("notebook")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            (folder / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
                pixels[..., label] //= 3
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{number}.png")
    (folder / "data").mkdir()
    (folder / "eval.py").write_text("mine = True\n")
    return folder


#: As ``pip install -e .`` does it: this one module is found in the checkout, and no other.
INSTALLED = f"""
import importlib.util, sys
class Installed:
    def find_spec(name, path=None, target=None):
        if name == "ssl_compare":
            return importlib.util.spec_from_file_location(name, {str(ROOT / "ssl_compare.py")!r})
sys.meta_path.append(Installed)
"""


def python(folder, code, text="", **environment):
    return subprocess.run(
        [sys.executable, "-c", f"{INSTALLED}\n{code}"],
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, "SSL_COMPARE_CACHE": str(folder / "cache"), **environment},
    )


@pytest.mark.slow
def test_the_page_runs_as_a_notebook(notebook_folder):
    done = python(notebook_folder, NOTEBOOK, "\0".join(BLOCKS))
    assert done.returncode == 0 and "DONE" in done.stdout, done.stderr[-3000:]
    assert done.stderr.count("the module 'eval' is loaded from") == 1


def test_its_functions_give_what_the_page_shows(notebook_folder, monkeypatch, capsys):
    """In this process and without a training, what the page does as a whole."""
    import ssl_compare

    monkeypatch.chdir(notebook_folder)
    small = {"backbone": "vit_nano", "image_size": 16, "device": "cpu"}
    data = {"data": "imagefolder", "data_root": "photos", "evals": ["knn"], "knn_ks": [5], **small}
    planned = ssl_compare.train(method="random", out="runs/none", dry_run=True, **data)
    assert "parameters: " in capsys.readouterr().out and not planned.exists()
    run = ssl_compare.train(method="random", out="runs/none", **data)
    assert run == planned
    files = sorted(Path("photos/val").rglob("*.png"))
    features = ssl_compare.load(run).features(files)
    assert features.shape == (4, 96) and features.dtype == np.float32
    kept = [np.load(path) for path in sorted((run / "features").rglob("*.npy"))]
    assert any(one.shape == features.shape and np.allclose(one, features, atol=1e-5) for one in kept)
    frame = ssl_compare.evaluate(out="runs/untrained", **data)
    assert list(frame.evaluation.unique()) == ["knn"] and (frame["protocol.k"] == 5).all()
    both = ssl_compare.results("runs/none", "runs/untrained")
    assert {"run", "value", "low", "high", "n", "backbone"} <= set(both.columns) and both.run.nunique() == 2
    with pytest.raises(Exception, match="no such weights file or run directory"):
        ssl_compare.load("no-such-file.pth")


def test_importing_takes_no_time_and_loads_nothing(tmp_path):
    code = "import ssl_compare; assert not {'torch', 'numpy', 'pandas', 'eval', 'data'} & set(sys.modules)"
    assert python(tmp_path, code).returncode == 0


def test_other_modules_of_these_names_stay_theirs(notebook_folder):
    code = """
import ssl_compare
ssl_compare.load(None, "vit_nano", image_size=16, device="cpu")
import eval
assert eval.mine
import backbones                    # nobody else has one: the toolkit's
"""
    done = python(notebook_folder, code)
    assert done.returncode == 0, done.stderr


def test_without_the_rest_of_the_checkout_one_sentence_says_so(tmp_path):
    (tmp_path / "ssl_compare.py").write_bytes((ROOT / "ssl_compare.py").read_bytes())
    done = subprocess.run([sys.executable, "-c", "import ssl_compare"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "without the toolkit; install it from a checkout: pip install -e ." in done.stderr


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_images_that_are_none_are_refused(image):
    import ssl_compare

    network = ssl_compare.load(None, "vit_nano", image_size=16, device="cpu")
    with pytest.raises(Exception, match=r"give uint8 \[H, W, 3\], a Pillow image or a path"):
        network.features(image)


def test_the_command_is_run_py(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"ssl-compare": "ssl_compare:main"}
    code = "import ssl_compare; sys.argv = ['ssl-compare', 'status', '--help']; ssl_compare.main()"
    assert "how far each run" in python(tmp_path, code).stdout
