"""``bench.json`` in the report."""

import csv
import json

from reports import build_report
from tests.reports.factory import write_run

ABOUT = {
    "cpu": "Example CPU",
    "cores": 2,
    "commit": "0123456789abcdef",
    "command": ["run", "--only", "dino"],
    "quick": False,
}
OURS = {
    "benchmark": "dino",
    "case": "a step <of> DINO",
    "contender": "ours, bf16",
    "value": {"median": 1.204, "low": 1.19, "high": 1.21},
    "unit": "images/s",
    "ratios": {
        "reference fp32": {"median": 1.9, "low": 1.8, "high": 2.11},
        "reference bf16": {"median": 1.04, "low": 0.99, "high": 1.05},
    },
    "limit": "matrix product, bf16",
    "reached": 0.66,
}
OTHER = {**OURS, "contender": "reference fp32", "ratios": {}, "limit": None, "reached": None}


def report(tmp_path, *contents):
    files = []
    for number, content in enumerate(contents):
        files.append(tmp_path / f"bench{number}.json")
        files[-1].write_text(content if isinstance(content, str) else json.dumps(content))
    page = build_report([write_run(tmp_path / "run", "random", images=20), *files], tmp_path / "out")
    return page.read_text(), tmp_path / "out" / "tables"


def test_speeds_ratios_and_parts_of_the_limit_are_shown(tmp_path):
    page, tables = report(
        tmp_path, {"about": ABOUT, "measurements": [OURS, OTHER]}, {"about": {}, "measurements": [OTHER]}
    )
    assert "a step &lt;of&gt; DINO" in page and "1.2 images/s<small>[1.19, 1.21]</small>" in page
    assert "1.9<small>[1.8, 2.11]</small>" in page and "66%<small>of matrix product, bf16</small>" in page
    assert "Measured on Example CPU, 2 cores; commit 0123456789; command run --only dino." in page
    with open(tables / "speed.csv") as file:
        ours, also_ours, other = csv.DictReader(file)
    assert [ours["Beside"], also_ours["Beside"], other["Beside"]] == ["reference fp32", "reference bf16", "–"]
    assert float(ours["Times as fast"]) == 1.9 and float(also_ours["Times as fast low"]) == 0.99
    assert float(other["Speed high"]) == 1.21 and other["Times as fast"] == "" and float(ours["Of the limit"]) == 0.66
    assert len((tables / "speed-2.csv").read_text().splitlines()) == 2


def test_what_cannot_be_used_is_listed(tmp_path):
    damaged = {**OURS, "value": {"median": "fast", "low": 1, "high": 2}}
    page, tables = report(tmp_path, {"about": ABOUT, "measurements": [damaged, 3, OURS]}, "{", [1])
    assert len((tables / "speed.csv").read_text().splitlines()) == 3
    for problem in (
        "measurement 1 is damaged",
        "measurement 2 is damaged",
        "cannot be read (no JSON: ",
        "no file of figures",
    ):
        assert problem in page
    build_report([tmp_path / "run"], tmp_path / "out")
    assert not (tables / "speed.csv").exists()
