"""Whole, damaged, half-written and foreign run directories."""

import datetime
import errno
import json
import os

import pytest
import yaml

from rundir.log import end_of
from rundir.read import STEP_RECORDS, read_runs
from tests.reports.factory import write_run


def test_a_run_is_read_whole(tmp_path):
    write_run(tmp_path / "a", "dino", images=50)
    runs, problems = read_runs([tmp_path / "a"])
    assert problems == []
    (run,) = runs
    assert run.config["method"] == "dino"
    assert run.finished
    assert len(run.steps) == 40
    assert [record["epoch"] for record in run.knn] == [4, 8, 12, 16, 20]
    assert {(result.evaluation, result.metric) for result in run.results} == {
        ("knn", "top1"),
        ("knn", "top5"),
        ("linear", "top1"),
        ("linear", "top5"),
    }
    assert run.newest == "2026-01-05T10:00:00+00:00"


def test_a_folder_stands_for_its_runs_and_nothing_is_read_twice(tmp_path):
    for name in ("b", "a"):
        write_run(tmp_path / name, seed=ord(name), images=20)
    runs, problems = read_runs([tmp_path, tmp_path / "a", tmp_path / "." / "b"])
    assert [run.name for run in runs] == ["a", "b"]
    assert problems == []


def damage(run, name):
    """Damage a run directory in one of many ways."""
    results = run / "results" / "knn.json"
    if name == "truncated results":
        results.write_text(results.read_text()[:100])
    elif name == "results are no list":
        results.write_text('{"a": 1}')
    elif name == "value is NaN":
        content = json.loads(results.read_text())
        content[0]["value"] = float("nan")
        results.write_text(json.dumps(content))
    elif name == "value is missing":
        content = json.loads(results.read_text())
        del content[1]["value"]
        results.write_text(json.dumps(content))
    elif name == "binary config":
        (run / "config.yaml").write_bytes(b"\xff\xfe\x00")
    elif name == "config is a list":
        (run / "config.yaml").write_text("- 1\n")
    elif name == "no config":
        (run / "config.yaml").unlink()
    elif name == "config is a folder":
        (run / "config.yaml").unlink()
        (run / "config.yaml").mkdir()
    elif name == "damaged environment":
        (run / "environment.json").write_text("{")
    elif name == "damaged log":
        lines = (run / "log.jsonl").read_text().splitlines()
        lines[3] = lines[3][:20]
        (run / "log.jsonl").write_text("\n".join(lines) + "\n")
    elif name == "deep nesting":
        results.write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("name", "says", "kept"),
    [
        ("truncated results", "cannot be read (no JSON: ", True),
        ("results are no list", "cannot be read (no list of measurements)", True),
        ("value is NaN", "value is nan, no finite number", True),
        ("value is missing", "no 'value'", True),
        ("binary config", "config.yaml cannot be read", False),
        ("config is a list", "config.yaml cannot be read (no mapping", False),
        ("no config", "no config.yaml", False),
        ("config is a folder", "cannot be read", False),
        ("damaged environment", "cannot be read (no JSON: ", True),
        ("damaged log", "1 damaged records (lines 4)", True),
        ("deep nesting", "cannot be read (no JSON: ", True),
    ],
)
def test_damage_is_listed_and_not_fatal(tmp_path, name, says, kept):
    write_run(tmp_path / "whole", images=20)
    run = write_run(tmp_path / "damaged", seed=1, images=20)
    damage(run, name)
    runs, problems = read_runs([tmp_path])
    assert [run.name for run in runs] == (["damaged", "whole"] if kept else ["whole"])
    assert len(problems) == 1
    assert "damaged" in problems[0].where
    assert says in problems[0].what


def test_foreign_missing_and_unfinished_directories_are_listed(tmp_path):
    write_run(tmp_path / "whole", images=20)
    write_run(tmp_path / "cut", seed=1, images=20, ended=False)
    (tmp_path / "cut" / "log.jsonl").write_text((tmp_path / "cut" / "log.jsonl").read_text()[:-30])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    runs, problems = read_runs([tmp_path, tmp_path / "nowhere"])
    assert [run.name for run in runs] == ["cut", "whole"]
    told = {problem.where.rpartition("/")[2]: problem.what for problem in problems}
    assert "training has not ended (last record: epoch" in told["cut"]
    assert "6 measurements are left out" in told["cut"]
    assert "no run directory" in told["photos"]
    assert told["nowhere"] == "no such directory"


def test_long_logs_are_read_at_even_distances(tmp_path):
    run = write_run(tmp_path / "a", images=20)
    end = (run / "log.jsonl").read_text().splitlines()[-1]
    steps = [json.dumps({"kind": "step", "step": i, "epoch": 0, "loss": float(i)}) for i in range(1, 10_001)]
    (run / "log.jsonl").write_text("\n".join([*steps, end]) + "\n")
    (read,), problems = read_runs([run])
    assert problems == []
    assert read.logged == 10_000
    assert STEP_RECORDS <= len(read.steps) <= STEP_RECORDS + 1
    assert (read.steps[0]["step"], read.steps[1]["step"], read.steps[-1]["step"]) == (1, 26, 10_000)


def write_option(run, name, value):
    options = yaml.safe_load((run / "config.yaml").read_text()) | {name: value}
    (run / "config.yaml").write_text(yaml.safe_dump(options))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("evals", 5, "evals is 5"),
        ("evals", [["a"]], "evals holds"),
        ("evals", [5], "evals holds"),
        ("method", ["dino"], "method is"),
        ("epochs", "many", "epochs is"),
        ("lr", 10**400, "lr: a number of more than"),
        ("lr", datetime.date(2026, 1, 1), "lr: datetime.date"),
        ("lr", {1: 2, "a": 3}, "lr: 1 is no name"),
        ("lr", json.loads("[" * 60 + "]" * 60), "lr: nested too deeply"),
        (5, 1, "(no mapping"),
    ],
)
def test_options_of_other_types_leave_one_run_out(tmp_path, name, value, says):
    write_run(tmp_path / "whole", images=20)
    write_option(write_run(tmp_path / "other", seed=1, images=20), name, value)
    runs, problems = read_runs([tmp_path])
    assert [run.name for run in runs] == ["whole"]
    assert len(problems) == 1 and says in problems[0].what and "left out" in problems[0].what


@pytest.mark.parametrize(
    "name", ["config.yaml", "log.jsonl", "environment.json", "results/knn.json", "reproduces.json"]
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
def test_what_is_no_file_is_listed(tmp_path, name, kind):
    write_run(tmp_path / "whole", images=20)
    path = write_run(tmp_path / "other", seed=1, images=20) / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    runs, problems = read_runs([tmp_path])
    assert [run.name for run in runs] == ["whole"] if name == "config.yaml" else ["other", "whole"]
    assert any(name in problem.where or name in problem.what for problem in problems)


@pytest.fixture
def unreadable(tmp_path, monkeypatch):
    """``unreadable(folder)``: nobody may look into it, not even root, who may everywhere."""

    def forbid(folder):
        def of(call):
            def forbidden(path, *more, **options):
                if not isinstance(path, int) and f"{os.fspath(path)}/".startswith(f"{folder}/"):
                    raise PermissionError(errno.EACCES, "Permission denied", str(path))
                return call(path, *more, **options)

            return forbidden

        for name in ("scandir", "listdir", "open"):
            monkeypatch.setattr(os, name, of(getattr(os, name)))

    return forbid


def test_unreadable_folders_and_loops_are_listed(tmp_path, unreadable):
    write_run(tmp_path / "whole", images=20)
    write_run(tmp_path / "forbidden", seed=1, images=20)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    unreadable(tmp_path / "forbidden")
    runs, problems = read_runs([tmp_path, tmp_path / "loop", tmp_path / "forbidden"])
    assert [run.name for run in runs] == ["whole"]
    listed = {problem.where.rpartition("/")[2]: problem.what for problem in problems}
    assert "Permission denied" in listed["forbidden"]
    assert {"loop", "gone", "forbidden"} == listed.keys()


def test_the_end_is_read_without_the_log_before_it(tmp_path, monkeypatch):
    run = write_run(tmp_path / "a", images=20)
    log = run / "log.jsonl"
    *steps, end = log.read_text().splitlines(keepends=True)
    quoted = json.dumps({"kind": "warning", "message": '{"kind": "end"}'}) + "\n"
    log.write_text("".join([*steps * 100, quoted, end]))
    parsed = []
    monkeypatch.setattr("json.loads", lambda text, loads=json.loads: parsed.append(text) or loads(text))
    assert end_of(run)["minutes"] == json.JSONDecoder().decode(end)["minutes"]
    assert len(parsed) == 1
    for content in ("", "".join([*steps, quoted]), "".join(steps) + end[:-10]):
        log.write_text(content)
        assert end_of(run) is None
    log.unlink()
    assert end_of(run) is None
