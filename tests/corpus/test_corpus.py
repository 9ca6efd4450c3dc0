"""Other people's files, folders, lists, masks, weights, runs and archives, each made here, with what is expected of it: what is
seen, or the sentence that says why it cannot be used. ``docs/reliability.md`` names the promises."""

import re
from importlib import import_module

import pytest

from common.errors import UserError
from data.store.decode import DamagedImage

KINDS = {
    kind: import_module(f"tests.corpus.{kind}")
    for kind in ("archives", "folders", "lists", "masks", "photos", "runs", "weights")
}
ALL = [(kind, name) for kind, module in KINDS.items() for name in module.ENTRIES]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind, name", ALL, ids=[f"{kind}: {name}" for kind, name in ALL])
def test_what_is_seen_or_said(kind, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, expected = KINDS[kind].ENTRIES[name]
    (tmp_path / "given").mkdir()
    given = make(tmp_path / "given")
    before = sorted(path.name for path in tmp_path.iterdir())
    if isinstance(expected, re.Pattern):
        with pytest.raises((UserError, DamagedImage)) as error:
            KINDS[kind].look(given)
        assert expected.search(str(error.value)) and "\n" not in str(error.value), str(error.value)
    else:
        assert KINDS[kind].look(given) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # nothing outside what was given


def test_the_corpus_is_large():
    assert len(ALL) >= 120
