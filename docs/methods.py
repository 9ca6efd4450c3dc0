"""Write ``methods.md``: the methods by their own facts."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402

from backbones import build_backbone  # noqa: E402
from backbones.base import Backbone  # noqa: E402
from data.views.spec import View  # noqa: E402
from methods.core.base import METHODS, Method  # noqa: E402
from methods.core.recipes import OF_METHODS, TRAINING  # noqa: E402
from training.config import TrainConfig  # noqa: E402

HEAD = """# Methods

What `--method` takes, and what each needs and where it differs from its reference. `python docs/methods.py` writes this page from
the facts in `methods/NAME.py`; `python run.py --method dino --help` lists the options of DINO, with
their published defaults.
[A page](add-a-method.md) says how to add one.

What differs is said for the defaults, and for what no option changes. For all methods: the backbones are DINO's ViTs and
torchvision's ResNets, with the initial weights that these have; BatchNorm's statistics are those of all processes together (MoCo
v2: of parts of the batch); biases in front of a BatchNorm, which have no effect, are left out; images that do not fill an epoch's
last batch are left out. `tests/methods/test_references.py` holds rates, decay, heads and initial weights against the references'.

| `--method` | Method | Citation | Labels | Crops of an image | Batch | Where it differs from its reference |
| --- | --- | --- | --- | --- | --- | --- |
"""

PARTS = """
## Batches in parts

`--accumulate 4` passes each batch through the networks in four parts, which takes less memory. The step equals
that of the whole batch to rounding, but for the paths that stochastic depth draws: losses and gradients are of all
its images, and centres, queues and teachers move once. (`tests/distributed/test_parts.py` holds it for each switch
of each method.) What is computed from all images of a forward pass sees a part of the batch, so there the step is
another: BatchNorm in the backbone, as in ResNets, and of the methods' own:

| `--method` | computed from a part |
| --- | --- |
"""

BACKBONES = """
## How backbones start and are trained

With fresh weights, the residual branches of ResNets, built-in or timm's, end in a norm whose weights are zero for:
{zero}. An untrained network of these is the chain of its shortcuts; a training tells how many branches start so.
For the other methods they start at one, as torchvision's. (timm's own default is zero; its TResNets have no choice.)

Stochastic depth (`--drop_path`) is asked for by: {depth}. ViTs and timm's networks have it, but no
ResNet, as in DINO's reference.
"""

SMALL = """
## Settings for a few thousand small images

Published settings are for a million photos on many GPUs. `--recipe small` (of a training, or of all runs of `compare`) gives every
method settings for a few thousand images of 32 to 96 pixels on a laptop; options that are given, and those of a grid's file, win
over it.

All methods: {training}; warm-up: a tenth of the epochs. Those that have the option: {of_methods}.

"""

SEARCH = """
The search: 5,000 CIFAR-10 photos, of which 500 are held out for k-NN (an interval of about ±4 points), `vit_nano` at 32 pixels, 10
epochs with 2 of warm-up, batches of 128, seed 0, AMD EPYC, two cores, 2026-11-29. Untrained: 27.0. Most differences are within
chance; where they are, the first of a line was taken. Only what a line names was compared: batch, weight decay, clipping, widths,
outputs, queue and crops are the demo's or plausible values that nobody searched. Longer runs, such as
the default's 100 epochs, were not measured.

| method | held-out k-NN top-1 |
| --- | --- |
| Supervised | lr 0.002: 49.4; 0.0005: 46.4 |
| SupCon | lr 0.002: 39.8 |
| Barlow Twins | lr 0.002, 20 epochs: 36.0; 0.0005: 32.0 |
| SimCLR | lr 0.0005: 35.2; 0.002: 33.4 |
| VICReg | lr 0.002: 34.2; 0.0005: 34.2 |
| Weak DINO | pairs and `--targets label`, momentum 0.95: 34.0; pairs alone: 28.2 |
| MoCo v2 | momentum 0.99: 33.8; 0.95: 32.8 |
| DINO | momentum 0.95: 31.8; 0.99: 28.0; 0.95 and lr 0.0005: 28.8; teacher's temperature 0.01: 34.2, 34.6 with 0.9 |
| MoCo v3 | momentum 0.99: 31.4; 0.95: 28.8 |
| BYOL | momentum 0.99: 29.2; 0.95: 26.2; 0.99 and lr 0.0005: 27.8 |
| SwAV | lr 0.002: 27.4; 0.0005: 26.6; 64 prototypes, none frozen: 17.2; batches of 32: 23.0: nothing learned within 10 epochs |

The table is from before SimCLR's, SupCon's and MoCo v3's heads, SwAV's frozen epoch and decay, MoCo v3's initial weights and MoCo
v2's parts of a batch became those of the references. Anew, with other photos (the first 500 of each class): SimCLR 32.8, SupCon
32.6 (lr 0.0005: 34.4), MoCo v3 35.6, SwAV 25.6 (`python run.py --method NAME --recipe small --backbone vit_nano --data imagefolder
--data_root DIR --image_size 32 --epochs 10 --warmup_epochs 2`, the machine and day above). SupCon is less without the
BatchNorm in its head, which its reference has not. MoCo v2 was not measured anew.

BYOL and weak DINO by pairs alone are not beyond chance above the untrained backbone after so few epochs, and SwAV has learned
nothing: look at their online k-NN before trusting a comparison with them. Weak DINO learns with `--targets label`.
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


def parts() -> str:
    """What ``--accumulate`` changes, by method."""
    lines = []
    for name in METHODS.names():
        method = METHODS.get(name)
        if method.trains:
            own = [
                statistic
                + "".join(f" (`--{option} {', '.join(map(_word, values))}`)" for option, values in asked.items())
                for statistic, asked in method.batch_statistics.items()
            ]
            lines.append(f"| `{name}` | {'; '.join(own) or 'nothing'} |\n")
    return PARTS + "".join(lines)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def backbones() -> str:
    """What each method asks of the backbones that it makes."""
    asked: dict[str, list[str]] = {"zero_init_residual": [], "drop_path_rate": []}
    for name in METHODS.names():
        hints: set[str] = set()

        def make_backbone(hints: set[str] = hints, **given: object) -> Backbone:
            hints |= {hint for hint, value in given.items() if value}
            return build_backbone("vit_pico")

        method = METHODS.get(name)
        if method.trains:
            with torch.device("meta"):
                method(method.Config(), make_backbone, 1000)
        for hint, names in asked.items():
            names += [f"`{name}`"] if hint in hints else []
    zero, depth = (", ".join(names) for names in asked.values())
    return BACKBONES.format(zero=zero, depth=depth)


def small() -> str:
    """What ``--recipe small`` sets: for all methods, and for each."""
    lines = ["| `--method` | beside the values of all methods |\n| --- | --- |\n"]
    for name in METHODS.names():
        method = METHODS.get(name)
        if method.trains:
            lines.append(f"| `{name}` | {_options(method.small)} |\n")
    return SMALL.format(training=_options(TRAINING), of_methods=_options(OF_METHODS)) + "".join(lines) + SEARCH


def _options(values: dict) -> str:
    return ", ".join(f"`{name}` {value}" for name, value in values.items() if value is not None) or "–"


def differences(method: type[Method]) -> str:
    """What differs from the reference, with options as code."""
    if not method.trains:
        return "–"
    return re.sub(r"(--\w+(?: [\w.-]+)*|vit_\w+)", r"`\1`", "; ".join(method.differs)) or "nothing that is known"


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
        lines.append(f"| {' | '.join(cells)} | {differences(method)} |\n")
    return HEAD + "".join(lines) + parts() + backbones() + small()


if __name__ == "__main__":
    (HERE / "methods.md").write_text(page())
