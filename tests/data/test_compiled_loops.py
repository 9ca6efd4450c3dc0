"""What is compiled for the crops of a CPU is compiled anew when a source changes, whichever file it stands in."""

import ast
import hashlib
from pathlib import Path

from data.views.cpu import crops


def test_the_cache_is_keyed_by_every_source_of_the_loops():
    root = Path(crops.__file__).parents[3]
    loops = set(Path(crops.__file__).parent.glob("*.py"))
    compiled_from = set(loops)
    for file in loops:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("data."):
                compiled_from.add(root / f"{node.module.replace('.', '/')}.py")
    called_by_python_only = {root / "data/views/tensors.py", root / "data/views.py"}
    assert compiled_from - called_by_python_only == set(crops.SOURCES)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in crops.SOURCES)).hexdigest()
    assert [cell.cell_contents for cell in crops._make.py_func.__closure__] == [digest]
