import hashlib
import io
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

import common.download
from common.download import download, unpack
from common.errors import UserError
from data.datasets import fetch, open_dataset
from data.sets.voc import palette
from data.sets.voc_download import Source, fetch_voc2012

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server:
    """Serves ``files`` on loopback. ``cut``: bytes after which a connection breaks, once for each entry; ``ranges``: whether it
    knows range requests."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.ranges = True
        self.status = 0
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        content = self.files.get(request.path.lstrip("/"))
        if content is None or self.status:
            return request.send_error(self.status or 404)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start >= len(content):
            return request.send_error(416)
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        end = start + self.cut.pop(0) if self.cut else len(content)
        request.wfile.write(content[start:end])
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


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


def archive_of(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return made.getvalue()


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


def png(array: np.ndarray) -> bytes:
    made = io.BytesIO()
    Image.fromarray(array).save(made, format="PNG")
    return made.getvalue()


@pytest.fixture
def sources(server) -> dict[str, Source]:
    """VOC with the images a (train), b (val), c and d; SBD with masks of a, b and c."""
    base = "VOCdevkit/VOC2012"
    photo, mask = np.full((20, 30, 3), 99, np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:9, 5:9], mask[4] = 8, 255
    members = {f"{base}/JPEGImages/{name}.jpg": png(photo) for name in "abcd"}
    members |= {f"{base}/SegmentationClass/{name}.png": png(mask) for name in "ab"}
    members[f"{base}/ImageSets/Segmentation/train.txt"] = b"a\n"
    members[f"{base}/ImageSets/Segmentation/val.txt"] = b"b\n"
    server.files["voc.tar"] = archive_of(members)
    members = {}
    for value, name in enumerate("abc", 1):
        inner = np.zeros((1, 1), dtype=[("Segmentation", object)])
        inner["Segmentation"][0, 0] = np.full((20, 30), value, np.uint8)
        made = io.BytesIO()
        scipy.io.savemat(made, {"GTcls": inner})
        members[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = made.getvalue()
    server.files["sbd.tgz"] = archive_of(members)
    names = {"voc": "voc.tar", "sbd": "sbd.tgz"}
    return {
        key: Source(f"{server.url}/{name}", hashlib.md5(server.files[name]).hexdigest()) for key, name in names.items()
    }


def test_voc_with_the_masks_of_sbd(sources, server, tmp_path):
    server.cut = [200]  # the first connection breaks
    fetch_voc2012(tmp_path, sources)
    store = open_dataset("voc2012", "train_aug", tmp_path, None, progress=False)
    assert [Path(name).stem for name in store.names] == ["a", "c"]
    assert set(np.unique(store.mask(0))) == {0, 8, 255}  # VOC's own mask, not SBD's
    assert (store.mask(1) == 3).all()
    written = Image.open(tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug/c.png")
    assert written.mode == "P" and written.getpalette()[9:12] == palette()[3].tolist() == [128, 128, 0]
    assert {path.name for path in tmp_path.iterdir()} == {"VOCdevkit", "cache"}  # no archive is left
    assert server.asked[:2] == [None, "bytes=200-"]
    asked = len(server.asked)
    fetch_voc2012(tmp_path, sources)
    assert len(server.asked) == asked


def test_an_interrupted_conversion_is_done_again(sources, tmp_path, monkeypatch):
    monkeypatch.setattr("data.sets.voc_download._read_sbd", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fetch_voc2012(tmp_path, sources)
    monkeypatch.undo()
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    fetch_voc2012(tmp_path, sources)
    assert len(open_dataset("voc2012", "train_aug", tmp_path, None, progress=False)) == 2


def test_archives_of_something_else(sources, server, tmp_path):
    wrong = {"voc": sources["sbd"], "sbd": sources["voc"]}
    with pytest.raises(UserError, match="holds no VOCdevkit/VOC2012"):
        fetch_voc2012(tmp_path, wrong)


def test_damaged_masks_of_sbd(sources, server, tmp_path):
    server.files["sbd.tgz"] = archive_of({"benchmark_RELEASE/dataset/cls/c.mat": b"no mat"})
    md5 = hashlib.md5(server.files["sbd.tgz"]).hexdigest()
    with pytest.raises(UserError, match=r"c\.mat: no mask of SBD"):
        fetch_voc2012(tmp_path, {**sources, "sbd": Source(sources["sbd"].url, md5)})


def test_what_cannot_be_fetched(tmp_path):
    with pytest.raises(UserError, match="needs the folder"):
        fetch("voc2012", None)
    with pytest.raises(UserError, match="voc2012 only"):
        fetch("imagenet", tmp_path)


def test_train_aug_says_how_to_get_it(voc_folder):
    with pytest.raises(UserError, match="--download makes it"):
        open_dataset("voc2012", "train_aug", voc_folder, None, progress=False)


def test_voc_colours():
    """The development kit's own loop (VOClabelcolormap.m)."""
    for value in range(256):
        red = green = blue = 0
        rest = value
        for bit in range(8):
            red |= (rest & 1) << (7 - bit)
            green |= ((rest >> 1) & 1) << (7 - bit)
            blue |= ((rest >> 2) & 1) << (7 - bit)
            rest >>= 3
        assert palette()[value].tolist() == [red, green, blue]
