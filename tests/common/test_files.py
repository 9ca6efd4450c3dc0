"""Files that are damaged, or that somebody else has made."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.files import read_arrays, read_json_lines, remove_unfinished

quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


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
