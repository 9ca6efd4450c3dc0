"""Synthetic run directories: the files that training and evaluation write, with made-up numbers of known truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

#: Made-up truth: k-NN accuracy, loss at the start and at the end, device-minutes.
METHODS = {
    "dino": {"accuracy": 0.74, "loss": (7.6, 2.4), "minutes": 42.0},
    "barlow_twins": {"accuracy": 0.70, "loss": (410.0, 96.0), "minutes": 18.0},
    "weak_dino": {"accuracy": 0.82, "loss": (7.6, 1.9), "minutes": 44.0},
    "supervised": {"accuracy": 0.90, "loss": (2.3, 0.1), "minutes": 12.0},
    "random": {"accuracy": 0.30, "loss": None, "minutes": 0.0},
}
BACKBONES = {"vit_s8": (21_670_272, 16.8e9), "resnet50": (23_508_032, 4.1e9), "vit_nano": (1_200_000, 0.03e9)}
NAMES_HASH = hashlib.sha256(b"images").hexdigest()[:16]


def write_run(
    directory: Path,
    method: str = "dino",
    backbone: str = "vit_s8",
    seed: int = 0,
    *,
    data: str = "demo",
    images: int = 400,
    epochs: int = 20,
    steps_per_epoch: int = 10,
    options: dict[str, Any] | None = None,
    gain: float = 0.0,
    ended: bool = True,
    segmentation: bool = False,
    matrices: bool = True,
) -> Path:
    """Write one run directory; ``gain`` is added to its accuracy. The numbers depend on the arguments only."""
    directory.mkdir(parents=True, exist_ok=True)
    truth = METHODS[method]
    key = json.dumps([method, backbone, seed, data, options], sort_keys=True)
    rng = np.random.default_rng(int(hashlib.sha256(key.encode()).hexdigest()[:8], 16))
    config = {
        "method": method,
        "backbone": backbone,
        "data": data,
        "data_root": None,
        "out": str(Path("runs") / directory.name),
        "image_size": 32,
        "epochs": epochs,
        "batch_size": 64,
        "optimizer": "lars" if method == "barlow_twins" else "adamw",
        "lr": 0.2 if method == "barlow_twins" else 0.0005,
        "pairing": "same_label" if method == "weak_dino" else "same_image",
        "label_fraction": 1.0,
        "seed": seed,
        "device": "auto",
        "precision": "fp32",
        "evals": ["knn", "linear"],
        **({"out_dim": 4096, "momentum_teacher": 0.996} if "dino" in method else {}),
        **({"lambd": 0.0051} if method == "barlow_twins" else {}),
        **(options or {}),
        "knn_ks": [10, 20],
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {
        "command": ["python", "run.py", "train", "--method", method, "--backbone", backbone, "--seed", str(seed)],
        "started": "2026-01-05T09:00:00+00:00",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "modified": False,
        "python": "3.12.1",
        "packages": {"torch": "2.11.0", "torchvision": "0.26.0", "timm": "1.0.20"},
        "platform": "Linux",
        "cpu": "Example CPU",
        "cores": 2,
        "threads": 2,
        "device": "cpu (Example CPU)",
        "precision": "fp32",
        "processes": 1,
        "cuda": None,
    }
    (directory / "environment.json").write_text(json.dumps(environment, indent=1))
    _write_log(directory, method, backbone, truth, epochs, steps_per_epoch, ended, rng)
    _write_results(directory, truth["accuracy"] + gain, images, data, segmentation, rng)
    if matrices and truth["loss"]:
        _write_matrices(directory, epochs, rng)
    return directory


def _write_log(directory, method, backbone, truth, epochs, steps_per_epoch, ended, rng) -> None:
    parameters, flops = BACKBONES[backbone]
    lines = []
    seen = 0
    if truth["loss"]:
        start, end = truth["loss"]
        total = epochs * steps_per_epoch
        for step in range(5, total + 1, 5):
            t = step / total
            seen = 64 * step
            lines.append(
                {
                    "kind": "step",
                    "step": step,
                    "epoch": (step - 1) // steps_per_epoch,
                    "images_seen": seen,
                    "loss": float(end + (start - end) * np.exp(-5 * t) * (1 + 0.03 * rng.normal())),
                    "lr": 5e-4 * (1 - t),
                    "seconds": 60 * truth["minutes"] * t,
                    "images_per_second": 64 * total / (60 * truth["minutes"]),
                }
            )
            if step % (4 * steps_per_epoch) == 0:
                top1 = 100 * (0.3 + (truth["accuracy"] - 0.3) * (1 - np.exp(-4 * t)) + 0.01 * rng.normal())
                epoch = step // steps_per_epoch
                lines.append({"kind": "knn", "step": step, "epoch": epoch, "top1": float(top1), "k": 20, "n": 160})
                signs = {
                    "effective_rank": float(20 + 60 * t + rng.normal()),
                    "feature_std": float(0.4 + 0.5 * t + 0.01 * rng.normal()),
                    "alignment": float(1 - 0.7 * t + 0.02 * rng.normal()),
                    "uniformity": float(-1 - 2 * t + 0.05 * rng.normal()),
                    "on_diagonal": float(0.2 + 0.7 * t),
                    "off_diagonal": float(0.3 - 0.25 * t),
                }
                lines.append({"kind": "diagnostics", "step": step, "epoch": epoch, **signs, "n": 256})
    if ended:
        lines.append(
            {
                "kind": "end",
                "minutes": truth["minutes"] * (1 + 0.02 * rng.normal()),
                "images_seen": seen,
                "peak_memory_gib": 3.1,
                "parameters": parameters,
                "flops": flops,
                "training_flops": 20 * flops,
                "uses_labels": method in ("supervised", "supcon"),
                "finished": "2026-01-05T10:00:00+00:00",
            }
        )
    (directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_results(directory: Path, accuracy: float, images: int, data: str, segmentation: bool, rng) -> None:
    (directory / "results").mkdir(exist_ok=True)
    (directory / "predictions").mkdir(exist_ok=True)
    # How hard an image is belongs to the image, not to the run.
    hard = np.random.default_rng(0).normal(0, 0.15, size=images)
    told = {
        "name": data,
        "test": {"images": images, "fingerprint": f"{data}-test-0001"},
        "train": {"images": 1600, "fingerprint": f"{data}-train-0001"},
    }
    accuracy += 0.01 * rng.normal()
    for evaluation, shift in (("knn", 0.0), ("linear", 0.04)):
        measurements = []
        for k in (10, 20) if evaluation == "knn" else (None,):
            outcomes = {"names_hash": np.array(NAMES_HASH)}
            right = rng.random(images) < np.clip(accuracy + shift + hard, 0, 1)
            outcomes["top1"] = right
            outcomes["top5"] = right | (rng.random(images) < 0.5)
            file = f"{evaluation}-k{k}.npz" if k else f"{evaluation}.npz"
            np.savez(directory / "predictions" / file, **outcomes)
            protocol = (
                {"k": k, "temperature": 0.07} if k else {"epochs": 100, "chosen_lr": float(rng.choice([0.1, 0.3]))}
            )
            for metric in ("top1", "top5"):
                value = 100 * outcomes[metric].mean()
                half = 196 * np.sqrt(outcomes[metric].var() / images)
                measurements.append(_measurement(evaluation, metric, value, half, images, protocol, told, file))
        _write_lines(directory / "results" / f"{evaluation}.json", measurements)
    if segmentation:
        from common.statistics.confusion import bootstrap_scores, scores

        pixels = rng.integers(50, 150, size=(images, 4, 1))
        right = rng.binomial(pixels[..., 0], np.clip(accuracy + hard[:, None], 0.01, 0.99))
        confusion = np.repeat((pixels[..., 0] - right)[..., None] // 3, 4, axis=2)
        confusion[:, range(4), range(4)] = right
        np.savez(directory / "predictions" / "segmentation.npz", names_hash=np.array(NAMES_HASH), confusion=confusion)
        value = float(scores(confusion.sum(0))["miou"])
        half = 1.96 * float(bootstrap_scores(confusion, 100)["miou"].std())
        measurement = _measurement(
            "segmentation", "miou", value, half, images, {"head": "linear"}, told, "segmentation.npz"
        )
        _write_lines(directory / "results" / "segmentation.json", [measurement])


def _measurement(evaluation, metric, value, half, n, protocol, data, file) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "metric": metric,
        "value": float(value),
        "low": float(value - half),
        "high": float(value + half),
        "n": n,
        "protocol": protocol,
        "data": data,
        "predictions": f"predictions/{file}",
        "interval": "95% percentile bootstrap over test images",
    }


def _write_lines(file: Path, measurements: list[dict[str, Any]]) -> None:
    file.write_text("[\n" + ",\n".join(json.dumps(one) for one in measurements) + "\n]\n")


def _write_matrices(directory: Path, epochs: int, rng, size: int = 48) -> None:
    (directory / "figures").mkdir(exist_ok=True)
    at = np.unique(np.linspace(0, epochs, 4).astype(int))
    matrices = []
    for epoch in at:
        noise = rng.normal(0, 0.35 * np.exp(-3 * epoch / epochs) + 0.03, size=(size, size))
        matrices.append(np.clip(noise + np.eye(size) * (0.2 + 0.7 * epoch / epochs), -1, 1))
    file = directory / "figures" / "cross_correlation.npz"
    means = {"on_diagonal": np.zeros(len(at)), "off_diagonal": np.zeros(len(at))}
    np.savez(file, epochs=at, matrices=np.array(matrices, np.float16), **means)
