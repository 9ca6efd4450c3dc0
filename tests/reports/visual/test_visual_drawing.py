"""Drawing functions: the numbers behind the pictures."""

import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from reports.visual import attention, embedding, neighbours, pca, receptive_field
from reports.visual import cross_correlation as correlation
from reports.visual.core import style as paper
from reports.visual.core.base import VISUALIZATIONS

ROOT = Path(__file__).resolve().parents[3]
NAMES = VISUALIZATIONS.names()  # before another test adds one


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_pictures_and_their_help_import_no_torch():
    code = """
import importlib, sys, run
for name in sys.argv[1:]:
    importlib.import_module(f"reports.visual.{name}")
    assert not {"torch", "sklearn", "seaborn"} & sys.modules.keys(), name
run.main(["visualize", "--help"])
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, *NAMES], cwd=ROOT, check=True)


@pytest.mark.parametrize("size, most", [(12, 4), (13, 4), (7, 3), (5, 8)])
def test_pooling_equals_loops(size, most):
    matrix = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    cells, n = correlation.pool(matrix, most)
    assert n == -(-size // most)
    for i in range(len(cells)):
        for j in range(len(cells)):
            block = matrix[i * n : (i + 1) * n, j * n : (j + 1) * n]
            assert cells[i, j] == pytest.approx(np.diagonal(block).mean() if i == j else block.mean(), abs=1e-6)


def test_pooling_keeps_the_diagonal_visible():
    """A plain mean of 16 × 16 entries would make the identity's diagonal 1/16."""
    cells, n = correlation.pool(np.eye(1024, dtype=np.float32), 64)
    assert n == 16
    np.testing.assert_array_equal(cells, np.eye(64))


def test_off_diagonal_entries():
    matrix = np.arange(25).reshape(5, 5)
    np.testing.assert_array_equal(correlation.off_diagonal(matrix), matrix[~np.eye(5, dtype=bool)])
    assert correlation.off_diagonal(np.ones((1, 1))).size == 0


def test_a_large_matrix_is_pooled_and_says_so_with_the_true_numbers():
    rng = np.random.default_rng(0)
    matrix = np.clip(rng.normal(0, 0.1, (1200, 1200)), -1, 1).astype(np.float32)
    np.fill_diagonal(matrix, 0.75)
    figure = correlation.heatmaps([correlation.Matrix("run", matrix, "all features")])
    upper = figure.axes[0]
    assert upper.images[0].get_array().shape == (400, 400)
    assert "diagonal mean 0.750" in upper.get_xlabel()
    assert "RMS 0.100" in upper.get_xlabel()
    caption = figure.get_supxlabel()
    assert "pooled (n = 3)" in caption
    assert "mean of n × n" in caption


def test_damaged_evolution_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no figures/cross_correlation\.npz"):
        correlation.read_evolution(tmp_path, "run", "")
    file = tmp_path / "figures" / "cross_correlation.npz"
    file.parent.mkdir()
    file.write_bytes(b"PK half")
    with pytest.raises(UserError, match="cannot be read"):
        correlation.read_evolution(tmp_path, "run", "")
    np.savez(file, epochs=[0, 1], matrices=np.zeros((1, 2, 2)), on_diagonal=[0], off_diagonal=[0])
    with pytest.raises(UserError, match="2 epochs"):
        correlation.read_evolution(tmp_path, "run", "")


def evolution(name, epochs):
    matrices = np.stack([np.eye(8) * (e + 1) / (max(epochs) + 1) for e in epochs]).astype(np.float32)
    on = matrices.diagonal(axis1=1, axis2=2).mean(1)
    return correlation.Evolution(np.array(epochs), matrices, on, np.zeros(len(epochs)), name=name, about="about it")


def test_animation_has_a_frame_for_every_epoch_and_shows_the_newest_matrices(tmp_path):
    frames = list(correlation.animation([evolution("a", [0, 2, 4]), evolution("b", [0, 3])]))
    assert len(frames) == 4  # epochs 0, 2, 3, 4
    assert len({frame.shape for frame in frames}) == 1
    assert all((a != b).any() for a, b in itertools.pairwise(frames))
    path = paper.save_gif(frames, tmp_path / "a.gif", 0.25)
    with Image.open(path) as image:
        assert image.n_frames == 4
        assert image.info["duration"] == 250
        assert np.asarray(image.convert("RGB")).shape == frames[0].shape


def test_film_strip_and_curves_show_what_was_logged():
    runs = [evolution("a", list(range(20))), evolution("b", [0, 3])]
    strip = correlation.film_strip(runs, frames=6)
    titles = [axis.get_title() for axis in strip.axes if axis.images][:6]
    assert titles == [f"epoch {e}" for e in (0, 4, 8, 11, 15, 19)]
    np.testing.assert_allclose(strip.axes[5].images[0].get_array(), np.eye(8))
    left = correlation.curves(runs, "title").axes[0]
    np.testing.assert_allclose(left.lines[0].get_ydata(), runs[0].on_diagonal)


def test_masks_of_all_heads_have_the_colour_of_the_head_that_looks_most():
    image = np.full((4, 8, 3), 100, np.uint8)
    maps = np.array([[[4.0, 1.0]], [[1.0, 1.0]]])
    masks = np.array([[[True, False]], [[True, True]]])
    picture = attention.coloured(image, maps, masks)
    tints = attention.head_colours(2)
    np.testing.assert_array_equal(picture[0, 0], np.round(0.4 * 100 + 0.6 * tints[0]))
    np.testing.assert_array_equal(picture[3, 7], np.round(0.4 * 100 + 0.6 * tints[1]))


def test_field_size_and_share_outside():
    field = np.zeros((9, 9))
    field[3:6, 3:6] = 0.5
    field[4, 4] = 2.0
    field[0, 0] = 0.05  # 2.5% of the greatest: outside the field
    assert receptive_field.field_size(field) == 3
    assert receptive_field.relative(field).max() == 1
    assert receptive_field.share_outside(field, (3, 3, 3, 3)) == pytest.approx(0.05 / field.sum())
    assert receptive_field.share_outside(field, (4, 4, 1, 1)) == pytest.approx(1 - 2 / field.sum())
    assert not receptive_field.relative(np.zeros((3, 3))).any()


def test_colours_of_components_span_all_images_together():
    scores = [np.zeros((2, 2, 3)), np.ones((2, 2, 3))]
    low, high = pca.as_colours(scores)
    assert low.max() == 0
    assert high.min() == 1


def test_neighbours_are_marked_by_class():
    image = np.zeros((4, 4, 3), np.uint8)
    query = neighbours.Neighbours(image, "cat, dog", [image] * 3, ["dog", "horse", ""], [0.9, 0.8, 0.7])
    figure = neighbours.nearest_neighbours([query], "title")
    assert [axis.get_title() for axis in figure.axes] == ["cat, dog", "✓ dog", "✗ horse", ""]


def test_saved_figures_are_whole_and_legible(tmp_path, pdfs):
    figure = embedding.embedding(
        np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3, ["a", "b", "c"], "Title", "caption"
    )
    png, pdf = paper.save_figure(figure, tmp_path / "new", "picture")
    pixels = np.asarray(Image.open(png).convert("L"))
    assert min(pixels.shape) > 400
    assert (pixels < 200).any()
    assert pdf.read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in png.parent.iterdir()) == ["picture.pdf", "picture.png"]


def test_attention_maps_have_a_scale(tmp_path):
    """Each head's maximum is written above its map, and a bar says what its colours mean."""
    attention_hw = np.zeros((2, 2, 2), np.float32)
    attention_hw[0, 0, 0], attention_hw[1] = 0.5, 0.0421
    masks = attention.masks_of(attention_hw, 0.6)
    figure = attention.attention_maps(np.zeros((16, 16, 3), np.uint8), attention_hw, masks, 0.6, "title")
    titles = [axis.get_title() for axis in figure.axes]
    assert "head 1, max 50%" in titles and "head 2, max 4.2%" in titles
    (bar,) = [axis for axis in figure.axes if axis.get_ylabel() == "part of the head's maximum"]
    assert bar.get_ylim() == (0, 1)
    assert {path.suffix for path in paper.save_figure(figure, tmp_path, "attention")} == {".png", ".pdf"}
