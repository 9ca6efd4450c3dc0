"""No dependency without a use, none without its licence told."""

import importlib.util
import re
from pathlib import Path

import pytest

from common.environment import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("licences", ROOT / "docs" / "licences.py")
licences = importlib.util.module_from_spec(spec)
spec.loader.exec_module(licences)

#: Modules of packages whose name is another.
MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml", "pillow": "PIL"}
#: What is used by its command or option, and where.
TOOLS = {
    "ruff": ("Makefile", "ruff check"),
    "pytest-xdist": ("Makefile", "-n auto"),
    "onnxscript": ("", ""),  # torch's exporter imports it
    "pyarrow": ("", ""),  # datasets reads parquet files by it
}
SOURCES = [
    file.read_text(encoding="utf-8")
    for folder in (
        "backbones",
        "benchmarks",
        "common",
        "data",
        "eval",
        "heads",
        "methods",
        "reports",
        "tests",
        "training",
    )
    for file in (ROOT / folder).rglob("*.py")
] + [(ROOT / "run.py").read_text(encoding="utf-8")]
DECLARED = [package for packages in licences.declared().values() for package in packages]


@pytest.mark.parametrize("package", DECLARED)
def test_every_dependency_is_used(package):
    if package in TOOLS:
        file, word = TOOLS[package]
        assert not file or word in (ROOT / file).read_text()
        return
    module = re.escape(MODULES.get(package, package.replace("-", "_")))
    imported = re.compile(rf"^\s*(?:import|from)\s+{module}\b|(?:importorskip|import_module)\(\s*[\"']{module}\b", re.M)
    assert any(imported.search(source) for source in SOURCES), (
        f"nothing imports {package}: take it out of pyproject.toml"
    )


@pytest.mark.parametrize("package", DECLARED)
def test_every_licence_is_listed(package):
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(package)} \| [\w ]+ \| (.+) \|$", page, re.M)
    assert found and found[1] != "not told", f"docs/licences.md lacks {package}; run: python docs/licences.py"


def test_every_declared_package_has_a_lowest_version():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in DECLARED:
        assert re.search(rf'"{re.escape(package)}>=[\d.]+"', text), package


def test_the_command_line_looks_for_every_package_that_is_always_installed():
    always = licences.declared()[""]
    assert sorted(PACKAGES) == sorted(MODULES.get(package, package.replace("-", "_")) for package in always)
