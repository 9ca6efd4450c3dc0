"""Write ``methods.md``: the methods by their own facts."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from data.views.spec import View  # noqa: E402
from methods.core.base import METHODS, Method  # noqa: E402
from training.config import TrainConfig  # noqa: E402

HEAD = """# Methods

What `--method` takes, and what each needs and where it differs from its reference. `python docs/methods.py` writes this page from
the facts in `methods/NAME.py`; `python run.py --method dino --help` lists the options of DINO, with
their published defaults.
[A page](add-a-method.md) says how to add one.

| `--method` | Method | Citation | Labels | Crops of an image | Batch | Where it differs from its reference |
| --- | --- | --- | --- | --- | --- | --- |
"""


def crops(method: type[Method]) -> str:
    """The views at 224 pixels, in the order of the method: ``2 × 224, 8 × 96``."""
    sizes = [view.size for view in _views(method)]
    return ", ".join(f"{sizes.count(size)} × {size}" for size in dict.fromkeys(sizes)) or "the image itself"


def _views(method: type[Method]) -> list[View]:
    return method.views(method.Config(), 224) if method.trains else []


def labels(method: type[Method]) -> str:
    """What labels are needed for."""
    if method.label_use(vars(method.Config())):
        return "in the loss"
    return "for pairs" if method.recipe.get("pairing") == "same_label" else "none"


def page() -> str:
    """The page."""
    lines = []
    for name in METHODS.names():
        method = METHODS.get(name)
        if method.reference and not method.trains:
            batch = "no training"
        else:
            batch = str(method.recipe.get("batch_size", TrainConfig.batch_size))
        cells = (f"`{name}`", method.title, method.citation or "–", labels(method), crops(method), batch)
        lines.append(f"| {' | '.join(cells)} | {'; '.join(method.differs) or '–'} |\n")
    return HEAD + "".join(lines)


if __name__ == "__main__":
    (HERE / "methods.md").write_text(page())
