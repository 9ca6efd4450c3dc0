import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.files import write_text
from eval.core.run import run_evaluations
from eval.segmentation import SegmentationConfig
from reports import build_report
from reports.analysis.comparison import compare
from reports.analysis.rows import rows_of
from reports.figures.segmentation import coloured, pictures
from rundir.read import Problem, read_runs

pytestmark = pytest.mark.usefixtures("no_pdfs")


@pytest.fixture
def run(make_context):
    """``run(name, heads)``: a run directory with heads that have been measured."""

    def make(name: str, heads: list[str], backbone: str = "vit_nano") -> Path:
        context = make_context(backbone, name)
        run_evaluations(
            ["segmentation"], {"segmentation": SegmentationConfig(heads=heads, epochs=1, batch_size=4)}, context
        )
        write_text(context.run_dir / "config.yaml", f"method: random\nbackbone: {backbone}\ndata: voc2012\nseed: 0\n")
        return context.run_dir

    return make


def drawn(*runs: Path) -> tuple[dict, list[Problem]]:
    found, problems = read_runs(runs)
    (comparison,) = compare(rows_of(found))
    return {picture.name: picture for picture in pictures(comparison, "", problems)}, problems


def test_heads_of_one_run(run):
    made, problems = drawn(run("a", ["linear", "setr_naive"]))
    assert set(made) == {"segmentation-heads", "segmentation-extremes", "class-iou", "confusion"} and not problems
    for picture in made.values():
        assert min(Image.open(io.BytesIO(picture.png)).size) > 150
        assert picture.element.startswith("<svg") and picture.alt and picture.caption
    for word in ("image", "truth", "linear", "SETR-naive", "person", "void"):
        assert f">{word}<" in made["segmentation-heads"].element
    # All classes stand in the heatmap, and absent ones are dashes.
    assert made["class-iou"].element.count(">–<") >= 2


def test_methods_beside_each_other(run):
    made, problems = drawn(run("a", ["linear"]), run("b", ["linear"], "resnet18"))
    assert {"segmentation-methods", "segmentation-extremes", "class-iou", "confusion"} <= set(made) and not problems
    assert "resnet18" in made["segmentation-methods"].element


def test_the_report_shows_them(run, tmp_path):
    page = build_report([run("a", ["linear"])], tmp_path / "report").read_text()
    assert "IoU of each class" in page and "Worst and best images of the linear head" in page
    assert (tmp_path / "report" / "figures" / "class-iou.png").is_file()


def test_no_segmentation_no_pictures(make_context):
    from eval.attention_jaccard import AttentionJaccardConfig

    context = make_context()
    run_evaluations(["attention_jaccard"], {"attention_jaccard": AttentionJaccardConfig()}, context)
    write_text(context.run_dir / "config.yaml", "method: random\nbackbone: vit_nano\n")
    made, problems = drawn(context.run_dir)
    assert made == {} and not problems


def test_damaged_examples_are_a_problem_and_stop_nothing(run):
    directory = run("a", ["linear"])
    examples = directory / "figures" / "segmentation-voc2012.npz"
    examples.write_bytes(examples.read_bytes()[:500])
    made, problems = drawn(directory)
    assert made == {} or "segmentation-heads" not in made
    assert any("cannot be read" in problem.what for problem in problems)


def test_colours_are_vocs():
    assert coloured(np.array([[0, 1], [15, 255]])).tolist() == [
        [[0, 0, 0], [128, 0, 0]],
        [[192, 128, 128], [224, 224, 192]],
    ]


def test_no_image_is_among_the_worst_and_the_best(run):
    """With fewer images than both have room for; also in older files, which have some in both."""
    directory = run("a", ["linear"])
    file = directory / "figures" / "segmentation-voc2012.npz"
    arrays = dict(np.load(file))
    worst, best = (arrays[f"{kind}_linear"].tolist() for kind in ("worst", "best"))
    assert worst and len(worst) == len(best) and not {*worst} & {*best}
    everything = sorted({*worst, *best}, key=lambda place: arrays["iou_linear"][place])
    for kept in (everything, everything[:3], everything[:1]):
        np.savez(file, **arrays | {"worst_linear": np.array(kept), "best_linear": np.array(kept[::-1])})
        made, problems = drawn(directory)
        assert not problems
        picture = made.get("segmentation-extremes")
        most = min(4, len(kept) // 2)
        headings = re.findall(r">(worst|best), ", picture.element) if picture else []
        assert headings == ["worst"] * most + ["best"] * most
