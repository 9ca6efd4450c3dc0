import hashlib
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
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
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
