import os
import pickle

import numpy as np
import pytest

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
