from pathlib import Path

import pytest
import torch
from rich.console import Console

import run as command_line
from commands.compare import to_evaluate_again
from commands.train import read_options
from common.cli import read_config, words_of
from common.errors import UsageError
from common.files import write_json
from common.options import options_of_training
from rundir.options import write_options
from rundir.paths import last_checkpoint
from training.config import TrainConfig
from training.grids.grid import (
    Cell,
    Grid,
    cells_of,
    fix_backbones,
    grid_of,
    options_of_methods,
    read_grid,
    without_repeats,
)
from training.grids.launchers.cells import run_cells
from training.grids.options import CompareCommand
from training.resolve import options_of, other_options, resolve

KNOWN = {
    "dino": {"method", "backbone", "seed", "epochs", "lr", "out_dim", "teacher_temp"},
    "barlow_twins": {"method", "backbone", "seed", "epochs", "lr", "lambd"},
}


def grid(**changes) -> Grid:
    return Grid(
        **{"methods": {"dino": {}, "barlow_twins": {}}, "backbones": {"vit_nano": {}, "resnet18": {}}, **changes}
    )


def test_a_cell_for_every_combination():
    cells = cells_of(grid(seeds=[0, 1, 2]), KNOWN)
    assert len(cells) == 12
    assert cells[0].name == "dino-vit_nano-seed0"
    assert {(c.options["method"], c.options["backbone"], c.options["seed"]) for c in cells} == {
        (m, b, s) for m in ("dino", "barlow_twins") for b in ("vit_nano", "resnet18") for s in range(3)
    }


def test_options_reach_the_methods_that_have_them():
    cells = cells_of(
        grid(base={"epochs": 3, "out_dim": 64}, backbones={"vit_nano": {}}, vary={"lambd": [0.1, 0.2]}), KNOWN
    )
    assert [c.name for c in cells] == [
        "dino-vit_nano-seed0",
        "barlow_twins-vit_nano-lambd=0.1-seed0",
        "barlow_twins-vit_nano-lambd=0.2-seed0",
    ]
    assert cells[0].options["out_dim"] == 64
    assert "out_dim" not in cells[1].options
    assert cells[2].options["lambd"] == 0.2
    assert all(c.options["epochs"] == 3 for c in cells)


def test_varies_as_a_product_or_one_at_a_time():
    changes = {"methods": {"dino": {"lr": 1.0}}, "backbones": {"vit_nano": {}}}
    vary = {"dino.out_dim": [64, 128], "lr": [0.1, 0.2, 0.3]}
    assert len(cells_of(grid(**changes, vary=vary), KNOWN)) == 6
    single = cells_of(grid(**changes, vary=vary, vary_mode="one_at_a_time"), KNOWN)
    assert len(single) == 1 + 2 + 3
    assert [c.options["lr"] for c in single] == [1.0, 1.0, 1.0, 0.1, 0.2, 0.3]


def test_the_command_line_overrides_the_file(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text(
        "title: A\nmethods: {dino: {lr: 0.1}, barlow_twins: null}\nbackbones: [vit_nano]\nvary: {out_dim: [1, 2]}\n"
    )
    command = CompareCommand(grid=str(file), methods=["dino"], seeds=[4], vary=[["out_dim=64,128"]], evals=["knn"])
    result = grid_of(command, {"epochs": 2})
    assert result.methods == {"dino": {"lr": 0.1}}
    assert (result.title, result.seeds, result.vary, result.base) == ("A", [4], {"out_dim": [64, 128]}, {"epochs": 2})
    assert [c.options["evals"] for c in cells_of(result, KNOWN)] == [["knn"], ["knn"]]


def test_the_command_line_goes_over_what_a_row_has_of_its_own(tmp_path):
    file = tmp_path / "grid.yaml"
    own = "methods: {dino: {lr: 0.1, out_dim: 8}}\nbackbones: {vit_nano: {lr: 0.2}}\nvariants: {a: {lr: 0.3}}\n"
    file.write_text(own + "vary: {epochs: [1, 2]}\n")
    cells = cells_of(grid_of(CompareCommand(grid=str(file)), {"lr": 0.5}), KNOWN)
    assert [(c.options["lr"], c.options["out_dim"], c.options["epochs"]) for c in cells] == [(0.5, 8, 1), (0.5, 8, 2)]
    with pytest.raises(UsageError, match=r"--epochs: the grid varies it; give --vary epochs=VALUE"):
        grid_of(CompareCommand(grid=str(file)), {"epochs": 5})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"base": {"epoch": 3}}, "did you mean epochs"),
        ({"methods": {"dino": {"lambd": 1}}}, "unknown option of dino 'lambd'"),
        ({"vary": {"dino.out_dims": [1]}}, "did you mean out_dim"),
        ({"vary": {"dyno.out_dim": [1]}}, "did you mean dino"),
        ({"vary": {"out_dim": [1, 1]}}, "two cells"),
        ({"vary_mode": "some"}, "vary_mode"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(UsageError, match=message):
        cells_of(grid(**changes), {m: k for m, k in KNOWN.items() if m in changes.get("methods", KNOWN)})


@pytest.mark.parametrize(
    "text, message",
    [
        ("- a", "no mapping"),
        ("methds: [dino]", "did you mean methods"),
        ("seeds: 3", "must be a list"),
        ("seeds: []", "'seeds' is empty"),
        ("vary: {lr: 3}", "list its values"),
        ("a: [", "not YAML"),
        ("methods: [dino]", "no backbones"),
    ],
)
def test_bad_grid_files_are_named(tmp_path, text, message):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        grid_of(CompareCommand(grid=str(file)), {})
    with pytest.raises(UsageError, match="cannot be read"):
        grid_of(CompareCommand(grid=str(tmp_path / "none.yaml")), {})


def test_variants_are_rows_of_several_options():
    changes = {"methods": {"dino": {}}, "backbones": {"vit_nano": {}}}
    cells = cells_of(grid(**changes, variants={"a": {"lr": 1, "out_dim": 2}, "b": {"lr": 3}}), KNOWN)
    assert [c.name for c in cells] == ["dino-vit_nano-a-seed0", "dino-vit_nano-b-seed0"]
    assert (cells[0].options["lr"], cells[0].options["out_dim"], cells[1].options["lr"]) == (1, 2, 3)
    with pytest.raises(UsageError, match="in the variant 'a'"):
        cells_of(grid(variants={"a": {"out_dim": 2}}), KNOWN)


def test_no_variants_are_a_plain_cell(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("methods: [dino]\nbackbones: [vit_nano]\nvariants: {}\n")
    cells = cells_of(grid_of(CompareCommand(grid=str(file)), {}), KNOWN)
    assert [cell.name for cell in cells] == ["dino-vit_nano-seed0"]


def test_variants_of_one_method_are_rows_of_that_method_alone():
    variants = {"barlow_twins.plain": {}, "barlow_twins.few": {"lr": 1, "lambd": 2}, "t0.02": {"lr": 3}, "long": {}}
    cells = cells_of(grid(variants=variants, backbones={"vit_nano": {}}, vary={"dino.out_dim": [8]}), KNOWN)
    assert [cell.name for cell in cells] == [
        "dino-vit_nano-t0.02-out_dim=8-seed0",
        "dino-vit_nano-long-out_dim=8-seed0",
        "barlow_twins-vit_nano-plain-seed0",
        "barlow_twins-vit_nano-few-seed0",
    ]
    assert (cells[3].options["lr"], cells[3].options["lambd"], "lr" in cells[2].options) == (1, 2, False)
    cells = cells_of(grid(variants={"barlow_twins.few": {"lr": 1}}, backbones={"vit_nano": {}}), KNOWN)
    assert [cell.name for cell in cells] == ["dino-vit_nano-seed0", "barlow_twins-vit_nano-few-seed0"]


def test_a_part_of_the_methods_has_its_own_variants_and_values_only():
    changes = {"methods": {"dino": {}}, "variants": {"barlow_twins.few": {"lambd": 1}, "dino.long": {"lr": 2}}}
    cells = cells_of(grid(**changes, vary={"barlow_twins.lambd": [1, 2]}), KNOWN)
    assert [cell.name for cell in cells] == ["dino-vit_nano-long-seed0", "dino-resnet18-long-seed0"]


@pytest.mark.parametrize(
    "variants, message",
    [
        ({"barlow_twin.few": {}}, r"unknown method of a variant METHOD.NAME 'barlow_twin'; did you mean barlow_twins"),
        ({"barlow_twins.few": {"out_dim": 1}}, "option of barlow_twins in the variant 'few'"),
        ({"dino.": {}}, r"'dino.' has no name after the point; give dino.NAME"),
        ({"dino.a": {}, "barlow_twins.a": {}, "b": {}}, "'b' is a variant of no method"),
        ({"a": {"lambd": 1}}, "option of dino in the variant 'a'"),
    ],
)
def test_a_variant_of_no_method_is_named(variants, message):
    with pytest.raises(UsageError, match=message):
        cells_of(grid(variants=variants), KNOWN)


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_experiment_can_be_planned(file):
    result = read_grid(file)
    assert result.title
    assert f"experiments/{file.name}" in result.description
    for word in ("Cost", "Expected"):
        assert word in result.description
    fix_backbones(result)
    cells = cells_of(result, options_of_methods(list(result.methods)))
    assert cells
    for cell in cells:
        read_options(words_of(cell.options))


def test_a_method_of_one_backbone_is_one_cell():
    result = grid(methods={"dino": {}, "pixels": {}})
    fix_backbones(result)
    names = [c.name for c in cells_of(result, options_of_methods(["dino", "pixels"]))]
    assert names == ["dino-vit_nano-seed0", "dino-resnet18-seed0", "pixels-pixels-seed0"]


def test_options_of_a_backbone_reach_methods_that_have_them():
    options = options_of_methods(["dino", "barlow_twins"])
    result = grid(methods={"dino": {}, "barlow_twins": {}}, backbones={"vit_nano": {"bias_lr_scale": 1.0}})
    assert ["bias_lr_scale" in cell.options for cell in cells_of(result, options)] == [False, True]
    with pytest.raises(UsageError, match="unknown option of this grid 'bias_rate'; did you mean bias_lr_scale"):
        cells_of(grid(methods={"dino": {}, "barlow_twins": {}}, backbones={"vit_nano": {"bias_rate": 1.0}}), options)


def names_without_repeats(methods, **changes):
    """Names of the cells that stay, and what is said of the others."""
    of_methods = grid(**{"methods": {name: {} for name in methods}, "backbones": {"vit_nano": {}}, **changes})
    fix_backbones(of_methods)
    cells, left_out = without_repeats(cells_of(of_methods, options_of_methods(methods)))
    return [cell.name for cell in cells], left_out


def test_options_of_training_do_not_multiply_what_is_not_trained():
    changes = {"vary": {"lr": [0.1, 0.2], "batch_size": [8, 16]}, "seeds": [0, 1]}
    names, left_out = names_without_repeats(["dino", "random", "pixels"], **changes)
    assert len([name for name in names if name.startswith("dino")]) == 8
    # Under the first one's names, by which a grid that has begun finds them.
    assert names[8:] == [
        f"{method}-lr=0.1-batch_size=8-seed{seed}" for method in ("random-vit_nano", "pixels-pixels") for seed in (0, 1)
    ]
    assert left_out == (
        "left out: 12 runs of random, pixels that differ from others only in batch_size, lr: nothing is trained there"
    )


def test_options_that_reach_untrained_weights_or_their_evaluation_multiply_them():
    changes = {
        "vary": {"image_size": [32, 48], "precision": ["fp32", "bf16"]},
        "backbones": {"vit_nano": {}, "vit_t16": {}},
    }
    names, left_out = names_without_repeats(["random"], **changes)
    assert (len(names), left_out) == (8, "")


def test_one_value_at_a_time_leaves_the_untrained_cell_of_the_grid_itself():
    names, left_out = names_without_repeats(
        ["random"], vary={"lr": [0.1], "image_size": [48]}, vary_mode="one_at_a_time"
    )
    assert names == ["random-vit_nano-seed0", "random-vit_nano-image_size=48-seed0"]
    assert left_out == "left out: 1 run of random that differs from others only in lr: nothing is trained there"


def test_variants_of_training_are_one_untrained_cell():
    names, _ = names_without_repeats(["random"], variants={"a": {"lr": 1}, "b": {}, "c": {"image_size": 48}})
    assert names == ["random-vit_nano-a-seed0", "random-vit_nano-c-seed0"]


def test_options_of_training_are_options():
    of_training = options_of_training(TrainConfig)
    assert {"epochs", "budget", "lr", "pairing", "label_fraction", "strategy", "log_every"} <= of_training
    assert not of_training & {"data", "image_size", "seed", "device", "knn_every", "evals"}


def test_a_plan_says_what_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    words = ["compare", "--methods", "random", "--backbones", "vit_nano", "--vary", "lr=0.1,0.2", "--dry_run"]
    words += ["--out", str(tmp_path)]
    assert command_line.main(words) == 0
    said = capsys.readouterr().out
    assert "left out: 1 run of random that differs from others only in lr" in said
    assert "1 runs in" in said and "random-vit_nano-lr=0.1-seed0" in said
    assert command_line.main([*words, "--vary", "batch_size=8,few"]) == 2  # of what is left out, too
    assert "batch_size=few" in capsys.readouterr().err


def test_methods_on_request_run_only_where_they_are_named():
    file = "experiments/demo.yaml"
    usual = grid_of(CompareCommand(grid=file), {})
    assert "simclr" not in usual.methods
    named = grid_of(CompareCommand(grid=file, methods=["simclr", "dino"]), {})
    cells = cells_of(named, options_of_methods([*named.methods, *named.file_methods]))
    assert [cell.options["method"] for cell in cells] == ["simclr", "dino"]
    assert cells[0].options["temperature"] == 0.2 and "temperature" not in cells[1].options


def test_every_method_of_the_demo_can_be_planned():
    grid = grid_of(CompareCommand(grid="experiments/demo.yaml"), {})
    everything = grid_of(CompareCommand(grid="experiments/demo.yaml", methods=grid.file_methods), {})
    fix_backbones(everything)
    assert len(cells_of(everything, options_of_methods(grid.file_methods))) == len(grid.file_methods) == 13


def test_options_of_evaluations_that_are_left_out_are_left_out():
    grid = grid_of(CompareCommand(grid="experiments/demo.yaml", evals=["knn"]), {})
    (cell, *_) = cells_of(grid, options_of_methods(grid.file_methods))
    assert cell.options["evals"] == ["knn"] and not any(name.startswith("segmentation") for name in cell.options)


@pytest.fixture
def finished(tmp_path):
    """A cell, and its directory as a training that has ended leaves it."""
    cell = Cell("random-vit_nano-seed0", {"method": "random", "backbone": "vit_nano", "seed": 0, "evals": ["knn"]})
    run = tmp_path / "runs" / cell.name
    asked = read_options(words_of(cell.options))
    write_options(run, options_of(resolve(asked.train), asked.method, asked.evaluations))
    (run / "log.jsonl").write_text('{"kind": "end", "step": 0}\n')
    write_json(run / "results" / "knn.json", [])
    last_checkpoint(run).parent.mkdir()
    torch.save({}, last_checkpoint(run))
    return cell, run


def test_a_finished_run_is_known_on_another_machine(finished, tmp_path):
    cell, run = finished
    config = read_config(run / "config.yaml")
    write_options(run, {**config, "precision": "fp16", "device": "cuda"})
    asked = {cell.name: read_options(words_of(cell.options))}
    assert to_evaluate_again(asked, tmp_path) == set()
    write_options(run, {**config, "data_root": "elsewhere"})  # other images may lie here
    assert to_evaluate_again(asked, tmp_path) == {cell.name}


def test_a_run_with_other_options_is_not_taken_for_what_is_asked_for(finished, tmp_path, capsys):
    words = ["compare", "--methods", "random", "--backbones", "vit_nano", "--evals", "knn", "--out", str(tmp_path)]
    assert command_line.main([*words, "--image_size", "48"]) == 1
    assert "holds a run with other options (image_size was 32, now 48)" in capsys.readouterr().err


def test_a_wrong_budget_is_named_before_anything_runs(tmp_path, capsys):
    words = ["compare", "--methods", "random", "--backbones", "vit_nano", "--out", str(tmp_path), "--budget", "hours=1"]
    assert command_line.main(words) == 2
    assert "--budget hours=1: give one of epochs=NUMBER" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "message"), [("abc", "invalid float value: 'abc'"), (-1, "--lambd -1.0: give 0 or more")]
)
def test_a_wrong_value_is_named_with_its_cell_before_anything_runs(value, message, tmp_path, capsys):
    rows = f"methods: {{random: {{}}, barlow_twins: {{lambd: {value}}}}}\nbackbones: [vit_nano]\n"
    (tmp_path / "grid.yaml").write_text(rows)
    words = ["compare", "--grid", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out")]
    assert command_line.main(words) == 2
    error = capsys.readouterr().err
    assert "barlow_twins-vit_nano-seed0: " in error and message in error
    assert not (tmp_path / "out").exists()


def test_of_a_budget_the_budget_is_compared(finished, tmp_path):
    _, run = finished
    write_options(run, {**read_config(run / "config.yaml"), "budget": "images=70", "epochs": 2.0, "warmup_epochs": 0.2})
    asked = read_options(["--method", "random", "--backbone", "vit_nano", "--budget", "images=70"])
    assert other_options(run, asked.train, asked.method) == ""
    asked = read_options(["--method", "random", "--backbone", "vit_nano", "--budget", "images=140"])
    assert other_options(run, asked.train, asked.method) == "budget was images=70, now images=140"


def test_a_run_that_was_evaluated_with_other_options_is_not_done(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    words = ["compare", "--methods", "random", "--backbones", "vit_nano", "--evals", "knn", "--out", str(tmp_path)]
    assert command_line.main([*words, "--dry_run"]) == 0
    assert "to run" not in capsys.readouterr().out
    assert command_line.main([*words, "--knn_ks", "7", "--dry_run"]) == 0
    assert "to run" in capsys.readouterr().out
    cell, _ = finished
    states = []
    monkeypatch.setattr("training.grids.launchers.local.launch", lambda found, *rest: states.extend(found))
    run_cells([cell], CompareCommand(out=str(tmp_path)), Console(), {cell.name})
    assert [state.status for state in states] == ["waiting"]
