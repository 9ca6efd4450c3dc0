"""Files that are damaged, or that somebody else has made."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.files import read_arrays, read_json_lines

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
