"""Each method is what its reference's code does: learning rates, decay and adaptation of each tensor, heads, initial weights. The
expected values are written from that code, and what differs from it is said in the method's docstring."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from backbones import build_backbone
from methods.core.base import METHODS, Progress
from training.config import TrainConfig
from training.optimizers import build_optimizer, set_rates
from training.resolve import resolve
from training.step import Stepper

TRAINED = [name for name in METHODS.names() if METHODS.get(name).trains]
STEPS = 11  # of an epoch


@pytest.mark.parametrize("name", TRAINED)
def test_what_differs_from_the_reference_is_said(name):
    """Each method states it for itself, for reports and docs/methods.md as a fact, and in its docstring."""
    method = METHODS.get(name)
    assert "differs" in vars(method), f"{name}: give it `differs`, () if it equals its reference"
    assert "Differs from the reference in: " in method.__doc__
    assert all(what in method.__doc__ and what[-1] != "." and ";" not in what for what in method.differs)
    assert METHODS.facts(name)["differs"] == method.differs  # read without an import
    assert method.__doc__.count("Differs from the reference") == 1


def halving(part):
    """Half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * part))


def warmed_up(peak, end, epoch, epochs, warmup):
    """A rate as Barlow Twins', VICReg's, SimCLR's, BYOL's and MoCo v3's code has it: 0 at step 0, the peak after the warm-up."""
    if epoch < warmup:
        return peak * epoch / warmup
    return end + (peak - end) * halving((epoch - warmup) / (epochs - warmup))


def linspaced(peak, end, epoch, epochs, warmup):
    """A rate as DINO's and SwAV's code has it: the peak at the last step of the warm-up, and again at the next."""
    if epoch < warmup:
        return float(np.linspace(0, peak, round(warmup * STEPS))[round(epoch * STEPS)])
    return end + (peak - end) * halving((epoch - warmup) / (epochs - warmup))


#: Name: published epochs, and the rate as a function of batch, epoch and epochs.
RATES = {
    "dino": (100, lambda b, e, n: linspaced(5e-4 * b / 256, 1e-6, e, n, min(10, n / 10))),
    "weak_dino": (100, lambda b, e, n: linspaced(5e-4 * b / 256, 1e-6, e, n, min(10, n / 10))),
    "supervised": (100, lambda b, e, n: linspaced(5e-4 * b / 512, 1e-5, e, n, min(10, n / 10))),
    # 4.8 and 0.0048 for 4096 images; 0.0006 of 0.6 for 256 is the same part.
    "swav": (800, lambda b, e, n: linspaced(4.8 * b / 4096, 4.8 * b / 4096 / 1000, e, n, min(10, n / 10))),
    "barlow_twins": (1000, lambda b, e, n: warmed_up(0.2 * b / 256, 0.2 * b / 256 / 1000, e, n, min(10, n / 10))),
    "vicreg": (1000, lambda b, e, n: warmed_up(0.2 * b / 256, 0.2 * b / 256 / 1000, e, n, min(10, n / 10))),
    "simclr": (1000, lambda b, e, n: warmed_up(0.3 * b / 256, 0, e, n, min(10, n / 10))),
    "supcon": (700, lambda b, e, n: warmed_up(0.3 * b / 256, 0, e, n, min(10, n / 10))),
    "byol": (1000, lambda b, e, n: warmed_up(0.2 * b / 256, 0, e, n, min(10, n / 10))),
    "mocov2": (200, lambda b, e, n: 0.03 * b / 256 * halving(e / n)),
    "mocov3": (300, lambda b, e, n: warmed_up(1.5e-4 * b / 256, 0, e, n, 40 * min(1, n / 300))),
}


@pytest.mark.parametrize("batch", [64, 256, 4096])
@pytest.mark.parametrize("name", TRAINED)
def test_learning_rates(name, batch):
    published, formula = RATES[name]
    method = METHODS.get(name)
    asked = {"method": name, "device": "cpu", **method.recipe, "batch_size": batch}
    assert asked.get("epochs", TrainConfig.epochs) == published
    for epochs in (published, 2 * published, 30):
        config = resolve(TrainConfig(**{**asked, "epochs": epochs}))
        stepper = SimpleNamespace(config=config, method=method)
        rates = []
        for step in {0, 1, 3 * STEPS - 1, 10 * STEPS - 1, 10 * STEPS, 13 * STEPS, epochs * STEPS - 1}:
            rate, _ = Stepper.rates(stepper, Progress(step, STEPS, epochs))
            assert rate == pytest.approx(formula(batch, step / STEPS, epochs), rel=1e-9, abs=1e-15), (epochs, step)
            rates.append(rate)
        assert rates[0] <= max(rates)


def stepped(method, start, optimizer, gradient, decay):
    """How far each tensor moves in a first step from the state ``start``, with such gradients."""
    method.load_state_dict(start)
    engine = build_optimizer(optimizer, method.parameter_groups(), 0.9)
    set_rates(engine, 0.1, decay)
    generator = torch.Generator().manual_seed(0)
    for p in method.parameters():
        if p.requires_grad:
            p.grad = gradient * torch.randn(p.shape, generator=generator)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    engine.step()
    return {name: (p - before[name]).norm().item() for name, p in method.named_parameters() if p.requires_grad}


#: Which tensors have weight decay, and whose step does not depend on the gradient's length: "weights" (two dimensions or more) or
#: "all". Adam's steps never depend on it, SGD's always do.
TENSORS = {
    "dino": ("weights", None),
    "weak_dino": ("weights", None),
    "supervised": ("weights", None),
    "barlow_twins": ("weights", "weights"),
    "vicreg": ("weights", "weights"),
    "simclr": ("weights", "weights"),
    "supcon": ("weights", "weights"),
    "byol": ("weights", "weights"),
    "mocov2": ("all", None),
    "mocov3": ("all", None),
    "swav": ("all", "all"),
}


@pytest.mark.parametrize("name", TRAINED)
def test_decay_and_adaptation(make_method, name):
    method = make_method(name, "resnet18_cifar")
    with torch.no_grad():
        for p in method.parameters():  # no zeros, to which nothing adapts
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) + 0.01)
    start = {key: value.clone() for key, value in method.state_dict().items()}
    optimizer = METHODS.get(name).recipe.get("optimizer", "adamw")
    shapes = {n: p.ndim for n, p in method.named_parameters() if p.requires_grad}
    weights = {n for n, ndim in shapes.items() if ndim > 1 and not n.endswith(".bias")}
    assert weights and weights < shapes.keys()
    decayed, adapted = ({"weights": weights, "all": shapes.keys(), None: None}[kind] for kind in TENSORS[name])
    plain, decaying = (stepped(method, start, optimizer, 1.0, decay) for decay in (0.0, 0.5))
    assert {n for n in plain if plain[n] != decaying[n]} == decayed
    if adapted is not None:
        longer = stepped(method, start, optimizer, 1000.0, 0.0)
        assert {n for n in plain if abs(longer[n] / plain[n] - 1) < 1e-3} == adapted
        others = {n for n in plain if abs(longer[n] / plain[n] - 1000) < 1}
        assert others == plain.keys() - adapted


def layers_of(head):
    """A head in words: ``linear+`` with a bias, ``norm`` with scale and shift, ``norm*`` with a scale, ``norm0`` with neither."""
    words = []
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            words.append("linear+" if layer.bias is not None else "linear")
        elif isinstance(layer, nn.BatchNorm1d):
            shift = layer.bias is not None and layer.bias.requires_grad
            words.append("norm" if shift else "norm*" if layer.weight is not None else "norm0")
        elif isinstance(layer, nn.ReLU | nn.GELU):
            words.append(type(layer).__name__.lower())
    return " ".join(words)


#: Of each method's heads, on a ResNet and on a ViT. A bias in front of a norm has no effect, so it counts as none.
HEADS = {
    "dino": {"student.head.mlp": "linear+ gelu linear+ gelu linear+"},
    "weak_dino": {"student.head.mlp": "linear+ gelu linear+ gelu linear+"},
    "supervised": {"classifier": "linear+"},
    "barlow_twins": {"projector": "linear norm relu linear norm relu linear", "bn": "norm0"},
    "vicreg": {"projector": "linear norm relu linear norm relu linear"},
    "simclr": {"projector": "linear norm relu linear norm*"},
    "supcon": {"projector": "linear+ relu linear+"},
    "byol": {"projector": "linear norm relu linear", "predictor": "linear norm relu linear"},
    "mocov2": {"projector": "linear+ relu linear+"},
    "mocov3": {
        "projector": "linear norm relu linear norm relu linear norm0",
        "predictor": {"tiny": "linear norm relu linear", "vit_nano": "linear norm relu linear norm0"},
    },
    "swav": {"projector": "linear+ norm relu linear+", "prototypes": "linear"},
}


@pytest.mark.parametrize("backbone", ["tiny", "vit_nano"])
@pytest.mark.parametrize("name", TRAINED)
def test_heads(make_method, name, backbone):
    method = make_method(name, backbone)
    for part, expected in HEADS[name].items():
        head = method.get_submodule(part)
        assert layers_of(head) == (expected if isinstance(expected, str) else expected[backbone]), part
        last = [layer for layer in head.modules() if isinstance(layer, nn.BatchNorm1d)]
        assert all(layer.bias is None or not layer.bias.any() for layer in last)


#: Methods whose residual branches start at zero: barlowtwins/main.py, main_vicreg.py and main_moco.py (v3) ask torchvision for it,
#: simclr's resnet.py (``init_zero``) and haiku's blocks of BYOL have it. SwAV's resnet50.py and SupContrast's do not, by default.
ZERO = {"barlow_twins", "vicreg", "mocov3", "simclr", "byol"}


@pytest.mark.parametrize("name", TRAINED)
def test_residual_branches_that_start_at_zero(name):
    """(What a timm model makes of it: tests/backbones.)"""
    hints = []

    def make_backbone(**given):
        hints.append(given)
        return build_backbone("resnet18_cifar", 32, **given)

    cls = METHODS.get(name)
    method = cls(cls.Config(), make_backbone, 3)
    ends = [block.bn2.weight for block in method.backbone.modules() if hasattr(block, "bn2")]
    assert len(ends) == 8 and {bool(end.any()) for end in ends} == {name not in ZERO}


def test_epochs_of_frozen_prototypes(make_method):
    """SwAV's 313 steps of 4096 images and 5,005 of 256 are one epoch of ImageNet each."""
    method = make_method("swav", freeze_prototypes=None)
    assert METHODS.get("swav").Config().freeze_prototypes is None
    for steps_per_epoch in (3, 313, 5005):
        for step in (0, steps_per_epoch - 1, steps_per_epoch):
            method.prototypes.weight.grad = torch.ones_like(method.prototypes.weight)
            method.after_backward(Progress(step, steps_per_epoch, 200))
            assert (method.prototypes.weight.grad is None) == (step < steps_per_epoch)
