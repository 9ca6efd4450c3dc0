"""Images and videos that pictures are made of."""

import sys

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from reports.visual.core import images as pictures
from reports.visual.core import video

# Images


def test_fitting_resizes_the_short_side_and_cuts_the_rest():
    gradient = np.tile(np.arange(50, dtype=np.uint8)[None, :, None], (21, 1, 3))
    picture = pictures.InputImage("a.png", gradient)
    cut = pictures.fitted(picture, 8, 0)
    assert cut.shape == (16, 48, 3)
    np.testing.assert_array_equal(cut, gradient[2:18, 1:49])
    assert pictures.fitted(picture, 8, 42).shape == (40, 96, 3)
    with pytest.raises(UserError, match="less than one patch of 32"):
        pictures.fitted(picture, 32, 0)


# Videos


def frames(count, size=(20, 28)):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def test_folders_and_animations_are_read_in_order(tmp_path):
    made = frames(3)
    for number, frame in enumerate(made):
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
    opened = video.open_frames(tmp_path)
    assert (opened.count, opened.is_video) == (3, False)
    for _ in range(2):  # it can be read twice
        np.testing.assert_array_equal(np.stack(list(opened.read())), np.stack(made))
    with video.video_writer(tmp_path / "out" / "a.gif", 8, (20, 28)) as write:
        for frame in made:
            write(frame)
    again = video.open_frames(tmp_path / "out" / "a.gif")
    assert (again.count, again.fps) == (3, pytest.approx(8, rel=0.1))
    assert [frame.shape for frame in again.read()] == [(20, 28, 3)] * 3


def test_video_files(tmp_path):
    pytest.importorskip("av", reason="PyAV, the extra 'video', is not installed")
    flat = [np.full((32, 48, 3), 40 * number, np.uint8) for number in range(5)]
    with video.video_writer(tmp_path / "a.mp4", 12, (32, 48)) as write:
        for frame in flat:
            write(frame)
    opened = video.open_frames(tmp_path / "a.mp4")
    assert (opened.is_video, opened.fps) == (True, 12)
    found = list(opened.read())
    assert len(found) == 5
    assert all(np.abs(a.astype(int) - b).max() < 12 for a, b in zip(found, flat, strict=True))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read as a video"):
        video.open_frames(tmp_path / "cut.mp4")


def test_video_files_without_pyav_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"\0" * 64)
    with pytest.raises(UserError, match=r"a\.mp4 .* needs the package av, .* --extra video"):
        video.open_frames(tmp_path / "a.mp4")
