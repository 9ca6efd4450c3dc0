"""``--config`` under other methods and evaluations than the file's."""

import pytest
import yaml

from commands.train import read_options
from common.errors import UsageError


@pytest.fixture
def file(tmp_path):
    options = {
        "method": "dino",
        "lr": 0.25,
        "out_dim": 64,
        "flip": 0.125,
        "evals": ["knn", "linear"],
        "knn_ks": [5],
        "linear_epochs": 3,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(options))
    return str(path)


def test_the_command_line_goes_over_the_file(file):
    options = read_options(["--config", file, "--out_dim", "32", "--knn_ks", "7"])
    assert (options.method.out_dim, options.method.flip, options.train.lr) == (32, 0.125, 0.25)
    assert options.evaluations["knn"].ks == [7] and options.evaluations["linear"].epochs == 3


def test_options_of_another_method_and_evaluation_are_left_out_and_told(file, capsys):
    options = read_options(["--config", file, "--method", "barlow_twins", "--evals", "linear"])
    assert options.train.method == "barlow_twins" and options.method.flip == 0.125
    assert list(options.evaluations) == ["linear"] and options.evaluations["linear"].epochs == 3
    assert "another method or evaluation: knn_ks, out_dim" in capsys.readouterr().err
    assert not read_options(["--config", file, "--evals"]).evaluations


def test_what_is_typed_has_to_fit(file):
    with pytest.raises(UsageError, match="unknown option '--out_dim'"):
        read_options(["--config", file, "--method", "barlow_twins", "--out_dim", "32"])
