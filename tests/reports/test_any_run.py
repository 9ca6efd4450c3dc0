"""Whatever a run directory holds, the report is of the other runs, and lists what it could not use."""

import json
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.files import MOST_NUMBER
from reports import build_report
from tests.reports.factory import write_run
from tests.reports.test_hostile_names import write_segmentation

#: Every file of a run that a report reads.
FILES = (
    "config.yaml",
    "environment.json",
    "reproduces.json",
    "failure.json",
    "log.jsonl",
    "results/knn.json",
    "results/segmentation.json",
    "predictions/knn-k20.npz",
    "predictions/segmentation_linear.npz",
    "figures/cross_correlation.npz",
    "figures/segmentation-demo.npz",
    "figures/attention-0.png",
)
NUMBERS = [0, -1, 1e-320, 2**63, 2**64, MOST_NUMBER, -MOST_NUMBER, 10**400, 1.7e308]
numbers = st.sampled_from([*NUMBERS, float("nan"), float("inf")]) | st.integers() | st.floats()
words = st.text(max_size=8) | st.sampled_from(
    ["\udcff", "\ud800", "\x00", "\x1b[2J", "$\\frac{$", "=1+1", "", "x" * 10_000]
)
plain = st.none() | st.booleans() | numbers | words
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
deep = st.integers(10, 900).map(lambda depth: json.loads("[" * depth + "]" * depth))


def place_of(data: st.DataObject, value: object) -> tuple[object, object]:
    """A container somewhere in a value, and a key of it."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = data.draw(st.sampled_from(keys))
        inner = value[key]
        if not inner or not isinstance(inner, (dict, list)) or data.draw(st.booleans()):
            return value, key
        value = inner


def changed(data: st.DataObject, value: object) -> object:
    """The value with others in a few places."""
    for _ in range(data.draw(st.integers(1, 3))):
        if not value or not isinstance(value, (dict, list)) or data.draw(st.integers(0, 9)) == 0:
            return data.draw(values | deep)
        container, key = place_of(data, value)
        if isinstance(container, dict) and data.draw(st.booleans()):
            container[data.draw(words)] = container.pop(key)
        else:
            container[key] = data.draw(values | deep)
    return value


def damage_content(data: st.DataObject, file: Path) -> None:
    """Change what a file says, in its own format."""
    if file.suffix == ".json":
        file.write_text(json.dumps(changed(data, json.loads(file.read_text()))))
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(line) + "\n" for line in _lines(data, file)))
    elif file.suffix == ".yaml":
        options = changed(data, yaml.safe_load(file.read_text()))
        if isinstance(options, dict) and data.draw(st.booleans()):
            options[data.draw(st.sampled_from([5, None, True, 1.5]))] = 1
        file.write_text(yaml.safe_dump(options, sort_keys=False))
    elif file.suffix == ".npz":
        with np.load(file) as kept:
            arrays = dict(kept)
        name = data.draw(st.sampled_from(sorted(arrays)))
        shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=4)))
        same = data.draw(st.booleans())
        kind = data.draw(st.sampled_from(["f8", "f4", "i8", "u1", "?", "U3", "S2", "c16", "M8[s]"]))
        filler = np.full(arrays[name].shape if same else shape, data.draw(st.sampled_from([0, 1, 7, 255])), np.int64)
        arrays[name] = filler.astype(kind)
        if arrays[name].dtype.kind == "f" and arrays[name].size:
            arrays[name].flat[0] = data.draw(st.sampled_from([0, -1, np.nan, np.inf, 3e38]))
        if data.draw(st.integers(0, 5)) == 0:
            del arrays[name]
        np.savez(file, **arrays)
    else:
        file.write_bytes(data.draw(st.binary(max_size=64)))


def _lines(data: st.DataObject, file: Path) -> list[object]:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = {line["kind"]: number for number, line in enumerate(lines)}
    number = kinds[data.draw(st.sampled_from(sorted(kinds)))]
    lines[number] = changed(data, lines[number])
    return lines


def damage(data: st.DataObject, file: Path) -> None:
    """Change a file's content, its bytes, or what it is."""
    how = data.draw(
        st.sampled_from(["content"] * 6 + ["bytes", "cut", "pipe", "folder", "loop", "socket", "no", "device"])
    )
    if how == "content":
        damage_content(data, file)
        return
    whole = file.read_bytes()
    file.unlink()
    if how == "bytes":
        file.write_bytes(data.draw(st.binary(max_size=100) | st.just(b"\xff\xfe") | st.just(b"[" * 100_000)))
    elif how == "cut":
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    elif how == "loop":
        file.symlink_to(file)
    elif how == "device":
        file.symlink_to("/dev/zero")
    elif how == "socket":
        file.symlink_to(_a_socket(file.parent))


def _a_socket(folder: Path) -> Path:
    path = folder / "s"
    if not path.exists():
        with socket.socket(socket.AF_UNIX) as server:
            try:
                server.bind(os.fspath(path))
            except OSError:  # a long path
                os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with every file that a report reads."""
    folder = tmp_path_factory.mktemp("whole") / "runs"
    for name, method, seed in (("a", "dino", 0), ("b", "dino", 1), ("c", "barlow_twins", 0)):
        run = write_run(folder / name, method, seed=seed, images=8, epochs=4)
        write_segmentation(run, "demo", ["background", "one"])
        mark = {"table": "dino/table2", "row": "DINO ViT-S/16", "part": "imagenet", "changed": {"epochs": 2}}
        (run / "reproduces.json").write_text(json.dumps(mark))
        (run / "failure.json").write_text(json.dumps({"reason": "no space"}))
        from PIL import Image

        Image.new("RGB", (4, 4)).save(run / "figures" / "attention-0.png")
    return folder


def report_of(whole: Path, tmp_path: Path, act) -> str:
    runs = tmp_path / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    shutil.copytree(whole, runs)
    act(runs / "b")
    page = build_report([runs], tmp_path / "out").read_text(encoding="utf-8")
    assert f"{runs}/a" in page and f"{runs}/c" in page
    return page


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_of_a_run_leaves_the_report_of_the_others(no_pdfs, whole, tmp_path, data):
    names = data.draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=2, unique=True))
    report_of(whole, tmp_path, lambda run: [damage(data, run / name) for name in names])


def test_names_that_no_file_can_have(no_pdfs, whole, tmp_path):
    """Halves of characters, 10,000 letters, and ways out of the report's folder."""

    def act(run: Path) -> None:
        for file, name in (("knn", "\udcff\ud800"), ("segmentation", "x" * 10_000)):
            path = run / "results" / f"{file}.json"
            measurements = [m | {"data": {**m["data"], "name": name}} for m in json.loads(path.read_text())]
            measurements[0] |= {"metric": name, "evaluation": "../../../x"} if file == "knn" else {"metric": "miou"}
            path.write_text(json.dumps(measurements))
        options = yaml.safe_load((run / "config.yaml").read_text())
        (run / "config.yaml").write_text(yaml.safe_dump(options | {"../../y": "../../y", "note": "=1\x1b[2J"}))

    page = report_of(whole, tmp_path, act)
    assert "\\udcff\\ud800" in page
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "tables", "figures"}
