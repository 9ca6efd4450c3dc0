"""What is collected of a study's runs: enough for the same report, and nothing about the machine."""

import csv
import importlib.util
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import yaml

from commands.compare import to_evaluate_again
from commands.train import read_options
from common.cli import words_of
from common.files import write_json
from reports import build_report
from rundir.failure import write_failure
from rundir.log import read_log
from rundir.options import load_options, write_options
from rundir.read import read_runs
from tests.reports.factory import write_run
from training.grids.launchers.cells import is_done
from training.resolve import options_of, resolve

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("collect", ROOT / "docs" / "studies" / "collect.py")
collect = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(collect)


def grid_of(folder: Path, ended: bool = True, **options) -> Path:
    """A grid's folder, with four runs that name places of this machine wherever a run may."""
    for method in ("dino", "barlow_twins"):
        for seed in (0, 1):
            run = folder / "runs" / f"{method}-vit_nano-seed{seed}"
            places = {"data_root": str(folder / "my photos"), "out": str(run), **options}
            about = {"options": places, "images": 120, "segmentation": True, "ended": ended, "steps_per_epoch": 30}
            write_run(run, method, "vit_nano", seed, **about)
            environment = json.loads((run / "environment.json").read_text())
            words = [f"{ROOT}/run.py", "train", "--data_root", places["data_root"], f"--out={run}", "--seed", str(seed)]
            resumed = [{"step": 5, "command": ["python", *words], "host": "node7", "cores": 4}]
            about = {
                "command": ["python", *words],
                "resumed": resumed,
                "user": "jane",
                "hostname": socket.gethostname(),
            }
            (run / "environment.json").write_text(json.dumps(environment | about))
            log = (run / "log.jsonl").read_text()
            message = f"{folder}/my photos/1.jpg: cannot be read on {socket.gethostname()}; see https://example.org/a/b"
            (run / "log.jsonl").write_text(json.dumps({"kind": "warning", "message": message}) + "\n" + log)
            (run / "checkpoints").mkdir()
            (run / "checkpoints" / "last.pt").write_bytes(b"0" * 100)
    return folder


def collected(grid: Path, results: Path, *words: str) -> int:
    return collect.main([str(grid), "study", "--results", str(results), *words])


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_pdfs")
def test_the_report_of_what_is_collected_is_that_of_the_runs(tmp_path, capsys):
    grid = grid_of(tmp_path / "grid")
    assert collected(grid, tmp_path / "results") == 0 and "4 new" in capsys.readouterr().out
    folders = {"before": grid / "runs", "after": tmp_path / "results" / "study"}
    pages = {name: build_report([folder], tmp_path / name) for name, folder in folders.items()}
    for table in ("results", "differences", "measurements", "paper", "effects", "cost", "protocols", "seeds"):
        before, after = ((tmp_path / name / "tables" / f"{table}.csv").read_text() for name in pages)
        assert before == after, table
    tested = list(csv.DictReader((tmp_path / "after" / "tables" / "differences.csv").open()))
    assert len(tested) >= 3  # k-NN, linear, segmentation
    page = pages["after"].read_text()
    assert "Example CPU" in page and "2.11.0" in page and "Training loss" in page


def test_nothing_about_the_machine_is_collected(tmp_path):
    grid = grid_of(tmp_path / "grid")
    collected(grid, tmp_path / "results")
    run = tmp_path / "results" / "study" / "dino-vit_nano-seed0"
    for path, content in files_of(tmp_path / "results").items():
        if path.suffix != ".npz":
            for place in (
                str(tmp_path),
                "my photos",
                str(ROOT),
                "jane",
                "node7",
                socket.gethostname(),
                str(Path.home()),
            ):
                assert place not in content.decode(), (path, place)
    environment = json.loads((run / "environment.json").read_text())
    command = ["python", "run.py", "train", "--data_root", "DIR", "--out=dino-vit_nano-seed0", "--seed", "0"]
    assert environment["command"] == command == environment["resumed"][0]["command"]
    assert (environment["cpu"], environment["cores"], environment["packages"]["torch"]) == ("Example CPU", 2, "2.11.0")
    (warning,) = read_runs([run])[0][0].warnings
    assert warning == "DIR/1.jpg: cannot be read on …; see https://example.org/a/b"
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "log.jsonl",
        "results",
        "predictions",
    }


def test_logs_and_predictions_are_small_and_collected_again_the_same(tmp_path, capsys):
    grid = grid_of(tmp_path / "grid")
    run = grid / "runs" / "dino-vit_nano-seed0"
    right = np.random.default_rng(0).random(10_000) < 0.4
    about = {"names_hash": np.array("x"), "top1": right, "predicted": np.arange(10_000)}
    np.savez(run / "predictions" / "linear.npz", **about)
    collected(grid, tmp_path / "results")
    copy = tmp_path / "results" / "study" / run.name
    assert (copy / "predictions" / "linear.npz").stat().st_size < 3000
    with np.load(copy / "predictions" / "linear.npz") as arrays:
        assert {*arrays} == {"names_hash", "top1"} and np.array_equal(arrays["top1"], right)
    before, after = ([r for r in read_log(folder) if r["kind"] == "step"] for folder in (run, copy))
    assert len(before) == 120 and len(after) == collect.STEPS
    assert after[-1]["step"] == before[-1]["step"] and after[0]["loss"] == pytest.approx(before[0]["loss"], rel=1e-5)
    files = files_of(tmp_path / "results")
    assert collected(grid, tmp_path / "results") == 0 and "4 as before" in capsys.readouterr().out
    shutil.rmtree(grid)
    assert collected(grid, tmp_path / "results", "--restore") == 0
    assert collected(grid, tmp_path / "results") == 0 and "4 as before" in capsys.readouterr().out
    assert files_of(tmp_path / "results") == files


def test_runs_are_collected_when_they_have_ended_or_failed(tmp_path, capsys):
    grid, results = grid_of(tmp_path / "grid", ended=False), tmp_path / "results"
    runs = sorted((grid / "runs").iterdir())
    assert collected(grid, results) == 0 and "4 not ended" in capsys.readouterr().out and not results.exists()
    write_failure(runs[0], f"the loss is not finite at step 12 ({grid}/x)")
    collected(grid, results)
    assert [folder.name for folder in (results / "study").iterdir()] == [runs[0].name]
    (run,) = read_runs([results / "study"])[0]
    assert run.failure == "the loss is not finite at step 12 (x)"
    grid_of(tmp_path / "grid2")
    shutil.rmtree(grid)
    (tmp_path / "grid2").rename(grid)  # all have ended now
    collected(grid, results)
    assert "3 new, 1 changed" in capsys.readouterr().out
    write_failure(runs[0], "again")
    (runs[0] / "log.jsonl").write_text("")
    collected(grid, results)
    assert "3 as before, 1 not ended" in capsys.readouterr().out and not read_runs([results / "study"])[0][0].failure


def test_weights_that_others_trained_are_collected_once_measured(tmp_path, capsys):
    run = grid_of(tmp_path / "grid") / "runs" / "dino-vit_nano-seed0"
    write_options(run, {"weights": "/home/jane/dino-lightly-seed0.pth", "backbone": "resnet18", "data": "imagefolder"})
    (run / "log.jsonl").unlink()
    collected(tmp_path / "grid", tmp_path / "results")
    assert "4 new" in capsys.readouterr().out
    assert load_options(tmp_path / "results/study" / run.name / "config.yaml")["weights"] == "dino-lightly-seed0.pth"
    shutil.rmtree(run / "results")
    collected(tmp_path / "grid", tmp_path / "results")
    assert "3 as before, 1 not ended" in capsys.readouterr().out


def test_a_restored_cell_is_done_for_the_same_grid(tmp_path, capsys):
    options = {
        "method": "random",
        "backbone": "vit_nano",
        "seed": 0,
        "evals": ["knn"],
        "data_root": str(tmp_path / "photos"),
    }
    grid, name = tmp_path / "grid", "random-vit_nano-seed0"
    asked = read_options(words_of({**options, "out": str(grid / "runs" / name)}))
    run = grid / "runs" / name
    write_options(run, options_of(resolve(asked.train), asked.method, asked.evaluations))
    (run / "log.jsonl").write_text('{"kind": "end", "step": 0}\n')
    write_json(run / "results" / "knn.json", [])
    collected(grid, tmp_path / "results")
    shutil.rmtree(grid)
    assert collected(grid, tmp_path / "results", "--restore") == 0 and "1 restored" in capsys.readouterr().out
    assert "data_root" not in load_options(run / "config.yaml")
    assert is_done(run, ["knn"]) and to_evaluate_again({name: asked}, grid) == set()
    (run / "log.jsonl").write_text('{"kind": "step", "step": 1}\n')  # trained anew meanwhile
    collected(grid, tmp_path / "results", "--restore")
    assert "1 there already" in capsys.readouterr().out and len(read_log(run)) == 1


def test_what_cannot_be_collected_is_named(tmp_path, capsys):
    assert collected(tmp_path / "none", tmp_path) == 1
    assert "holds no runs; give the folder that compare was given" in capsys.readouterr().err
    grid = grid_of(tmp_path / "grid")
    (grid / "runs" / "dino-vit_nano-seed0" / "results" / "knn.json").write_text("[{")
    assert collected(grid, tmp_path / "results") == 1
    said = capsys.readouterr()
    assert "3 new, 1 damaged" in said.out and "dino-vit_nano-seed0: left out" in said.err and "knn.json" in said.err


def test_places_in_any_option_are_their_last_part(tmp_path):
    clean = collect._cleaner(tmp_path, {"data_root": "/data/cifar 10", "out": None})
    for given, left in {
        "hf:/home/jane/photos": "hf:photos",
        "~jane/weights/a.pt": "a.pt",
        "dino:vit_s8": "dino:vit_s8",
        "435 images/s, and/or 1/2": "435 images/s, and/or 1/2",
        "/data/cifar 10/train: no such folder": "DIR/train: no such folder",
        "/mnt/a b/c.pt": "c.pt",
        "uoft-cs/cifar100": "uoft-cs/cifar100",
    }.items():
        assert clean(given) == left
    assert clean({"lr": 0.1, "values": ["/a/b", None, True]}) == {"lr": 0.1, "values": ["b", None, True]}
    assert yaml.safe_load(yaml.safe_dump(clean({"method": Path.home().name}))) == {"method": Path.home().name}
