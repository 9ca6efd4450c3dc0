"""Damaged checkpoints, logs, results and settings of a run: a sentence that names the file, or the run as it was, and never other
numbers."""

import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import run as command_line
from backbones import build_backbone
from backbones.formats.source import Source
from commands.train import train
from common.errors import UserError
from reports.visual.cross_correlation import projections_of
from rundir.paths import last_checkpoint
from training.checkpoint import load_checkpoint

quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def trained(small, tmp_path_factory) -> Path:
    return train(*small(tmp_path_factory.getbasetemp() / "trained", epochs=1, knn_every=0))


@quick
@given(data=st.data())
def test_any_change_of_a_checkpoint_is_found(trained, tmp_path, data):
    """Or changes nothing that is read: padding, times."""
    content = bytearray(last_checkpoint(trained).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    try:
        state = load_checkpoint(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    whole = load_checkpoint(last_checkpoint(trained))
    assert all(torch.equal(state["method"][name], value) for name, value in whole["method"].items())


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("CREATED"),)


@pytest.mark.parametrize(
    "content",
    [
        {"format": 1, "method": Harmful(), "optimizer": None, "backbone_prefix": ""},
        {"format": 1},
        {"format": 2},
        [1, 2],
        Harmful(),
    ],
)
def test_checkpoints_of_others_are_refused_and_run_nothing(content, trained, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    log = run / "log.jsonl"
    log.write_text("".join(line for line in log.open() if '"end"' not in line))
    for file in run.glob("checkpoints/*.pt"):
        torch.save(content, file)
    for attempt in (
        lambda: train(*small(run, epochs=1, knn_every=0)),
        lambda: Source(run).load_into(build_backbone("vit_pico", 32), "vit_pico"),
    ):
        with pytest.raises(UserError, match=r"last\.pt"):
            attempt()
    assert not (tmp_path / "CREATED").exists()


def test_a_pickle_and_a_bomb_are_no_checkpoints(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(pickle.dumps({"format": 1}))
    with pytest.raises(UserError, match=r"last\.pt: cannot be read"):
        load_checkpoint(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(2**24))
    with pytest.raises(UserError, match=r"last\.pt: cannot be read"):
        load_checkpoint(path)


def test_a_checkpoint_of_another_run_is_refused(trained, small, tmp_path):
    run = train(*small(tmp_path / "run", epochs=2, knn_every=0, out_dim=32))
    log = run / "log.jsonl"
    log.write_text("".join(line for line in log.open() if '"end"' not in line))
    shutil.copy(last_checkpoint(trained), last_checkpoint(run))
    with pytest.raises(UserError, match=r"last\.pt: not of this run, .*give another --out"):
        train(*small(run, epochs=2, knn_every=0, out_dim=32))


def test_a_run_of_a_former_version_of_its_method_is_refused(small, tmp_path):
    """SimCLR's head had no BatchNorm after its last layer, for one. (Its backbone can be evaluated as before.)"""
    asked = small(tmp_path / "run", "simclr", epochs=2, knn_every=0)
    run = train(*asked)
    log = run / "log.jsonl"
    log.write_text("".join(line for line in log.open() if '"end"' not in line))
    state = torch.load(last_checkpoint(run), weights_only=True)
    state["method"] = {name: value for name, value in state["method"].items() if not name.startswith("projector.4.")}
    torch.save(state, last_checkpoint(run))
    with pytest.raises(
        UserError, match=r"last\.pt: .*former version of its method \(projector\.4\.weight is not in the file\)"
    ):
        train(*asked)
    with pytest.raises(
        UserError, match=r"former version of simclr \(projector\.4\.weight is not in the file\).*train it anew"
    ):
        projections_of(run, 8, torch.device("cpu"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("log.jsonl", b'{"kind": "step"\n{"kind": "step"}\n', r"log\.jsonl, line 1: not a record"),
        ("log.jsonl", b"[1]\n{}\n", r"log\.jsonl, line 1: not a record \(no mapping\)"),
        ("log.jsonl", b"\xff\xfe\n{}\n", r"log\.jsonl: no UTF-8 text"),
        ("log.jsonl", b"[" * 100_000 + b"\n{}\n", r"log\.jsonl, line 1: not a record"),
        ("config.yaml", b"\x00\x01", r"config\.yaml: cannot be read"),
        ("config.yaml", b"- a\n- b\n", r"config\.yaml: cannot be read \(no mapping"),
        ("config.yaml", b"a: !!python/object/apply:os.system [x]\n", r"config\.yaml: cannot be read"),
        ("environment.json", b"[1]", r"environment\.json: damaged"),
        ("environment.json", b"{", r"environment\.json: damaged"),
    ],
)
def test_damaged_files_of_a_run_are_named(file, content, message, trained, small, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    log = run / "log.jsonl"
    log.write_text("".join(line for line in log.open() if '"end"' not in line))
    (run / file).write_bytes(content)
    weights = last_checkpoint(run).read_bytes()
    with pytest.raises(UserError, match=message):
        train(*small(run, epochs=1, knn_every=0))
    assert last_checkpoint(run).read_bytes() == weights
    assert (run / file).read_bytes() == content


@pytest.mark.parametrize("what", ["a file", "a folder", "nothing", "an empty run"])
def test_no_run_directory(what, tmp_path, capsys):
    path = tmp_path / "x"
    if what == "a file":
        path.write_bytes(b"x")
    elif what != "nothing":
        path.mkdir()
    if what == "an empty run":
        (path / "config.yaml").write_text("method: dino\n")
    status = command_line.main(["evaluate", "--weights", str(path), "--backbone", "vit_nano", "--data", "demo"])
    said = capsys.readouterr().err
    assert status == 1 and str(path) in said and said.startswith("error: ") and said.count("\n") == 1


def test_a_file_where_the_run_directory_should_be(small, tmp_path, capsys):
    (tmp_path / "run").write_text("here I am")
    with pytest.raises(OSError, match="run"):
        train(*small(tmp_path / "run", epochs=1))
    assert (tmp_path / "run").read_text() == "here I am"


@pytest.mark.parametrize("kind", ["log.jsonl", "checkpoints", "results"])
def test_what_is_left_of_a_run_of_unknown_options_is_not_continued(kind, trained, small, tmp_path):
    config, own = small(tmp_path / "run", "dino")
    (tmp_path / "run").mkdir()
    if kind == "results":
        (tmp_path / "run" / kind).mkdir()
        (tmp_path / "run" / kind / "knn.json").write_text("[]")
    elif kind == "checkpoints":
        shutil.copytree(trained / kind, tmp_path / "run" / kind)
    else:
        shutil.copy(trained / kind, tmp_path / "run")
    with pytest.raises(UserError, match=f"holds {kind} but no config.yaml"):
        train(config, own, {})


def test_a_run_whose_weights_are_gone_keeps_its_results(small, tmp_path, capsys):
    asked = small(tmp_path / "run", epochs=1, knn_every=0)
    run = train(*asked)
    shutil.rmtree(run / "checkpoints")
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    assert any(path.name == "cross_correlation.npz" for path in kept)
    train(*asked)
    assert "training ended already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in kept} == kept and not (run / "checkpoints").exists()
    words = ["train", "--config", str(run / "config.yaml"), "--out", str(run), "--evals", "knn"]
    assert command_line.main(words) == 1
    assert "its training has ended and its weights are gone" in capsys.readouterr().err
