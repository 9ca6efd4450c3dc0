"""Pages show what the results of studies say."""

import csv
import functools
import importlib.util
from pathlib import Path

import pytest

from benchmarks.peers.beside_lightly import ZERO_INIT, difference, row, top1_of
from common.errors import UserError
from methods.core.base import METHODS
from reports import build_report
from tests.reports.factory import write_run

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("docs_studies", ROOT / "docs" / "studies.py")
studies = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(studies)

MARKED = [page for page in studies.pages() if studies.studies_in(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """A function that makes the report of a study's results, once."""
    folder = tmp_path_factory.mktemp("studies")
    return functools.cache(lambda name: build_report([studies.STUDIES / "results" / name], folder / name).parent)


@pytest.mark.slow
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_pages_agree_with_the_results(page, reports):
    """After a change of results or marks: ``python docs/studies.py``."""
    text = page.read_text(encoding="utf-8")
    assert studies.filled(page, text, reports) == text
    assert all((studies.FIGURES / f"{study}-{name}.png").is_file() for study, name in studies.figures_in(text))


def test_marks_are_whole_and_name_studies_that_have_results():
    for page in studies.pages():
        text = page.read_text(encoding="utf-8")
        assert len(studies.MARK.findall(text)) == len(studies.BEGIN.findall(text)), page
        for study in studies.studies_in(text):
            assert (studies.STUDIES / "results" / study).is_dir(), (page, study)


def test_the_table_beside_lightly_is_that_of_its_measurements():
    folder = studies.STUDIES / "results" / "lightly"

    def measured(name: str) -> list[float]:
        return [top1_of(folder / f"{name}-seed{seed}") for seed in (0, 1, 2)]

    rows = [row("Untrained", measured("random-resnet18"))]
    for method in ZERO_INIT:
        title, here, lightly = METHODS.get(method).title, measured(f"{method}-resnet18"), measured(f"{method}-lightly")
        rows += [row(f"{title}, here", here), row(f"{title}, lightly", lightly), difference(title, here, lightly)]
    with (folder / "accuracy.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == rows


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for seed in (0, 1):
        write_run(folder / "runs" / f"dino-vit_nano-seed{seed}", "dino", "vit_nano", seed, images=60, matrices=False)
        for name, lr in (("slow", 0.1), ("fast|", 0.2)):
            run = folder / "runs" / f"barlow_twins-vit_nano-{name}-seed{seed}"
            write_run(run, "barlow_twins", "vit_nano", seed, images=60, matrices=False, options={"lr": lr})
    return build_report([folder / "runs"], folder / "report").parent


def fill(report: Path, text: str, page: str = "docs/studies/a.md") -> str:
    return studies.filled(ROOT / page, text, lambda study: report)


def test_tables_numbers_and_figures_are_the_reports(report):
    made = fill(report, "# A\n<!-- table: a/paper -->\nold\n<!-- end -->\nEnd.\n")
    table = [line for line in (report / "tables" / "paper.md").read_text().splitlines() if line.startswith("|")]
    assert made == "# A\n<!-- table: a/paper -->\n" + "\n".join(table) + "\n<!-- end -->\nEnd.\n"
    made = fill(report, "<!-- table: a/paper | Linear top-1 | Variant --><!-- end -->").splitlines()
    assert made[1] == "| Linear top-1 | Variant |" and len(made) == 7
    assert made[2] == "| ---: | --- |"
    line = next(line for line in (report / "tables" / "results.csv").read_text().splitlines() if ",slow," in line)
    mark = "<!-- number: a/results | Barlow Twins | slow | {k-NN top-1 (k 20):.1f} ± {k-NN top-1 (k 20) std:.2f}, {Seeds} seeds -->"
    mean, std = map(float, line.split(",")[3:5])
    made = fill(report, f"It has {mark}1<!-- end -->, and {mark}<!-- end -->.")
    shown = f"{mark}{mean:.1f} ± {std:.2f}, 2 seeds<!-- end -->"
    assert made == f"It has {shown}, and {shown}."
    assert fill(report, made) == made
    assert "DINO<!-- end -->" in fill(report, "<!-- number: a/results | Variant= | {Method} --><!-- end -->")
    figure = "<!-- figure: a/intervals | Every row -->"
    assert fill(report, f"{figure}<!-- end -->") == f"{figure}\n![Every row](images/a-intervals.png)\n<!-- end -->"
    assert "](docs/studies/images/a-intervals.png)" in fill(report, f"{figure}<!-- end -->", "README.md")


def test_tables_of_a_benchmark_lie_with_the_results(report, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "STUDIES", tmp_path)
    (tmp_path / "results" / "a").mkdir(parents=True)
    (tmp_path / "results" / "a" / "speed.csv").write_text(',ratio\n"DINO, 64",1.25\nBarlow Twins,1.5\n')
    made = "<!-- table: a/speed -->\n|  | ratio |\n| --- | --- |\n| DINO, 64 | 1.25 |\n| Barlow Twins | 1.5 |\n<!-- end -->"
    assert fill(report, "<!-- table: a/speed --><!-- end -->") == made
    assert ">1.2<" in fill(report, "<!-- number: a/speed | DINO, 64 | {ratio:.1f} --><!-- end -->")


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("table: a/papers", "unknown table 'papers'; did you mean paper"),
        ("table: a", "'a' is no STUDY/NAME"),
        ("table: a/paper | Varant", "unknown column 'Varant'; did you mean Variant"),
        ("number: a/results | Barlow Twins | {Seeds}", "2 rows of the table have these cells"),
        ("number: a/results | SwAV | {Seeds}", "0 rows of the table have these cells, not one .*DINO"),
        ("number: a/results | DINO | {Seed}", "unknown column 'Seed'"),
        ("number: a/results | DINO | {Method:.1f}", "'Method' is 'DINO', which has no format"),
        ("figure: a/interval | x", "unknown figure 'interval'; did you mean intervals"),
        ("figure: a/intervals", "what the picture shows"),
    ],
)
def test_a_mark_that_names_nothing_is_an_error(mark, message, report):
    with pytest.raises(UserError, match=message):
        fill(report, f"<!-- {mark} --><!-- end -->")


def test_a_mark_without_an_end_is_an_error(report):
    for text in ("<!-- table: a/paper -->", "<!-- table: a/paper --> <!-- table: a/paper --><!-- end -->"):
        with pytest.raises(UserError, match="has no <!-- end -->"):
            fill(report, text)
