"""Facts of plug-ins that are not here: the report shows them as their runs have kept them."""

import json

import yaml

from reports.analysis.comparison import compare
from reports.analysis.rows import rows_of
from rundir.read import read_runs
from tests.reports.factory import write_run


def _rewritten(run, evaluation, change):
    file = run / "results" / f"{evaluation}.json"
    file.write_text(json.dumps([{**entry, **change} for entry in json.loads(file.read_text())]))


def test_evaluation_from_elsewhere(tmp_path):
    run = write_run(tmp_path / "a", images=40)
    facts = {"evaluation": "Their own", "metric": "score", "lower_is_better": True, "headline": True, "unit": "s"}
    _rewritten(run, "linear", {"evaluation": "theirs", "facts": facts})
    (comparison,) = compare(rows_of(read_runs([run])[0]))
    theirs = [column for column in comparison.columns if column.evaluation == "theirs"]
    assert {(column.name, column.sign) for column in theirs} == {("Their own score", -1)}
    assert theirs[0].facts["grouped_by"] == "images"


def test_damaged_facts_are_those_of_the_file(tmp_path):
    run = write_run(tmp_path / "a", images=40)
    _rewritten(run, "knn", {"facts": {"evaluation": ["k"], "variants": None, "headline": "yes", "other": 1}})
    _rewritten(run, "linear", {"facts": None})
    (comparison,) = compare(rows_of(read_runs([run])[0]))
    assert [comparison.columns[c].name for c in comparison.headline] == ["k-NN top-1 (k 20)", "Linear top-1"]


def test_method_from_elsewhere(tmp_path):
    run = write_run(tmp_path / "a", images=40)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"method": "theirs"}))
    (row,) = rows_of(read_runs([run])[0])
    assert (row.method_name, row.trained) == ("theirs", True)

    environment = json.loads((run / "environment.json").read_text())
    environment["method"] = {"title": "Their own", "trains": False, "reference": "their noise", "needs_backbone": 0}
    (run / "environment.json").write_text(json.dumps(environment))
    (row,) = rows_of(read_runs([run])[0])
    assert (row.method_name, row.trained, row.facts["needs_backbone"]) == ("Their own", False, True)
    assert row.facts["reference"] == "their noise"
