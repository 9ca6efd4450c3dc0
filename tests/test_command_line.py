import subprocess
import sys
from pathlib import Path

import pytest

import run as command_line
import ssl_compare
from common.errors import UsageError
from data.views.spec import View

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *words], capture_output=True, text=True, **keywords)


def test_help_lists_every_command_and_imports_no_torch():
    result = run("--help")
    assert result.returncode == 0
    for command in ("train", "evaluate", "compare", "report", "data"):
        assert f"\n  {command} " in result.stdout
    code = "import sys; import run; run.main(['--help']); assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("program", [["run.py"], ["-c", "import sys, ssl_compare; sys.exit(ssl_compare.main())"]])
def test_a_reader_that_has_seen_enough_is_no_error(program):
    process = subprocess.Popen(
        [sys.executable, *program, "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


def test_a_python_that_leaves_out_the_scripts_folder(tmp_path):
    """As -I and PYTHONSAFEPATH have it."""
    words = [sys.executable, "-I", str(ROOT / "run.py"), "status", "nothing"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and without_loading(done.stderr).startswith("error: nothing")


def test_a_grid_begins_without_the_trainer():
    """Importing it takes seconds, which its cells spend as well."""
    code = (
        "import sys, commands.compare, training.grids.grid as grid; grid.options_of_methods(['dino', 'barlow_twins']); "
    )
    code += "assert not {'timm', 'torchvision', 'training.trainer'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


TO_THE_FIRST_STEP = """
import sys
from commands.train import read_options
from eval.core import checks, online
from methods.core.base import Progress
from training import trainer
from training.costs import count, empty_batch, most_costs
from training.grids import alternative
from training.plan import build_method, make_plan
from training.step import Stepper

for optimizer in ("adamw", "sgd", "lars"):
    words = "--method barlow_twins --backbone vit_pico --projector 8-8 --image_size 32 --batch_size 4 --device cpu"
    words += " --visualize attention crops --optimizer"
    options = read_options([*words.split(), optimizer])
    plan = make_plan(options.train, options.method)
    config, method = plan.config, lambda: build_method(plan.config, plan.method_config, 2)
    assert most_costs(method, plan.views, config, None)["memory"]["activations"]
    stepper = Stepper(method(), config, plan.device)
    count(stepper.method.backbone, config.image_size)
    stepper.step([empty_batch(plan.views, 4, None)], Progress(0, 1, 100))
    stepper.optimizer.load_state_dict(stepper.optimizer.state_dict())
unneeded = {"torch._dynamo", "numba", "timm", "torchvision", "pandas", "sklearn", "matplotlib"}
assert not unneeded & set(sys.modules)
"""


def test_a_training_comes_to_its_first_step_without_what_compiles_or_plots():
    """Checks, operations and optimisers; counting all costs, with torch's compiler, comes after that step."""
    assert subprocess.run([sys.executable, "-c", TO_THE_FIRST_STEP], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian"], "did you mean train?"),
        (["--method", "dyno"], "unknown method 'dyno'; did you mean dino?"),
        (["--method", "random", "--backbone", "vit_s9"], "unknown backbone 'vit_s9'; did you mean vit_s"),
        (["--method", "random", "--data", "demmo"], "unknown data set 'demmo'; did you mean demo?"),
        (["--method", "dino", "--outdim", "3"], "unknown option '--outdim'; did you mean --out_dim?"),
        (["--method", "dino", "--epochs", "ten"], "ten"),
        (["--method", "dino", "--optimizer", "adam"], "adam"),
        (["--evals", "knnn"], "unknown evaluation 'knnn'; did you mean knn?"),
        (["--config", "none.yaml"], "none.yaml: cannot be read"),
        (["--plugin", "none.py"], "none.py: no such file"),
        (["compare"], "no methods"),
    ],
)
def test_what_is_wrong_is_named_in_one_line_with_status_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line.main(words) == 2
    said = without_loading(capsys.readouterr().err)
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        "train --method dino --data demo --image_size 64 48",
        "train --method dino --data demo --image_size=64 48 --epochs 48",
        "--method dino --data demo --image_size 64x48",
        "--method dino --data demo --local_size 64,48",
        "--config oblong.yaml",
        "compare --methods dino --backbones vit_nano --data demo --image_size 64 48 --out grid",
        "evaluate --weights x --data demo --image_size 64 48",
        "evaluate --weights x --data copydays --evals copydays --copydays_size 64 48",
        "evaluate --weights x --data demo --evals segmentation --segmentation_crop_size 64 48",
        "segment --weights x --data demo --crop_size 64 48",
        "features --weights x --images y --out z.npz --image_size 64 48",
        "export --weights x --image_size 64 48",
        "visualize attention --image_size 64 48",
        "visualize receptive_field --image_size 64 48",
    ],
)
def test_two_sides_are_told_that_images_are_squares(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "oblong.yaml").write_text("method: dino\ndata: demo\nimage_size: [64, 48]\n")
    assert command_line.main(words.split()) == 2
    said = without_loading(capsys.readouterr().err)
    assert "size 64 48: give one side in pixels; crops and evaluation images are squares" in said
    assert said.count("\n") == 1


def test_more_values_than_an_option_takes_are_said_of_it(capsys):
    assert command_line.main(["--method", "dino", "--data", "demo", "--lr", "1", "2"]) == 2
    assert "--lr 1 2: give one value" in capsys.readouterr().err


@pytest.mark.parametrize(
    "make", [lambda: View(name="v", size=(64, 48)), lambda: ssl_compare.load(backbone="vit_nano", image_size=(64, 48))]
)
def test_two_sides_are_refused_from_python_too(make):
    with pytest.raises(UsageError, match="size 64 48: give one side in pixels"):
        make()


def without_loading(said: str) -> str:
    """What is said beside that packages are being loaded, as a slow machine does."""
    return "".join(line for line in said.splitlines(True) if not line.startswith("loading "))


def test_a_process_says_what_is_wrong_as_well(tmp_path):
    result = run("--method", "dino", "--outdim", "3", cwd=tmp_path)
    said = without_loading(result.stderr)
    assert result.returncode == 2
    assert said.startswith("error: unknown option '--outdim'; did you mean --out_dim?")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["evaluate", "compare", "reproduce"])
def test_commands_of_one_process_refuse_torchrun(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command_line.main([command, "--out", "nowhere"]) == 2
    assert f"error: {command} is one process; start it without torchrun" in capsys.readouterr().err
