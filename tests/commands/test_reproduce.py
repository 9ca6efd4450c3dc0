"""run.py reproduce: the list, rows that run and rows that cannot, and that every row of every table is a valid command."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import run
from commands.reproduce import _grid_cells, _mark, _run, tasks_of
from common.errors import UserError
from eval.core.base import EVALUATIONS
from reports.analysis.published import read_published

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = read_published()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up table of an untrained backbone in place of the published ones; its data set."""
    monkeypatch.setenv("SSL_COMPARE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("reports.analysis.published.FOLDER", tmp_path / "published")
    part = {"data": "imagefolder", "image_size": 16, "evals": ["knn"], "knn_ks": [5], "backbone": "vit_nano"}
    table = {
        "title": "Three colours",
        "where": "table 1",
        "protocol": "k = 5",
        "cost": "seconds",
        "differs": ["untrained"],
        "test_images": 12,
        "parts": {"colours": part},
        "columns": {"knn": {"title": "k-NN, %", "evaluation": "knn", "metric": "top1", "protocol": {"k": 5}}},
        "rows": [
            {"name": "untrained", "published": {"knn": 40.0}, "run": {}},
            {"name": "weights that nobody has", "published": {"knn": 90.0}, "run": {"weights": "none.pth"}},
            {"name": "secret", "published": {"knn": 95.0}, "not_run": "it is secret"},
        ],
    }
    (tmp_path / "published").mkdir()
    content = {"paper": "Nobody (2026)", "source": "none", "tables": {"t1": table}}
    (tmp_path / "published" / "made.yaml").write_text(yaml.safe_dump(content))
    rng = np.random.default_rng(0)
    root = tmp_path / "colours"
    for split, count in (("train", 8), ("val", 4)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 60, (20, 20, 3))
                pixels[..., label] += 180
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def test_the_reason_of_a_failure_is_of_this_attempt(tmp_path, monkeypatch):
    """The log keeps what was printed before, also by a process that runs the same row now."""
    monkeypatch.setattr("training.grids.launchers.process.ROOT", tmp_path)
    log = tmp_path / "logs" / "row.log"
    for said, reason in (("error: full", "full"), ("gone", f"it ended with status 1 and no sentence; see {log}")):
        (tmp_path / "run.py").write_text(f"import sys\nprint({said!r})\nsys.exit(1)\n")
        assert _run([], log) == reason
    assert log.read_text() == "error: full\ngone\n"


def test_a_signal_stops_the_rows_command_first(stopped_first, tmp_path, monkeypatch):
    monkeypatch.setattr("training.grids.launchers.process.ROOT", tmp_path)
    stopped_first(lambda: _run([], tmp_path / "logs" / "row.log"))


def test_rows_run_or_say_in_a_sentence_why_not(published, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["reproduce", "made/t1", "--data_root", str(published), "--out", str(out), "--device", "cpu"]
    assert run.main(words) == 1  # a row's weights are missing
    printed = capsys.readouterr().out
    assert "not run: weights that nobody has: none.pth: " in printed
    (knn,) = json.loads((out / "made/t1/runs/untrained-seed0/results/knn.json").read_text())
    difference = f"{knn['value'] - 40:+.2f}".replace("-", "−")
    assert difference in printed and "untrained" in printed
    for words_there in (printed, (out / "made/t1/published-and-measured.md").read_text()):
        assert "Nobody (2026), table 1. Published: k = 5. Here otherwise: untrained." in words_there
    lines = (out / "made/t1/published-and-measured.csv").read_text().splitlines()
    assert lines[0].startswith(
        "Row,What,Published,Measured,Measured low,Measured high,Measured seeds,Difference,Remark"
    )
    assert lines[1].startswith(f'untrained,"k-NN, %",40,{knn["value"]:.10g},')
    assert lines[3].endswith("not run: it is secret")
    assert "Published numbers beside measured" in (out / "made/t1/report/index.html").read_text()

    assert run.main(["reproduce", "--list", "--out", str(out)]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "made/t1: Three colours (table 1)" in listed and "needs data: colours; weights: none.pth" in listed
    assert f"1 of 2 numbers, at most {difference.rstrip('0').rstrip('.')} off python" in listed
    mark = out / "made/t1/runs/untrained-seed0/reproduces.json"
    as_written = mark.read_text()
    mark.write_text(json.dumps({**json.loads(as_written), "changed": {"knn_temperature": 0.5}}))
    assert run.main(["reproduce", "--list", "--out", str(out)]) == 0
    assert "off, some with other options than the table's" in " ".join(capsys.readouterr().out.split())
    mark.write_text(as_written)

    # Other options would make another number in the same directory.
    assert run.main([*words, "--knn_temperature", "0.5"]) == 1
    assert "was run with the table's own options; give the same, or another --out" in capsys.readouterr().err


def test_an_interrupted_training_row_continues(published, tmp_path, capsys, monkeypatch):
    grid = tmp_path / "grid.yaml"
    base = {"data": "imagefolder", "image_size": 16, "batch_size": 8, "epochs": 3, "warmup_epochs": 0, "knn_ks": [5]}
    base |= {"projector": "8-8", "optimizer": "adamw", "device": "cpu", "precision": "fp32"}
    cells = {"methods": ["barlow_twins"], "backbones": ["vit_nano"], "evals": ["knn"]}
    grid.write_text(yaml.safe_dump({"base": base, **cells}))
    file = tmp_path / "published" / "made.yaml"
    content = yaml.safe_load(file.read_text())
    table = content["tables"]["t1"]
    del table["parts"]
    rows = [{"name": "Barlow Twins", "published": {"knn": 40.0}, "cell": "barlow_twins-vit_nano"}]
    content["tables"]["t1"] = {**table, "grid": str(grid), "rows": rows}
    file.write_text(yaml.safe_dump(content))

    def in_this_process(words, log):
        return "" if run.main(words) == 0 else "stopped"

    monkeypatch.setattr("commands.reproduce._run", in_this_process)
    from training.batches import Batches

    stream, seen = Batches.stream, []

    def counted(self, start, end):
        for batch in stream(self, start, end):
            seen.append(start)
            if len(seen) == 5:  # an epoch has two steps
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Batches, "stream", counted)
    out = tmp_path / "out"
    words = ["reproduce", "made/t1", "--data_root", str(published), "--out", str(out)]
    assert run.main(words) == 1
    assert "not run: Barlow Twins: stopped" in capsys.readouterr().out
    assert run.main(words) == 0
    assert seen[5] > 0  # from a checkpoint, not from the first step
    lines = (out / "made/t1/published-and-measured.csv").read_text().splitlines()
    assert lines[1].startswith('Barlow Twins,"k-NN, %",40,')


def test_missing_data_is_one_sentence_for_each_row_and_starts_nothing(published, tmp_path, capsys):
    out = tmp_path / "out"
    assert run.main(["reproduce", "made/t1", "--out", str(out), "--rows", "untrained"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("not run: untrained: the data set imagefolder needs its folder: --data_root DIR\n") == 1
    assert not (out / "made/t1/runs").exists()
    assert run.main(["reproduce", "made/t1", "--out", str(out), "--data_root", str(tmp_path / "none")]) == 1
    assert "no such folder (--data_root of imagefolder)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "which table?"),
        (["dino/tabel2"], "did you mean dino/table2?"),
        (["dino/table2", "--rows", "DINO ViTS"], "did you mean DINO ViT-S?"),
        (["dino/table2", "--rows", "BYOL ViT-S"], "cannot be run: its weights are not among"),
        (["dino/table3", "--data_root", "roxford5=DIR"], "did you mean roxford5k?"),
        (["dino/table2", "--data_root", "A", "B"], "a folder was given for it before"),
        (["dino/table2", "--knn_kz", "5"], "DINO ViT-S: unknown option '--knn_kz'; did you mean --knn_ks?"),
        (["small/lightly_cifar10", "--epocs", "3"], "unknown option '--epocs'; did you mean --epochs?"),
    ],
)
def test_what_is_wrong_is_named(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_option_goes_to_the_rows_whose_command_has_it(tmp_path, capsys):
    words = ["reproduce", "small/lightly_imagenette", "--data_root", str(tmp_path), "--dry_run"]
    assert run.main([*words, "--epochs", "4", "--local_crops", "2"]) == 0
    printed = capsys.readouterr().out
    trainings = {line.split("--method ")[1].split()[0]: line for line in printed.splitlines() if "--method" in line}
    assert list(trainings) == ["barlow_twins", "dino", "weak_dino"]
    assert all(" --epochs 4 " in line for line in trainings.values())
    assert [" --local_crops 2 " in line for line in trainings.values()] == [False, True, True]
    left_out = (
        "Barlow_Twins-barlow_twins-resnet18-e800-seed0: left out, for its command has no such option: --local_crops"
    )
    assert left_out in printed and printed.count("left out") == 2  # after 800 and 200 epochs

    # The parts of one row, too.
    roots = [f"{name}={tmp_path}" for name in ("places205", "inat18", "voc2007")]
    words = ["reproduce", "barlow_twins/table3", "--dry_run", "--data_root", *roots]
    assert run.main([*words, "--linear_authors_epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("--linear_authors_epochs 1 ") == 2
    assert "Barlow_Twins-voc07-seed0: left out, for its command has no such option: --linear_authors_epochs" in printed


def test_what_was_left_out_is_not_a_change(published, tmp_path, monkeypatch):
    monkeypatch.setattr("commands.reproduce._run", lambda words, log: "")
    file = tmp_path / "published" / "made.yaml"
    content = yaml.safe_load(file.read_text())
    table = content["tables"]["t1"]
    table["parts"]["again"] = {**table["parts"]["colours"], "evals": ["retrieval"]}
    del table["parts"]["again"]["knn_ks"]
    table["columns"]["again"] = {"title": "R", "evaluation": "retrieval", "metric": "map_at_r", "part": "again"}
    table["columns"]["knn"]["part"] = "colours"
    table["rows"] = table["rows"][:1]
    file.write_text(yaml.safe_dump(content))
    words = ["reproduce", "made/t1", "--data_root", f"colours={published}", f"again={published}"]
    assert run.main([*words, "--out", str(tmp_path / "out"), "--device", "cpu", "--knn_temperature", "0.5"]) == 0
    runs = tmp_path / "out/made/t1/runs"
    changed = {path.parent.name: json.loads(path.read_text())["changed"] for path in runs.glob("*/reproduces.json")}
    assert changed == {"untrained-colours-seed0": {"knn_temperature": 0.5}, "untrained-again-seed0": {}}


def test_a_row_that_has_not_begun_takes_other_options(tmp_path):
    table = TABLES["dino/table5"]
    task = tasks_of(table, None, None, {})[0]
    for further in ({"davis_topk": 3}, {"davis_topk": 7}):  # the first of them found no weights, say
        _mark(tmp_path, table, task, further)
        assert json.loads((tmp_path / "reproduces.json").read_text())["changed"] == further
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=r"was run with --davis_topk 7; give the same, or another --out"):
        _mark(tmp_path, table, task, {})


def test_each_data_set_of_a_table_has_its_folder(tmp_path, capsys):
    words = ["reproduce", "barlow_twins/table3", "--dry_run", "--data_root", str(tmp_path), f"inat18={tmp_path}"]
    assert run.main(words) == 1
    printed = capsys.readouterr().out
    assert printed.count("python run.py evaluate --data") == 2
    assert (
        "not run: Barlow Twins (places205): the data set places205 needs its folder: --data_root places205=DIR"
        in printed
    )


def test_the_list_names_every_table_and_imports_no_torch():
    code = "import sys, run; run.main(['reproduce', '--list']); assert not {'torch', 'matplotlib'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in TABLES:
        assert name in result.stdout


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.grid])
def test_trainings_beside_published_numbers_hold_no_images_out(name):
    cells = _grid_cells(TABLES[name], None)
    assert cells and all(cell.options["knn_every"] == 0 for cell in cells)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_is_a_valid_command_in_a_directory_of_its_own(name, monkeypatch):
    table = TABLES[name]
    tasks = tasks_of(table, None, None, {})
    runnable = {row.name for row in table.rows if not row.not_run}
    assert {task.row for task in tasks} == runnable
    assert max(Counter(task.name for task in tasks).values()) == 1
    for column in table.columns.values():
        evaluation = "segmentation" if column.evaluation.startswith("segmentation") else column.evaluation
        assert not evaluation or evaluation in EVALUATIONS.names()
        measuring = [task for task in tasks if task.part == column.part]
        assert not evaluation or all(evaluation in task.options["evals"] for task in measuring)
    monkeypatch.setattr("commands.evaluate.evaluate_weights", lambda *a: [])
    monkeypatch.setattr("commands.train.train", lambda *a, **k: None)
    from common.cli import words_of

    # One of each kind of command is parsed whole.
    for task in {(task.part, task.options.get("method")): task for task in tasks}.values():
        assert run.main([task.command, *words_of(task.options)]) == 0
