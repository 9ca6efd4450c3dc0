import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from common.environment import ROOT
from common.errors import UserError
from data.sets.core.pickles import read_plain_pickle

PLAIN = {
    "imlist": ["a", "b"],
    "gnd": [
        {
            "bbx": [1.5, 2.0, 3.0, 4.0],
            "easy": np.arange(5),
            "hard": np.array([], np.int32),
            "junk": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "big_endian": np.array([1, 2, 3], ">i4"),
            "strided": np.arange(10)[::3],
            "n": np.int64(7),
        }
    ],
}


def same(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, np.ndarray):
        array = np.asarray(found)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_plain_data_of_every_protocol(tmp_path, protocol):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(PLAIN, protocol))
    same(read_plain_pickle(tmp_path / "x.pkl"), PLAIN)


def test_reads_pickles_of_older_numpy(tmp_path):
    content = pickle.dumps(PLAIN, 2)
    assert b"numpy._core.multiarray" in content
    (tmp_path / "x.pkl").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    same(read_plain_pickle(tmp_path / "x.pkl"), PLAIN)


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Runs(os.mkdir, "made"),
        Runs(eval, "__import__('os').mkdir('made')"),
        Runs(np.lib.format.open_memmap, "made"),
        {"gnd": [np.array([Runs(os.mkdir, "made")], object)]},
        np.zeros(2, [("a", "i4"), ("b", "O")]),
        ValueError("made"),
    ],
)
def test_nothing_else_is_run(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=r"x\.pkl: no pickle of plain data .*nothing of it was run"):
        read_plain_pickle(tmp_path / "x.pkl")
    assert not (tmp_path / "made").exists()


def test_damaged_and_missing_files(tmp_path):
    whole = pickle.dumps(PLAIN)
    for content in (b"", b"no pickle", whole[:100]):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(UserError, match="no pickle of plain data"):
            read_plain_pickle(tmp_path / "x.pkl")
    with pytest.raises(UserError, match=r"y\.pkl: missing"):
        read_plain_pickle(tmp_path / "y.pkl")


MULTIARRAY = b"cnumpy.core.multiarray\n"


@pytest.mark.parametrize(
    "content",
    [
        # An object's number, and sizes, that ask for the memory of the machine.
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc.",
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc.",
        # An array of bytes(10**12), and a type that points somewhere.
        MULTIARRAY + b"scalar\n(cnumpy\ndtype\n(S'u1'\ntRL1000000000000L\ntR.",
        MULTIARRAY + b"_reconstruct\n(tR(I1\n(I4\ntcnumpy\ndtype\n(S'u1'\ntRI00\nL1000000000000L\ntb.",
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"cnumpy\ndtype\n(S'u1'\ntR(I3\nS'<'\nNNNL4702111234474983745L\nI-1\nI0\ntb.",
        # Changes of what stands in for numpy.
        b"c_codecs\nencode\n(N(dS'__defaults__'\n(S'x'\ntstb.",
        b"cnumpy\ndtype\n(dS'value'\nI1\nsb.",
        b"cnumpy\nndarray\n(N(dS'__array__'\nI1\nstb.",
    ],
)
def test_pickles_that_harm_are_read_as_plain_data_or_refused(tmp_path, content):
    """In a process of their own with little memory: some ended it by a segmentation fault, or took all of it."""
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    code = (
        "import resource, sys; from pathlib import Path; from data.sets.core.pickles import read_plain_pickle, _encode\n"
        "from common.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))\n"
        "try: print(type(read_plain_pickle(Path(sys.argv[1]))).__name__)\n"
        "except UserError as error: print(error)\n"
        "assert _encode.__defaults__ is None\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 0, said.stderr
    assert "no pickle of plain data" in said.stdout or said.stdout in ("list\n", "_Dtype\n")
