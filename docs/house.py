"""Draws the house: the rooms of this repository from the top floor down, and the imports between them, read from the code.

    python docs/house.py        writes docs/images/house.svg

``tests/test_architecture.py`` holds the rules of ``docs/design.md`` by the same reading, and sees that the picture is today's.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "house.svg"

#: The rooms from the top floor down. A file may import from its own room and from those below.
FLOORS = (
    ("ssl_compare", "run"),
    ("commands",),
    ("reports", "reports.page", "reports.figures", "reports.analysis", "reports.visual", "reports.visual.core"),
    ("eval", "eval.core", "eval.dense", "eval.features"),
    ("training.grids", "training", "training.machine"),
    ("methods", "methods.core"),
    ("heads", "heads.segmentation", "heads.segmentation.core"),
    ("backbones.formats", "backbones"),
    ("data", "data.sets", "data.views", "data.store"),
    ("rundir",),
    ("common.statistics", "common"),
)
ROOMS = tuple(room for floor in FLOORS for room in floor)


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The files of all rooms by module name; a folder's ``__init__.py`` bears the folder's."""
    found: dict[str, Path] = {}
    for floor in FLOORS:
        for name in {room.partition(".")[0] for room in floor}:
            files = (root / name).rglob("*.py") if (root / name).is_dir() else [root / f"{name}.py"]
            for file in files:
                found[".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = file
    return dict(sorted(found.items()))


def room_of(module: str) -> str:
    """The innermost room that a module lies in."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def imports(files: dict[str, Path]) -> dict[str, set[str]]:
    """Which of ``files`` each of them imports: at its top, inside functions, and for type checkers only."""
    return {module: _imported(module, file, files) for module, file in files.items()}


def _imported(module: str, file: Path, files: dict[str, Path]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = node.module or ""
            if node.level:
                above = module.split(".") + ["__init__"] * (file.name == "__init__.py")
                package = ".".join([*above[: -node.level], *package.split(".")]).strip(".")
            names.update(
                f"{package}.{alias.name}" if f"{package}.{alias.name}" in files else package for alias in node.names
            )
    return {name for name in names if name in files and name != module}


def draw(root: Path = ROOT) -> str:
    """The picture as SVG: a band a floor, a box a room with its first line and its number of files; on the right an arc for each
    pair of floors, as wide as it has imports."""
    files = modules(root)
    sizes = Counter(room_of(module) for module, file in files.items() if file.name != "__init__.py")
    pairs: Counter[tuple[int, int]] = Counter()
    for module, targets in imports(files).items():
        for target in targets:
            pairs[_floor(room_of(module)), _floor(room_of(target))] += 1
    band, width, right = 74, 760, 190
    height = band * len(FLOORS) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + right} {height}" font-family="sans-serif">',
        "<title>The rooms of the toolkit, and the imports between them</title>",
        f'<rect width="{width + right}" height="{height}" fill="white"/>',
    ]
    for number, floor in enumerate(FLOORS):
        top = 10 + band * number
        parts.append(f'<rect x="10" y="{top}" width="{width - 20}" height="{band - 10}" rx="6" fill="#eef2f6"/>')
        each = (width - 40) / len(floor)
        for place, room in enumerate(floor):
            left = 20 + each * place
            folder = root / room.replace(".", "/")
            path = folder.relative_to(root).as_posix()
            label, count = (f"{path}/", _files(sizes[room])) if folder.is_dir() else (f"{path}.py", "")
            size = min(13, (each - 20) / len(label) / 0.62)
            parts += [
                f'<rect x="{left:.0f}" y="{top + 8}" width="{each - 8:.0f}" height="{band - 26}" rx="4" '
                'fill="white" stroke="#7a8794"/>',
                f'<text x="{left + 8:.0f}" y="{top + 28}" font-size="{size:.1f}" font-weight="bold">{label}</text>',
                f'<text x="{left + 8:.0f}" y="{top + 44}" font-size="11" fill="#4a5560">{count}</text>',
            ]
    for (above, below), count in sorted(pairs.items()):
        if above != below:
            y1, y2 = (10 + band * floor + (band - 10) / 2 for floor in (above, below))
            bow = width + 24 * abs(below - above) ** 0.85
            colour = "#31688e" if above < below else "#c0392b"
            parts.append(
                f'<path d="M{width - 10} {y1:.0f} C{bow:.0f} {y1:.0f} {bow:.0f} {y2:.0f} {width - 10} {y2:.0f}" fill="none" '
                f'stroke="{colour}" stroke-opacity="0.55" stroke-width="{0.6 + count**0.5 / 2:.1f}">'
                f"<title>{count} imports</title></path>"
            )
    note = "A line on the right stands for imports from the upper floor in the lower one, wider for more. None goes up."
    parts.append(f'<text x="12" y="{height - 10}" font-size="11" fill="#4a5560">{note}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _floor(room: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if room in floor)


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(PICTURE)
