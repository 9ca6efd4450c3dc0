"""Archives as they are fetched. What is seen: the files that are unpacked."""

import io
import re
import tarfile

from common.download import unpack


def look(path):
    target = path.parent / "in" / "folder"
    unpack(path, target)
    return sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())


def tar(*members, mode="w"):
    """Members: (name, type, target of a link)."""

    def make(folder):
        with tarfile.open(folder / "a.tar", mode) as archive:
            for name, kind, target in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size = kind, target, 1 if kind == tarfile.REGTYPE else 0
                archive.addfile(info, io.BytesIO(b"x"))
        return folder / "a.tar"

    return make


def regular(name):
    return name, tarfile.REGTYPE, ""


def bytes_of(content):
    def make(folder):
        (folder / "a.tar").write_bytes(content)
        return folder / "a.tar"

    return make


REFUSED = re.compile("a.tar: cannot be unpacked .*; remove it, and it is fetched again")
ENTRIES = {
    "files": (tar(regular("a/b.txt"), regular("c.txt")), ["a/b.txt", "c.txt"]),
    "compressed": (tar(regular("a"), mode="w:gz"), ["a"]),
    "xz": (tar(regular("a"), mode="w:xz"), ["a"]),
    "a point before names": (tar(("./", tarfile.DIRTYPE, ""), regular("./a")), ["a"]),
    "absolute name": (tar(regular("/a")), ["a"]),
    "upwards": (tar(regular("../a")), REFUSED),
    "upwards inside": (tar(regular("a/../../b")), REFUSED),
    "link": (tar(("a", tarfile.SYMTYPE, "/etc")), REFUSED),
    "link, then a file through it": (tar(("a", tarfile.SYMTYPE, ".."), regular("a/b")), REFUSED),
    "hard link": (tar(("a", tarfile.LNKTYPE, "/etc/passwd")), REFUSED),
    "device": (tar(("a", tarfile.CHRTYPE, "")), REFUSED),
    "pipe": (tar(("a", tarfile.FIFOTYPE, "")), REFUSED),
    "text": (bytes_of(b"404 Not Found"), REFUSED),
    "empty": (bytes_of(b""), REFUSED),
    "missing": (lambda folder: folder / "a.tar", REFUSED),
}
