"""Names that are markup, wherever a report takes one from: they stay text. (In a real browser: ``browser/``.)"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import yaml

from common.statistics.confusion import scores
from reports import build_report
from reports.visual.core import style as paper
from tests.reports.factory import write_run

MARKUP = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{7*7}}<!--]]>"


class Elements(HTMLParser):
    """How often each element is there, with the names of its attributes, and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple, int] = {}
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        key = (tag, *sorted(name for name, _ in attributes if name.startswith("on")))
        self.found[key] = self.found.get(key, 0) + 1
        self.addresses += [value or "" for name, value in attributes if name in ("href", "src", "action")]


def elements(page: Path) -> Elements:
    parser = Elements()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def rename(run: Path, name: str) -> None:
    """Put a name wherever a run tells one."""
    text = (run / "config.yaml").read_text()
    quoted = json.dumps(name)
    (run / "config.yaml").write_text(text.replace("data: demo", f"data: {quoted}") + f"note: {quoted}\n{quoted}: 1\n")
    for file in (run / "results").glob("*.json"):
        measurements = json.loads(file.read_text())
        for m in measurements:
            m["metric"] = name if m["metric"] != "top1" else m["metric"]
            m["data"] = {**m["data"], "name": name}
            m["protocol"] = {**m["protocol"], name: name}
        file.write_text(json.dumps(measurements))
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "device": name, "cpu": name, "command": [name]}))
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"kind": "warning", "step": 1, "epoch": 0, "name": name, "message": name}) + "\n")


def test_no_name_becomes_markup(tmp_path):
    pages = {}
    for kind, name in (("plain", "plain name"), ("hostile", MARKUP)):
        folder = tmp_path / kind
        for method in ("dino", "barlow_twins"):
            rename(write_run(folder / "runs" / f"{method}-0", method, images=60), name)
        broken = folder / "runs" / name.replace("/", "-")
        broken.mkdir()
        (broken / "config.yaml").write_text("a: [")
        pages[kind] = build_report([folder / "runs"], folder / "out", title=name)
    plain, hostile = elements(pages["plain"]), elements(pages["hostile"])
    assert "alert(1)" in pages["hostile"].read_text()  # it is there, as text
    assert hostile.found == plain.found
    assert not [address for address in hostile.addresses if address.strip().lower().startswith("javascript")]


def write_segmentation(run: Path, data: str, classes: list[str]) -> None:
    """Results and pictures of a segmentation head on four images, as the evaluation leaves them."""
    rng = np.random.default_rng(0)
    confusion = rng.integers(1, 9, (4, len(classes), len(classes)))
    np.savez(run / "predictions" / "segmentation_linear.npz", names_hash=np.array("images"), confusion=confusion)
    told = json.loads((run / "results" / "knn.json").read_text())[0]
    measured = {
        "evaluation": "segmentation_linear",
        "metric": "miou",
        "value": float(scores(confusion.sum(0))["miou"]),
        "n": 4,
    }
    file = {"predictions": "predictions/segmentation_linear.npz", "low": None, "high": None}
    (run / "results" / "segmentation.json").write_text(json.dumps([{**told, **measured, **file}]))
    masks = rng.integers(0, len(classes), (4, 8, 8), np.uint8)
    arrays = {
        "images": np.zeros((4, 8, 8, 3), np.uint8),
        "truth": masks,
        "predicted_linear": masks,
        "iou_linear": np.arange(4.0),
    }
    places = {"fixed": [0, 1], "worst_linear": [0, 1], "best_linear": [2, 3]}
    names = {"sizes": [[8, 8]] * 4, "names": list("abcd"), "classes": classes}
    np.savez(run / "figures" / f"segmentation-{data}.npz", **arrays, **places, **names)


def test_no_name_becomes_a_formula(tmp_path):
    name = r"$\no_formula{$ and 5$ $x$"
    for method in ("dino", "barlow_twins"):
        run = write_run(tmp_path / "runs" / method, method, images=60)
        rename(run, name)
        options = yaml.safe_load((run / "config.yaml").read_text())
        options |= {"method": f"{name} {method}", "backbone": name}
        (run / "config.yaml").write_text(yaml.safe_dump(options))
        write_segmentation(run, name, [name, "other"])
    page = build_report([tmp_path / "runs"], tmp_path / "out")
    drawn = re.findall(r"<svg.*?</svg>", page.read_text(), re.S)
    titles = " ".join(re.findall(r"<text.*?</text>", " ".join(drawn), re.S))
    assert r"$\no_formula{$ and 5$ $x$" in titles and r"\$" not in titles
    for picture in (
        "segmentation-methods",
        "segmentation-extremes",
        "class-iou",
        "confusion",
        "intervals",
        "training-loss",
    ):
        assert (tmp_path / "out" / "figures" / f"{picture}.png").is_file()


def test_no_name_becomes_a_formula_in_pictures_beside_a_report(tmp_path):
    name = r"$\no_formula{$"
    figure, axes = paper.grid(1, 2, 2.0, 2.0)
    paper.show(axes[0, 0], np.zeros((4, 4)), name)
    axes[0, 1].set_yscale("log")
    axes[0, 1].set_ylim(1e-9, 1)
    paper.headed(figure, f"{name}\n{name}", name)
    assert paper.rendered(figure).shape[2] == 3
    powers = [label for label in axes[0, 1].get_yticklabels() if "10^" in label.get_text()]
    assert powers and all(label.get_parse_math() for label in powers)
    assert paper.save_figure(figure, tmp_path, "picture")
