"""k-NN, linear probe, bootstrap and feature extraction."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from backbones import build_backbone
from backbones.vit import ARCHITECTURES
from benchmarks.bench import Bench, operations
from benchmarks.reference import evaluation as plain
from benchmarks.timing import Limit, Measurement, Spread
from benchmarks.training import plain_vit
from common.statistics.confusion import bootstrap_scores
from eval.core.context import make_context
from eval.core.options import WeightsOptions
from eval.core.probe import Heads
from eval.features.extract import compute_features
from eval.features.votes import knn_classify
from eval.knn import KNN, KNNConfig
from training.machine.devices import autocast, synchronize

KS, TEMPERATURE = (10, 20, 100, 200), 0.07


def knn(bench: Bench, size: int) -> Iterator[list[Measurement]]:
    """Weighted k-NN in a bank: for four k, and for one alone."""
    queries, width, classes, size = bench.pick(1000, 50), 384, 1000, bench.pick(size, 2000)
    generator = torch.Generator().manual_seed(0)
    bank, wanted = (
        F.normalize(torch.randn(n, width, generator=generator), dim=1).to(bench.device) for n in (size, queries)
    )
    labels = torch.randint(classes, (size,), generator=generator).to(bench.device)
    # All k need the similarities once.
    limit = Limit("matrix product, fp32", bench.product("fp32"), 2 * size * width)
    for ks in (KS, (20,)):

        def ours(ks=ks) -> None:
            knn_classify(bank, labels, wanted, ks, TEMPERATURE, classes)
            synchronize(bench.device)

        def reference(ks=ks) -> None:
            for k in ks:
                plain.knn(bank, labels, wanted, k, TEMPERATURE, classes)
            synchronize(bench.device)

        chosen = ", ".join(map(str, ks))
        case = f"k-NN, bank {size:,} × {width}, {queries:,} queries, {classes:,} classes, k {chosen}"
        contenders = {"ours": ours, "reference": reference}
        yield bench.measure(case, contenders, queries, "queries/s", dict.fromkeys(contenders, limit))


def probe(bench: Bench, classes: int) -> Iterator[list[Measurement]]:
    """An epoch of the linear probe, for many learning rates and for few."""
    width, images = 1536, bench.pick({10: 4096, 1000: 512}[classes], 256)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, width, generator=generator).to(bench.device)
    labels = torch.randint(classes, (images,), generator=generator).to(bench.device)
    heads = {count: Heads(width, classes, [0.01] * count, bench.device) for count in (40, 5, 1)}
    probes = [plain.LinearProbe(width, classes, 0.01, bench.device) for _ in range(40)]

    def ours(count: int) -> None:
        for part, truth in zip(features.split(256), labels.split(256), strict=True):
            heads[count].step(part, truth, 1.0)
        synchronize(bench.device)

    def reference() -> None:
        for one in probes:
            one.epoch(features, labels)
        synchronize(bench.device)

    contenders: dict[str, Callable[[], None]] = {
        "ours, 40 rates": lambda: ours(40),
        "reference, 40 rates": reference,
        "the same code as ours, 5 rates": lambda: ours(5),
        "the same code as ours, 1 rate": lambda: ours(1),
    }
    # Logits and their gradient: two products.
    limits = {
        name: Limit("matrix product, fp32", bench.product("fp32"), 2 * 2 * images * width * classes * rates)
        for name, rates in zip(contenders, (40, 40, 5, 1), strict=True)
    }
    case = f"linear probe, an epoch of {images:,} × {width:,}, {classes:,} classes, batch 256"
    yield bench.measure(case, contenders, None, "s", limits)


def bootstrap(bench: Bench) -> Iterator[list[Measurement]]:
    """Mean IoU of resamples of VOC's 1,449 validation images."""
    images, resamples = bench.pick((1449, 1000), (50, 20))
    matrices = np.random.default_rng(0).integers(0, 5000, (images, 21, 21))
    contenders = {
        "ours": lambda: bootstrap_scores(matrices, resamples),
        "reference": lambda: plain.miou_of_resamples(matrices, resamples, 0),
    }
    case = f"{resamples:,} resamples of {images:,} confusion matrices, 21 classes"
    # By the clock on the wall: NumPy's threads are not torch's.
    yield bench.measure(case, contenders, None, "s", clock=time.perf_counter)


def features(bench: Bench, backbone: str) -> Iterator[list[Measurement]]:
    """Extraction of features, and what the precision changes of an accuracy."""
    size = ARCHITECTURES[backbone].get("position_size", 224)
    batch = 256 if bench.device.type == "cuda" else bench.pick(16 * (224 // size), 2)
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(bench.device)
    network = build_backbone(backbone, size).to(bench.device).eval()
    reference = plain_vit(backbone).to(bench.device).eval()

    def ours(precision: str) -> None:
        with autocast(bench.device, precision):
            compute_features(network, images, ["pooled"])
        synchronize(bench.device)

    @torch.no_grad()
    def theirs() -> None:
        reference(images)
        synchronize(bench.device)

    contenders: dict[str, Callable[[], None]] = {f"ours, {p}": lambda p=p: ours(p) for p in bench.precisions}
    contenders["reference, fp32"] = theirs
    flops = operations(theirs) / batch
    limits = {n: Limit(f"matrix product, {n[-4:]}", bench.product(n[-4:]), flops) for n in contenders}
    case = f"pooled features, {backbone}, {size} pixels, batch {batch}"
    yield bench.measure(case, contenders, batch, "images/s", limits)
    if len(bench.precisions) > 1 and backbone == "vit_s16":  # once
        yield _accuracies(bench)


def _accuracies(bench: Bench) -> list[Measurement]:
    """k-NN top-1 with features of both precisions on the built-in data, by the weights of a run or by none."""
    weights = None if bench.run is None else str(bench.run)
    trained = "an untrained vit_nano" if weights is None else f"the run {bench.run.name}"
    found = []
    for precision in bench.precisions:
        with tempfile.TemporaryDirectory(prefix="bench-features-") as folder:
            backbone = "vit_nano" if weights is None else None
            data = "demo" if weights is None else None
            context = make_context(
                WeightsOptions(
                    weights=weights,
                    backbone=backbone,
                    data=data,
                    device=str(bench.device),
                    precision=precision,
                    out=folder,
                )
            )
            top1 = next(m for m in KNN(KNNConfig(ks=[20])).run(context) if m.metric == "top1")
        case = f"k-NN top-1 (k 20) of {trained} on {top1.n} images of {context.test.name}"
        value = Spread(top1.value, top1.low, top1.high)
        found.append(Measurement(case, f"ours, {precision}", value, "% (and 95% interval)"))
    return found
