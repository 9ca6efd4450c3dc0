"""Photos and frames as people's devices and programs leave them: each is drawn right, or refused by its name."""

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from common.errors import UserError
from reports.visual.core import video
from reports.visual.core.files import files_of, natural_order, picture_pixels
from reports.visual.core.images import InputImage, fitted, square
from reports.visual.core.style import grid, headed, readable, save_figure, show, style
from tests.small_images import png

RNG = np.random.default_rng(0)
#: Rows of red, green, blue and white bars, 8 × 12 pixels: no two of its turns are equal.
PHOTO = np.repeat(np.repeat(RNG.integers(0, 256, (4, 6, 3), np.uint8), 2, axis=0), 2, axis=1)
WHITE = np.array([255, 255, 255])


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def photo():
    return Image.fromarray(PHOTO)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos_are_upright(kind, orientation, tmp_path):
    """A viewer's picture is ``PHOTO``: the file holds it as the sensor did, and says how it lay."""
    stored = photo()
    undo = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
    }
    undo[8] = "ROTATE_270"
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[undo[orientation]])
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    stored.save(tmp_path / f"a.{kind}", exif=exif(orientation), **options)
    difference = np.abs(picture_pixels(tmp_path / f"a.{kind}").astype(int) - PHOTO)
    assert difference.max() <= (12 if kind == "jpg" else 0)


def test_a_damaged_or_foreign_orientation_is_upright(tmp_path):
    for value in (0, 9, 77):
        photo().save(tmp_path / "a.png", exif=exif(value))
        assert (picture_pixels(tmp_path / "a.png") == PHOTO).all()
    photo().save(tmp_path / "b.webp", lossless=True, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (picture_pixels(tmp_path / "b.webp") == PHOTO).all()


def test_transparent_pixels_are_on_white(tmp_path):
    alpha = np.full((8, 12), 255, np.uint8)
    alpha[:, 6:] = 0
    expected = PHOTO.copy()
    expected[:, 6:] = 255
    grey = photo().convert("L")
    images = {
        "rgba.png": (Image.merge("RGBA", [*photo().split(), Image.fromarray(alpha)]), expected),
        "la.png": (
            Image.merge("LA", [grey, Image.fromarray(alpha)]),
            np.where(alpha[..., None] > 0, np.asarray(grey)[..., None], 255),
        ),
    }
    for name, (image, pixels) in images.items():
        image.save(tmp_path / name)
        assert (picture_pixels(tmp_path / name) == pixels).all(), name
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    half.save(tmp_path / "half.png")
    assert np.abs(picture_pixels(tmp_path / "half.png").astype(int) - 127).max() <= 1
    palette = Image.fromarray(np.array([[0, 1]] * 2, np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=1)
    assert (picture_pixels(tmp_path / "p.png") == [[(10, 20, 30), (255, 255, 255)]] * 2).all()
    palette.save(tmp_path / "p.gif", transparency=0)
    assert (picture_pixels(tmp_path / "p.gif") == [[(255, 255, 255), (40, 50, 60)]] * 2).all()


def test_modes_that_are_exact(tmp_path):
    grey = np.asarray(photo().convert("L"))
    images = {
        "l.png": photo().convert("L"),
        "l.jpg": photo().convert("L"),
        "1.png": photo().convert("1"),
        "1.tiff": photo().convert("1"),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
        pixels = picture_pixels(tmp_path / name)
        assert pixels.shape == (8, 12, 3) and (pixels == pixels[..., :1]).all(), name
    assert (picture_pixels(tmp_path / "l.png")[..., 0] == grey).all()
    photo().quantize(24).save(tmp_path / "p.png")
    assert (picture_pixels(tmp_path / "p.png") == PHOTO).all()
    photo().save(tmp_path / "wrong.jpg", "PNG")  # the suffix lies
    assert (picture_pixels(tmp_path / "wrong.jpg") == PHOTO).all()
    photo().save(
        tmp_path / "profile.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    assert (picture_pixels(tmp_path / "profile.png") == PHOTO).all()


def sixteen_bits(path):
    """A PNG with 16 bits of red, green and blue."""
    rows = b"".join(b"\0" + row.tobytes() for row in (PHOTO.astype(">u2") * 257).reshape(8, -1))
    path.write_bytes(png(12, 8, 16, 2, rows))


def raw_preview(path):
    photo().save(path, "TIFF", tiffinfo={254: 1})


REFUSED = {
    "grey16.png": (
        lambda p: Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257).save(p),
        "more than 8 bits",
    ),
    "rgb16.png": (sixteen_bits, "more than 8 bits a channel"),
    "float.tiff": (lambda p: Image.fromarray(PHOTO[..., 0].astype(np.float32)).save(p), "floating-point"),
    "integers.tiff": (lambda p: Image.fromarray(PHOTO[..., 0].astype(np.int32)).save(p), "more than 8 bits"),
    "cmyk.jpg": (lambda p: photo().convert("CMYK").save(p), "CMYK"),
    "lab.tiff": (lambda p: photo().convert("LAB").save(p), "LAB"),
    "animated.gif": (lambda p: photo().save(p, save_all=True, append_images=[Image.new("RGB", (12, 8))]), "2 frames"),
    "pages.tiff": (lambda p: photo().save(p, save_all=True, append_images=[photo()]), "2 frames"),
    "point.png": (lambda p: Image.new("RGB", (1, 1)).save(p), "nothing to see"),
    "line.png": (lambda p: Image.new("RGB", (4000, 2)).save(p), "nothing to see"),
    "phone.heic": (lambda p: p.write_bytes(b"\0\0\0\x24ftypheic" + bytes(500)), "HEIC, .* convert it to JPEG"),
    "renamed.jpg": (lambda p: p.write_bytes(b"\0\0\0\x24ftypmif1" + bytes(500)), "HEIC, .* convert it to JPEG"),
    "raw.dng": (raw_preview, "preview of a raw photo"),
    "empty.jpg": (lambda p: p.write_bytes(b""), "empty file"),
    "page.html": (lambda p: p.write_text("<html>not found</html>"), "cannot identify"),
    "cut.png": (lambda p: p.write_bytes(_saved(p)[:200]), "."),
    "cut.jpg": (lambda p: p.write_bytes(_saved(p)[:-80]), "."),
}


def _saved(path):
    Image.fromarray(RNG.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_right_is_refused_by_name(name, tmp_path):
    make, reason = REFUSED[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: no usable image: .*({reason})") as error:
        picture_pixels(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_phone_s_photo_with_a_second_picture_is_the_first(tmp_path):
    large = Image.fromarray(np.repeat(np.repeat(PHOTO, 4, 0), 4, 1))
    large.save(tmp_path / "a.mpo", save_all=True, append_images=[Image.new("RGB", (16, 16))], quality=100)
    assert np.abs(picture_pixels(tmp_path / "a.mpo").astype(int) - np.asarray(large)).mean() < 8
    with pytest.raises(UserError, match=r"a\.mpo: a single image; give it as --images"):
        video.open_frames(tmp_path / "a.mpo")


@pytest.mark.parametrize("size", [(2, 2), (2, 150), (300, 4), (7, 13), (1, 1)])
def test_odd_sizes_fit_the_network(size, tmp_path):
    pixels = RNG.integers(0, 256, (*size, 3), np.uint8)
    made = fitted(InputImage("a", pixels), 16, 32)
    assert min(made.shape[:2]) == 32 and all(side % 16 == 0 for side in made.shape[:2])
    assert square(pixels, 32).shape == (32, 32, 3)


# Folders


def test_stray_files_are_no_images(tmp_path, capsys):
    for name in ("b10.png", "b2.png", "B1.PNG", "photo"):
        photo().save(tmp_path / name, "PNG")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._b2.png", "notes.txt", "frames.json"):
        (tmp_path / name).write_bytes(b"\0\1text")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "inner").mkdir()
    assert [file.name for file in files_of([str(tmp_path)])] == ["B1.PNG", "b2.png", "b10.png", "photo"]
    said = " ".join(capsys.readouterr().err.split())
    assert said.endswith("left out, no images: frames.json, inner/, notes.txt")
    (tmp_path / "broken.jpg").write_bytes(b"")  # by its suffix an image, so it is not left out silently
    with pytest.raises(UserError, match=r"broken\.jpg: no usable image: empty file"):
        [picture_pixels(file) for file in files_of([str(tmp_path)])]


def test_a_folder_of_other_files_has_no_images(tmp_path):
    (tmp_path / "Thumbs.db").touch()
    with pytest.raises(UserError, match="a folder without image files in it"):
        files_of([str(tmp_path)])


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    for number in (1, 2, 10, 9, 100):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "ffmpeg.log").write_text("x")
    opened = video.open_frames(tmp_path)
    assert [int(frame[0, 0, 0]) for frame in opened.read()] == [1, 2, 9, 10, 100] and opened.count == 5
    assert [name.rpartition("frame")[2] for name in opened.names] == ["1.png", "2.png", "9.png", "10.png", "100.png"]
    assert sorted(map(tmp_path.joinpath, ("a", "10", "9b", "")), key=natural_order)


# Animations


def test_animations_are_on_white_and_keep_their_pace(tmp_path):
    first, second = Image.new("RGBA", (8, 8), (255, 0, 0, 255)), Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    first.putpixel((7, 7), (0, 0, 0, 0))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=[100, 300], disposal=2)
    opened = video.open_frames(tmp_path / "a.gif")
    red, clear = opened.read()
    assert (red[:7] == [255, 0, 0]).all() and (red[7, 7] == WHITE).all() and (clear == WHITE).all()
    assert opened.fps == pytest.approx(5)
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second], duration=200, lossless=True)
    assert (list(video.open_frames(tmp_path / "a.webp").read())[1] == WHITE).all()


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_animations_are_upright(kind, tmp_path):
    stored = photo().transpose(Image.Transpose.ROTATE_90)  # which the orientation 6 undoes
    more = {"lossless": True} if kind == "webp" else {}
    other = Image.new("RGB", stored.size)
    stored.save(tmp_path / f"a.{kind}", save_all=True, append_images=[other], exif=exif(6), **more)
    first, second = video.open_frames(tmp_path / f"a.{kind}").read()
    assert (first == PHOTO).all() and second.shape == PHOTO.shape


def test_the_still_of_an_animated_png_is_no_frame(tmp_path):
    still, frames = Image.new("RGB", (8, 8), "black"), [Image.new("RGB", (8, 8), c) for c in ("red", "lime")]
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=100)
    opened = video.open_frames(tmp_path / "a.png")
    assert opened.count == 2
    assert [frame[0, 0].tolist() for frame in opened.read()] == [[255, 0, 0], [0, 255, 0]]


def test_a_still_with_text_is_no_animation(tmp_path):
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", "a program")
    photo().save(tmp_path / "a.png", pnginfo=about)
    with pytest.raises(UserError, match=r"a\.png: a single image"):
        video.open_frames(tmp_path / "a.png")


def test_pages_of_many_bits_are_refused_by_name(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), 60000, np.uint16)) for _ in range(2)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"a\.tiff: frame 1 has pixels of Pillow's mode I;16"):
        video.open_frames(tmp_path / "a.tiff")


def test_video_frames_are_turned_and_their_pixels_made_square():
    pixels = RNG.integers(0, 256, (4, 6, 3), np.uint8)
    assert (video._as_shown(pixels, 90, None) == np.rot90(pixels)).all()
    assert (video._as_shown(pixels, -90, None) == np.rot90(pixels, 3)).all()
    assert (video._as_shown(pixels, 0, None) == pixels).all()
    assert video._as_shown(pixels, 90, video.Fraction(2)).shape == (12, 4, 3)


def test_any_name_can_be_drawn(tmp_path):
    figure, axes = grid(1, 1, 2, 2)
    with style():
        show(axes[0, 0], PHOTO, "cut\udcffout\x1b[31m $a$ 写真.png")
        headed(figure, "a\udcff", "b\x07")
    (file,) = [path for path in save_figure(figure, tmp_path, "x") if path.suffix == ".png"]
    assert file.stat().st_size
    assert readable("a\udcff\x1b写\n") == "a��写\n"
