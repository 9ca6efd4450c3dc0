"""Lists of names as editors and systems write them. What is seen: the names."""

import os
import re

from data.sets.core.lists import read_names


def look(path):
    return read_names(path, lambda name: path.parent / f"{name}.jpg")


def lines(content, *files):
    def make(folder):
        for name in files:
            (folder / f"{name}.jpg").touch()
        (folder / "list.txt").write_bytes(content)
        return folder / "list.txt"

    return make


def pipe(folder):
    os.mkfifo(folder / "list.txt")
    return folder / "list.txt"


def endless(folder):
    (folder / "list.txt").touch()
    os.truncate(folder / "list.txt", 2**40)
    return folder / "list.txt"


NO_NAME = r"list\.txt, line 1: .* is no name of an image"
ENTRIES = {
    "Unix": (lines(b"a\nb\n"), ["a", "b"]),
    "Windows": (lines(b"a\r\nb\r\n"), ["a", "b"]),
    "no last line end": (lines(b"a\nb"), ["a", "b"]),
    "empty lines": (lines(b"\na\n\n\nb\n\n"), ["a", "b"]),
    "byte order mark": (lines(b"\xef\xbb\xbfa\nb\n"), ["a", "b"]),
    "empty": (lines(b""), []),
    "blanks inside": (lines(b"a b\nc\td\n"), ["a b", "c\td"]),
    "blanks at the ends": (lines(b" a\nb \n"), ["a", "b"]),
    "blanks of a name": (lines(b" a\nb \n", " a"), [" a", "b"]),
    "Latin-1": (lines(b"caf\xe9\n"), [os.fsdecode(b"caf\xe9")]),
    "dots": (lines(b".a\na.b\n...\n"), [".a", "a.b", "..."]),
    "backslash": (lines(b"a\\b\n"), ["a\\b"]),
    "escape sequence": (lines(b"\x1b[2J\n"), ["\x1b[2J"]),
    "line separators of Unicode": (lines("a\u2028b\nc\x85d\n".encode()), ["a\u2028b", "c\x85d"]),
    "signs of shells and markup": (lines(b"-rf\n[red]\n$(x)\n*\n"), ["-rf", "[red]", "$(x)", "*"]),
    "the longest name": (lines(b"x" * 255), ["x" * 255]),
    "too long": (lines(b"x" * 256), re.compile(NO_NAME)),
    "with a folder": (lines(b"JPEGImages/a\n"), re.compile(NO_NAME)),
    "a path upwards": (lines(b"../../etc/passwd\n"), re.compile(NO_NAME)),
    "the folder itself": (lines(b"..\n"), re.compile(NO_NAME)),
    "zero byte": (lines(b"a\0b\n"), re.compile(NO_NAME)),
    "UTF-16": (lines("a\nb\n".encode("utf-16")), re.compile("no UTF-8 text, but UTF-16; save it as UTF-8")),
    "twice": (lines(b"a\nb\na\n"), re.compile("1 of its names stand there twice")),
    "pipe": (pipe, re.compile("no regular file, or more than 256 MiB; that is no list")),
    "a terabyte": (endless, re.compile("no regular file, or more than 256 MiB")),
    "folder": (lambda folder: folder, re.compile("no regular file")),
    "missing": (lambda folder: folder / "nothing.txt", re.compile("nothing.txt: cannot be read")),
}
