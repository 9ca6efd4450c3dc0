"""Write ``licences.md``: the packages that ``pyproject.toml`` names, and the licence that each says it has."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent


def declared() -> dict[str, list[str]]:
    """Names of the packages of each group: ``""`` for what is always installed, else the extra's name."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {group: [re.match(r"[\w.-]+", entry)[0] for entry in entries] for group, entries in groups.items()}


def licence_of(package: str) -> str:
    """As its metadata have it: the SPDX expression, else the classifier, else the first line of the licence."""
    about = metadata.metadata(package)
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier", []) if c.startswith("License :: ")]
    named = [c for c in classifiers if c != "OSI Approved"]
    return " and ".join(named) or (about.get("License") or "not told").splitlines()[0]


def table() -> str:
    """The page."""
    lines = [
        "# Licences",
        "",
        "The packages that `pyproject.toml` names, and the licence that each says it has. `python docs/licences.py` writes",
        "this list from what is installed, which has to be all of them. The toolkit itself is under the MIT licence.",
        "",
        "| Package | For | Licence |",
        "| --- | --- | --- |",
    ]
    for group, packages in declared().items():
        lines += [f"| {package} | {group or 'always'} | {licence_of(package)} |" for package in sorted(packages)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (HERE / "licences.md").write_text(table())
