"""Every command line in the documentation parses: it is run up to where its work would begin."""

import re
import shlex
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Where a command's work begins; and what it returns there.
WORK = {
    "commands.train.train": None,
    "commands.evaluate.evaluate_weights": [],
    "commands.segment.segment_weights": [],
    "commands.data.describe": None,
    "commands.data.fetch": None,
    "commands.report.build_report": "report/index.html",
    "commands.compare.require_possible": [],
    "commands.compare.run_cells": [],
    "commands.features.write_features": "features.parquet",
    "commands.status.status": 0,
    "commands.compare.print_plan": None,
    "commands.visualize.visualize": [],
    "commands.reproduce.run_table": 0,
    "commands.reproduce.print_list": None,
}


def command_lines():
    found = {}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?:^|`)\s*(?:\$ )?(?:\S*python |torchrun [^`\n]*?)run\.py ([^`\n#]*)", text, re.M):
            found.setdefault(line.strip(), document.name)
    return sorted(found.items())


LINES = command_lines()


def test_there_are_commands_in_the_documents():
    assert len(LINES) > 20


@pytest.mark.parametrize(("line", "document"), LINES, ids=[line[:60] for line, _ in LINES])
def test_documented_command_parses(line, document, monkeypatch, capsys, tmp_path):
    if re.search(r"\b(COMMAND|WHAT|NAME)\b", line) or "…" in line or "--plugin" in line:
        pytest.skip("shows a form, not a command")
    for name, result in WORK.items():
        monkeypatch.setattr(name, lambda *a, result=result, **k: result)
    config = tmp_path / "config.yaml"
    config.write_text("method: dino\n")
    words = shlex.split(line)
    if "--config" in words:
        words[words.index("--config") + 1] = str(config)
    monkeypatch.chdir(ROOT)
    try:
        status = run.main(words)
    except SystemExit as stop:  # --help
        status = stop.code
    assert not status, f"{document}: {line}\n{capsys.readouterr().err}"
