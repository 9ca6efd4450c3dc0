"""Pictures that runs hold, on the page."""

import io

import pytest
from PIL import Image

from reports import build_report
from tests.reports.factory import write_run


def png(path, size=(40, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path)
    return path


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "dino-seed0", "dino", "vit_s8", seed=0, matrices=False)


def test_a_picture_of_a_run_is_on_the_page_and_beside_it(run, tmp_path, pdfs):
    drawn = png(run / "figures" / "attention-vit_s16-1.png")
    page = build_report([run], tmp_path / "out").read_text()
    assert '<figure id="figure-attention-1">' in page and 'src="data:image/png;base64,' in page
    assert "Attention: DINO" in page
    assert (tmp_path / "out" / "figures" / "attention-1.png").read_bytes() == drawn.read_bytes()
    assert (tmp_path / "out" / "figures" / "attention-1.pdf").read_bytes().startswith(b"%PDF")


def test_what_is_no_picture_is_listed_and_not_shown(run, tmp_path):
    png(run / "figures" / "pca-a.png")
    (run / "figures" / "crops-a.png").write_bytes(b"<svg onload='alert(1)'>")
    (run / "figures" / "embedding-a.png").write_bytes(b"")
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
    (run / "figures" / "neighbours-a.png").write_bytes(jpeg.getvalue())
    page = build_report([run], tmp_path / "out").read_text()
    assert "figure-pca-1" in page and "figure-crops-1" not in page and "figure-neighbours-1" not in page
    assert page.count("not shown") == 3 and "alert(1)" not in page


def test_the_pictures_left_out_are_named(tmp_path):
    runs = []
    for lr in range(8):
        run = tmp_path / "runs" / f"dino-{lr}"
        runs.append(write_run(run, "dino", "vit_s8", images=20, options={"lr": lr}, matrices=False))
        png(runs[-1] / "figures" / "pca-a.png")
    page = build_report(runs, tmp_path / "out").read_text()
    assert page.count('id="figure-pca-') == 6 and "pictures of the first 6 rows are shown; those of" in page
