"""EXIF's orientation: how viewers turn the pixels of a photo, as cameras ask for in the file's header (EXIF 2.32, 4.6.4)."""

from __future__ import annotations

import threading
import warnings

from PIL import Image

#: Pillow's format whose images it turns itself, when it loads them.
PILLOW_TURNS = "TIFF"
_TAG = 0x0112
#: The filters of warnings are the whole process's, and threads decode: each puts back those that it met.
_SILENCE = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turn_of(image: Image.Image) -> int:
    """The orientation that an image file carries, 1 to 8; 1, upright, where it is missing or damaged, as viewers have it."""
    try:
        with _SILENCE, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            turn = int(image.getexif().get(_TAG, 1))
    except Exception:  # damaged bytes can raise anything
        return 1
    return turn if turn in _TURNS else 1


def turned(image: Image.Image, turn: int) -> Image.Image:
    """The image as viewers show it."""
    return image if turn == 1 else image.transpose(_TURNS[turn])


def swaps_sides(turn: int) -> bool:
    """Whether the turn makes a portrait of a landscape."""
    return turn >= 5


def misfit(mask: tuple[int, int], mask_turn: int, image: tuple[int, int], image_turn: int, upright: bool) -> str | None:
    """Say why a mask cannot be taken for one of its image's pixels, as far as turns tell; None if it can.

    Args:
        mask, image: (height, width) as read, which is ``upright`` or as stored.
        mask_turn, image_turn: the orientations that the files carry.
    """
    if image_turn == 1:
        return None
    carries = f"the photo of this mask carries the EXIF orientation {image_turn}"
    instead = "write the photo anew, its pixels upright and without an orientation, and give the mask of those"
    if mask == image:
        shows = swaps_sides(image_turn) and image[0] != image[1]
        if not upright or mask_turn != 1 or shows:
            return None
        return (
            f"{carries}, and the mask none: its size fits the upright photo and the pixels as stored, so nothing shows to which it "
            f"belongs; {instead}"
        )
    if mask != image[::-1] or not swaps_sides(image_turn):
        return None
    if upright:
        return f"{carries}; photos are read upright, and the mask fits only the unturned pixels; {instead}"
    return (
        f"{carries}; this data set is read unturned, as published, and the mask fits only the upright photo; {instead}"
    )
