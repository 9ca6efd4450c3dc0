import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

import common.download
from common.download import download, unpack
from common.errors import UserError
from tests.served import Server, archive_of

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def server():
    server = Server()
    server.files["file"] = CONTENT
    yield server
    server.close()


MD5 = hashlib.md5(CONTENT).hexdigest()


def get(server, folder: Path, md5: str = MD5) -> Path:
    return download(f"{server.url}/file", folder / "file", md5, progress=False)


def test_fetches_once(server, tmp_path):
    assert get(server, tmp_path / "new" / "folder").read_bytes() == CONTENT
    get(server, tmp_path / "new" / "folder")
    assert server.asked == [None]


def test_a_broken_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cut = [1000, 5000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=6000-"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_giving_up_keeps_what_there_is_for_the_next_time(server, tmp_path, monkeypatch):
    monkeypatch.setattr(common.download, "ATTEMPTS", 2)
    server.cut = [1000, 1000]
    with pytest.raises(UserError, match="2,000 bytes are kept, and the same command continues"):
        get(server, tmp_path)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:2000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=2000-"


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(CONTENT[:500])
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_another_digest_is_refused_and_forgotten(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"x" * 500)
    with pytest.raises(UserError, match=f"MD5 digest .* not {MD5}"):
        get(server, tmp_path)
    assert not list(tmp_path.iterdir())
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    (tmp_path / "file").write_bytes(b"damaged")
    assert get(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("status, words", [(404, "404"), (403, "403"), (503, "connection breaks")])
def test_servers_that_refuse(server, tmp_path, status, words):
    server.status = status
    with pytest.raises(UserError, match=words):
        get(server, tmp_path)


def test_no_server_and_no_http(tmp_path):
    with pytest.raises(UserError, match="connection breaks"):
        download("http://127.0.0.1:9/file", tmp_path / "file", MD5, progress=False)
    with pytest.raises(UserError, match="only http"):
        download("file:///etc/passwd", tmp_path / "file", MD5, progress=False)


def test_no_room_on_the_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 500}))
    with pytest.raises(UserError, match="are free"):
        get(server, tmp_path)


@pytest.mark.parametrize(
    "members, links",
    [
        ({"../outside": b"x"}, {}),
        ({"a/../../outside": b"x"}, {}),
        ({}, {"link": "../../outside"}),
        ({}, {"link": "/etc"}),
    ],
)
def test_archives_write_nothing_outside_their_folder(tmp_path, members, links):
    (tmp_path / "a.tar").write_bytes(archive_of(members, links))
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "in" / "folder")
    assert not (tmp_path / "outside").exists() and not (tmp_path / "in" / "outside").exists()


def test_absolute_names_land_inside(tmp_path):
    (tmp_path / "a.tar").write_bytes(archive_of({"/inside": b"x"}))
    unpack(tmp_path / "a.tar", tmp_path / "folder")
    assert (tmp_path / "folder" / "inside").read_bytes() == b"x"


def test_a_damaged_archive(tmp_path):
    (tmp_path / "a.tar").write_bytes(archive_of({"x": b"y" * 10_000})[:60])
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "folder")


def a_long_chain() -> bytes:
    """Links whose names together are longer than a path may be, which the filter "data" of Python 3.11.7 follows no further, and
    then takes for a name inside; the file behind them is outside."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        name, steps = "d" * 247, "abcdefghijklmnop"
        for end in range(len(steps)):
            folder = tarfile.TarInfo("/".join([name] * (end + 1)))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
            link = tarfile.TarInfo("/".join([*[name] * end, steps[end]]))
            link.type, link.linkname = tarfile.SYMTYPE, name
            tar.addfile(link)
        way = "/".join(steps) + "/" + "l" * 254
        link = tarfile.TarInfo(way)
        link.type, link.linkname = tarfile.SYMTYPE, "../" * len(steps)
        tar.addfile(link)
        link = tarfile.TarInfo("escape")
        link.type, link.linkname = tarfile.SYMTYPE, way + "/../../outside"
        tar.addfile(link)
        file = tarfile.TarInfo("escape/owned")
        file.size = 1
        tar.addfile(file, io.BytesIO(b"x"))
    return content.getvalue()


def one_member(kind: bytes, linkname: str = "") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        file = tarfile.TarInfo("first")
        file.size = 1
        tar.addfile(file, io.BytesIO(b"x"))
        member = tarfile.TarInfo("second")
        member.type, member.linkname = kind, linkname
        tar.addfile(member)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (a_long_chain(), "is a link"),
        (one_member(tarfile.SYMTYPE, "first"), "'second' is a link, and no file"),
        (one_member(tarfile.LNKTYPE, "first"), "'second' is a link, and no file"),
        (one_member(tarfile.FIFOTYPE), "'second' is a device"),
        (one_member(tarfile.CHRTYPE), "'second' is a device"),
    ],
)
def test_links_and_devices_are_refused(tmp_path, content, says):
    (tmp_path / "a.tar").write_bytes(content)
    (tmp_path / "outside").mkdir()
    with pytest.raises(UserError, match=f"a.tar: cannot be unpacked .*{says}"):
        unpack(tmp_path / "a.tar", tmp_path / "in" / "folder")
    assert not list((tmp_path / "outside").iterdir())
    assert not [
        path for path in (tmp_path / "in").rglob("*") if path.is_symlink() or not (path.is_file() or path.is_dir())
    ]


def test_unpacked_files_have_the_rights_that_the_umask_leaves(tmp_path):
    (tmp_path / "a.tar").write_bytes(archive_of({"folder/file": b"x"}))
    before = os.umask(0o027)
    try:
        unpack(tmp_path / "a.tar", tmp_path / "out")
    finally:
        os.umask(before)
    file = tmp_path / "out" / "folder" / "file"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o640, 0o750)


def test_a_member_that_fills_the_disk_is_refused_before_it_does(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(archive_of({"x": bytes(5000)}))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 500}))
    with pytest.raises(UserError, match=r"'x' has 4\.88 KiB, and 500 bytes are free"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
