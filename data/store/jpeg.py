"""The segments of JPEG files (ITU-T T.81, annex B)."""

from __future__ import annotations

import re

#: A marker. In coded pixels, FF stands before 00 where the byte itself is meant, before restart markers, and as filling.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_SCAN, _END = 0xDA, 0xD9
#: Markers with a segment that may stand between scans: tables, restart interval, lines, application data, comments.
_SEGMENTS = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, *range(0xE0, 0xF0), 0xFE}
#: Further ones before the first scan: frames (C0 to CF but for those above), and JPEG-LS's and other extensions.
_HEADERS = _SEGMENTS | set(range(0xC0, 0xD0)) | set(range(0xF0, 0xFE))


def is_whole(content: bytes) -> bool:
    """Whether the first image in a JPEG file ends. What stands behind its end, such as the video of a motion photo, counts nowhere.

    Libraries fill up what is missing with grey, without an error where zeros or other data follow.
    """
    position, scans = 2, 0
    while marker := _MARKER.search(content, position):
        kind, position = marker[1][0], marker.end()
        if kind == _END:
            return scans > 0
        if kind != _SCAN and kind not in (_SEGMENTS if scans else _HEADERS):
            return False  # no marker of an image that goes on: the file stopped before, and something else follows
        scans += kind == _SCAN
        position += max(2, int.from_bytes(content[position : position + 2], "big"))
    return False
