"""Archives are fetched, checked by digest and unpacked; a broken download continues."""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from common.errors import UserError, first_line, why
from common.files import size_in_words
from common.progress import working

#: Connections before giving up; the next run continues.
ATTEMPTS = 5
#: Seconds without a byte after which a connection counts as broken.
TIMEOUT = 60.0
_CHUNK = 1 << 20
#: Errors of the disk, not of the connection.
_OWN_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.EIO)


def download(url: str, path: Path, md5: str | None = None, progress: bool = True, sha256: str | None = None) -> Path:
    """Fetch a file over http(s) to ``path``, which is returned. A range request continues ``NAME.part``.

    A file with another digest is fetched again. Raises UserError if that, the server or the disk prevents it.

    Args:
        md5, sha256: hexadecimal digests of the file, or their first digits; None: unknown.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: only http and https can be fetched")
    if path.is_file() and _wrong_digest(path, md5, sha256) is None:
        return path
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with working(f"fetching {path.name}, MB", show=progress) as work:

        def report(done: int, total: int | None) -> None:
            work.advance(done // 1_000_000, total=total and -(-total // 1_000_000))

        for attempt in range(1, ATTEMPTS + 1):
            try:
                _fetch(url, part, report)
                break
            except (OSError, HTTPException, _CutShort) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise UserError(f"{url}: the server answers {error.code} {error.reason}") from error
                if isinstance(error, OSError) and error.errno in _OWN_DISK:
                    raise UserError(f"{part}: cannot be written ({why(error)})") from error
                if attempt == ATTEMPTS:
                    got = part.stat().st_size if part.exists() else 0
                    reason = getattr(error, "reason", None) or error
                    kept = f"{got:,} bytes are kept, and the same command continues" if got else "nothing came"
                    raise UserError(f"{url}: the connection breaks ({reason}); {kept}") from error
    if wrong := _wrong_digest(part, md5, sha256):
        part.unlink()
        raise UserError(f"{url}: the file has {wrong}; it was removed, so fetch it again")
    part.replace(path)
    return path


class _CutShort(Exception):
    """The connection ended before the file did."""


def _fetch(url: str, part: Path, report: Callable[[int, int | None], None]) -> None:
    """Append the missing bytes to ``part`` in one connection; ``report`` takes the bytes so far and in all."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "ssl-compare", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send; the digest shows whether that is right
            return
        raise
    with answer:
        if answer.status != 206:  # the server knows no ranges and sends the whole file
            have = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise UserError(
                f"{part.parent}: {size_in_words(total - have)} are to come and {size_in_words(free)} are free"
            )
        with open(part, "ab" if have else "wb") as file:
            report(have, total)
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                report(have, total)
        if total is not None and have < total:
            raise _CutShort(f"{have:,} of {total:,} bytes came")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive, compressed or not, of files and folders. Raises UserError if it is damaged, the disk has no room
    for it, or a member is anything else. Links can lead out of ``folder`` one by the other: ``tarfile``'s filters let that pass."""
    try:
        with working(f"unpacking {archive.name}"), tarfile.open(archive) as tar:
            for member in tar:
                _unpack(tar, member, folder)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        reason = first_line(error)
        raise UserError(f"{archive}: cannot be unpacked ({reason}); remove it, and it is fetched again") from error


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a member with the rights that the umask leaves. Raises ValueError for one that is not wanted."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    target = folder.joinpath(*parts)
    if ".." in parts:
        raise ValueError(f"{member.name!r} would be outside its folder")
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if not member.isreg():
        raise ValueError(
            f"{member.name!r} is a {'link' if member.issym() or member.islnk() else 'device'}, and no file"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.size > (free := shutil.disk_usage(target.parent).free):
        raise ValueError(f"{member.name!r} has {size_in_words(member.size)}, and {size_in_words(free)} are free")
    with tar.extractfile(member) as content, open(target, "wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
        if file.tell() != member.size:
            raise EOFError(f"{member.name!r} is cut short")


def _wrong_digest(path: Path, md5: str | None, sha256: str | None) -> str | None:
    """Describe a wrong digest; None if all are right."""
    for kind, name, wanted in (("md5", "MD5", md5), ("sha256", "SHA-256", sha256)):
        if wanted and not (actual := digest(path, kind)).startswith(wanted):
            return f"the {name} digest {actual}, not {wanted}"
    return None


def digest(path: Path, kind: str) -> str:
    """A file's digest in hexadecimal digits; ``kind`` is ``md5`` or ``sha256``."""
    with working(f"checking {path.name}"), open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


#: Folder of released weights in the cache.
WEIGHTS = "weights"


def cache_root(cache: Path | None = None) -> Path:
    """The folder of stores: ``cache``, else $SSL_COMPARE_CACHE, else ssl-compare in $XDG_CACHE_HOME or ~/.cache."""
    if cache is not None:
        return Path(cache).expanduser()
    if os.environ.get("SSL_COMPARE_CACHE"):
        return Path(os.environ["SSL_COMPARE_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssl-compare"
