"""Files that are damaged, or that somebody else has made."""

import math
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import unreadable, why
from common.files import (
    Pieces,
    archive_damage,
    atomic_file,
    name_also,
    read_arrays,
    read_json,
    read_json_lines,
    read_text,
    read_yaml,
    remove_unfinished,
    require_plain,
    size_in_words,
    write_text,
)

ROOT = Path(__file__).resolve().parent.parent.parent

quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_arrays_may_be_as_large_as_their_file_but_not_unpack_to_more(tmp_path, monkeypatch):
    monkeypatch.setattr("common.files.MOST_ARRAYS", 1000)
    np.savez(tmp_path / "index.npz", records=np.zeros(1000))
    assert len(read_arrays(tmp_path / "index.npz")["records"]) == 1000
    np.savez_compressed(tmp_path / "bomb.npz", records=np.zeros(1000))
    with pytest.raises(ValueError, match="more than any that a run writes"):
        read_arrays(tmp_path / "bomb.npz")


@quick
@given(data=st.data())
def test_any_change_of_arrays_is_found(tmp_path, data):
    """Of predictions, matrices and a store's index, whatever error the archive's reader has for it."""
    path = tmp_path / "x.npz"
    whole = {"scores": np.arange(6.0).reshape(2, 3), "names_hash": np.array("abc")}
    np.savez_compressed(path, **whole)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    try:
        arrays = read_arrays(path)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:  # of times and the like
        assert arrays.keys() == whole.keys()
        assert all(np.array_equal(arrays[name], value) for name, value in whole.items())


@quick
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_log_is_records_or_a_sentence(tmp_path, content):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    try:
        assert all(isinstance(record, dict) for record in read_json_lines(path))
    except ValueError as error:
        assert str(error).startswith(str(path))


def test_half_written_files_of_other_runs_stay(tmp_path):
    """A run may be made in a folder that holds others, which are being written."""
    own = [
        tmp_path / ".config.yaml.x.tmp",
        tmp_path / "checkpoints" / ".last.pt.y.tmp",
        tmp_path / "segmentation" / "a" / ".log.z.tmp",
    ]
    others = [
        tmp_path / "runs" / "a" / "checkpoints" / ".last.pt.y.tmp",
        tmp_path / "b" / "results" / ".knn.json.z.tmp",
    ]
    for file in (*own, *others, tmp_path / "checkpoints" / "last.pt"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for run in ("", "runs/a", "b"):
        (tmp_path / run / "lock").touch()
    remove_unfinished(tmp_path)
    assert not any(file.exists() for file in own) and all(file.exists() for file in others)
    assert (tmp_path / "checkpoints" / "last.pt").exists()


@pytest.mark.parametrize(("mask", "rights"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_files_have_the_rights_that_the_umask_leaves(tmp_path, mask, rights):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "new" / "a", "x")
        write_text(tmp_path / "new" / "a", "y")
        name_also(tmp_path / "new" / "a", tmp_path / "new" / "b")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "new").iterdir()} == {rights}


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_archives_that_inflate_are_refused_unread(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"bomb{suffix}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.npy", bytes(2**26))
    assert path.stat().st_size < 2**18
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("it was inflated"))
    assert re.search("would become 201,326,592|0.npy is no array", archive_damage(path))


def test_arrays_of_another_size_than_they_say_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(4), b=np.array(["x"], object))
    with pytest.raises(ValueError, match=r"b.npy is no array of numbers or text"):
        read_arrays(path)


def special(folder: Path, kind: str) -> Path:
    path = folder / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"loop": path, "device": "/dev/zero", "nowhere": folder / "y"}[kind])
    return path


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device", "nowhere"])
@pytest.mark.parametrize("read", [read_text, read_json, read_yaml, read_json_lines, read_arrays, archive_damage])
def test_what_is_no_regular_file_keeps_nobody_waiting(tmp_path, kind, read):
    with pytest.raises(OSError, match="x"):
        read(special(tmp_path, kind))


def test_what_a_shell_hands_over_is_read(tmp_path):
    code = (
        "import sys; from pathlib import Path; from common.files import read_yaml; print(read_yaml(Path(sys.argv[1])))"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <(sleep 0.2; echo 'a: 1')"
    said = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, cwd=ROOT)
    assert said.stdout == "{'a': 1}\n"


@pytest.mark.parametrize("value", [{5: 1}, {"a": {None: 1}}, [10**400], [1e31], [{1, 2}], [b"x"], (1,)])
def test_values_that_are_not_plain_are_refused(value):
    with pytest.raises(ValueError, match=r"no name|of more than|no number and no text"):
        require_plain(value)
    require_plain({"a": [None, True, 1, -1e30, math.nan, math.inf, "x", {"b": []}]})


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (2**20, "1 MiB"),
        (999.4 * 2**20, "999 MiB"),
        (999.6 * 2**20, "0.976 GiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**63, "8 EiB"),  # what some file systems call free
    ],
)
def test_sizes_have_three_digits_and_no_exponent(size, words):
    assert size_in_words(size) == words


def test_a_file_that_cannot_be_read_is_told_with_its_reason_alone(tmp_path):
    with pytest.raises(OSError) as missing:
        read_json(tmp_path / "x")
    write_text(tmp_path / "x", "{")
    with pytest.raises(ValueError) as damaged:
        read_json(tmp_path / "x")
    assert unreadable(missing.value) == "cannot be read (No such file or directory)"
    assert unreadable(damaged.value).startswith("cannot be read (no JSON: Expecting")
    assert unreadable(OSError("of a library\nand more")) == "cannot be read (of a library)"
    assert unreadable(KeyError()) == "cannot be read (KeyError)"
    assert why(OSError(13, "Permission denied", "x")) == "Permission denied"


@pytest.mark.parametrize(("words", "file"), [(r"\} ?[KMG]i?B\b", None), (r"cannot be read \(\{", "common/errors.py")])
def test_sizes_and_unreadable_files_are_worded_in_one_place(words, file):
    """The unit of a table's column or an axis stands in its heading, so there it is fixed."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rooms = [name for name in listed.split() if not name.startswith(("tests/", "benchmarks/", "docs/"))]
    worded = {name for name in rooms if re.search(words, (ROOT / name).read_text())}
    assert worded == ({file} if file else set())


def test_what_is_large_is_written_whole_and_in_pieces(tmp_path, monkeypatch):
    content, sizes = np.random.default_rng(0).bytes(3 * 2**20 + 7), []

    def write(file, piece, write=Pieces.write):
        sizes.append(write(file, piece))
        return sizes[-1]

    monkeypatch.setattr(Pieces, "write", write)
    with atomic_file(tmp_path / "weights") as file:
        assert file.write(content[:5]) == 5 and file.write(content[5:]) == len(content) - 5
    assert (tmp_path / "weights").read_bytes() == content
    assert max(sizes) == 2**20 and sum(sizes) == len(content)
