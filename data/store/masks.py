"""Single masks are read and checked: their values are ids of classes or objects, or one sentence says why they are not."""

from pathlib import Path

import numpy as np
from PIL import Image

from common.images import VOID, voc_palette
from data.store.decode import MAX_PIXELS, DamagedImage, WrongData, loaded, opened
from data.store.turns import misfit

#: What Pillow multiplies grey values of 2 and 4 bits by, so that they fill 8 bits.
_SCALED = {"L": 1, "L;2": 85, "L;4": 17}
#: Modes whose values are ids, perhaps with an opaque alpha channel.
_IDS = ("P", "L", "1", "LA", "PA", "I", "I;16", "I;16B", "I;16L")
_ADVICE = "give palette or grey PNG files whose values are the ids"


def decode_mask(
    path: Path, classes: int, image_size: tuple[int, int], image_turn: int = 1, upright: bool = False
) -> np.ndarray:
    """``read_ids`` of a class mask. Raises WrongData also for ids other than 0 to ``classes - 1`` and 255 (void)."""
    mask = read_ids(path, image_size, classes, image_turn, upright)
    foreign = mask[(mask >= classes) & (mask != VOID)]
    if foreign.size:
        ids = ", ".join(map(str, np.unique(foreign)))
        raise WrongData(f"{path}: the mask holds class ids {ids}; known are 0 to {classes - 1} and {VOID} (void)")
    return mask


def read_ids(
    path: Path,
    image_size: tuple[int, int] | None = None,
    classes: int = 21,
    image_turn: int = 1,
    upright: bool = False,
) -> np.ndarray:
    """Read a mask of classes or objects, uint8 ``[H, W]``. Ids are palette indices, or grey values of 1 to 16 bits as they stand in
    the file, whatever viewers show.

    Args:
        image_size: (height, width) of its image, as it is read; None: any.
        classes: how many ids the colours of a palette are compared with; default: those of VOC.
        image_turn: the EXIF orientation that its image carries.
        upright: whether the image is turned by that; the mask then is by its own, which few have.

    Raises:
        WrongData: missing, undecodable or too large; colours or fractions in place of ids, or ids above 255; transparent pixels,
            several frames, lossy compression; another size than its image's, or, beside a photo with a turn, no sign of whether
            it is of the photo's turned pixels; a palette that gives an id VOC's colour of another.
        UserError: the system does not let the file be read.
    """
    try:
        with opened(path) as (_, image):
            if reason := _no_ids(image):
                raise WrongData(f"{path}: the mask is {reason}, not one of ids; {_ADVICE}")
            if image.height * image.width > MAX_PIXELS:
                raise WrongData(
                    f"{path}: the mask claims {image.height}×{image.width} pixels, more than {MAX_PIXELS:,}"
                )
            scale = _SCALED.get(_raw_mode(image), 1)
            image, turn = loaded(image, upright)
            if image_size is not None:
                _check_size(path, (image.height, image.width), turn, tuple(image_size), image_turn, upright)
            ids = np.array(image)
            if image.mode in ("LA", "PA"):
                if ids[..., 1].min() < 255:
                    raise WrongData(f"{path}: the mask has transparent pixels, whose ids are not clear; {_ADVICE}")
                ids = ids[..., 0]
            if ids.max() > 255 or ids.min() < 0:
                raise WrongData(
                    f"{path}: the mask holds ids from {ids.min()} to {ids.max()}; ids are 0 to {VOID} (void)"
                )
            ids = (ids // scale).astype(np.uint8)
            if image.mode == "P":
                _check_palette(path, image, ids, classes)
            return ids
    except DamagedImage as error:
        problem = f"cannot be read: {error}" if path.exists() else "is missing"
        raise WrongData(f"{path}: the mask {problem}") from error


def _check_size(
    path: Path, size: tuple[int, int], turn: int, image_size: tuple[int, int], image_turn: int, upright: bool
) -> None:
    """Raise WrongData unless the mask belongs to the pixels of its image."""
    if reason := misfit(size, turn, image_size, image_turn, upright):
        raise WrongData(f"{path}: {reason}")
    if size != image_size:
        raise WrongData(
            f"{path}: the mask is {size[0]}×{size[1]} pixels and its image {image_size[0]}×{image_size[1]} (height×width); "
            "masks have the size of their images"
        )


def _no_ids(image: Image.Image) -> str | None:
    """What an image is whose values are no ids, by its header; None if they are."""
    if image.format in ("JPEG", "MPO", "JPEG2000"):
        return f"a {image.format} image, whose compression changes values"
    if getattr(image, "n_frames", 1) > 1:
        return f"an image of {image.n_frames} frames"
    if image.mode not in _IDS:
        return f"a {image.mode} image"
    raw = _raw_mode(image)
    if "I" in raw.partition(";")[2]:
        return "a grey image of inverted values"
    if image.tile and image.tile[0].codec_name.startswith("ppm") and image.tile[0].args[-1] != 255:
        return "a PGM image of another range than 0 to 255"  # which Pillow stretches to all of 8 or 16 bits
    if image.mode == "L" and raw.startswith("L;") and raw not in _SCALED:
        return f"a grey image whose values are stored as {raw}"
    return None


def _raw_mode(image: Image.Image) -> str:
    """How Pillow says that values are stored; "" where it does not."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    first = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    return first if isinstance(first, str) else ""


def _check_palette(path: Path, image: Image.Image, ids: np.ndarray, classes: int) -> None:
    """Refuse a palette whose indices were renumbered, as programs do that keep only the colours of an image: it has VOC's colours,
    or grey values that are ids, at other indices."""
    colours = [tuple(colour) for colour in np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3).tolist()]
    used = [value for value in np.flatnonzero(np.bincount(ids.ravel())).tolist() if value < len(colours)]
    voc = voc_palette().tolist()
    own = {tuple(voc[value]): value for value in (*range(max(classes, 21)), VOID)}
    levels = {value: colours[value][0] for value in used if len(set(colours[value])) == 1}
    is_grey = len(levels) == len(used)
    # White is void where other ids are shown as they are; else it is only the end of a ramp from black.
    shows_ids = any(value == level for value, level in levels.items() if value)
    for value in used:
        if value and colours[value] == colours[0] == (0, 0, 0):
            continue  # palettes are padded with black
        of = own.get(colours[value], value)
        level = levels.get(value, value) if is_grey else value
        if of != value:
            what = f"the colour of {of} in VOC's palette"
        elif level != value and (0 < level < classes or (level == VOID and shows_ids)):
            of, what = level, f"the grey value {level}"
        else:
            continue
        raise WrongData(
            f"{path}: the mask's palette gives {value} {what}, so its indices were renumbered and are no ids; write {of} there, "
            f"or, if {value} is right, save the mask as a grey PNG"
        )
