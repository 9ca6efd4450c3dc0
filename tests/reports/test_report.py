"""The report as a whole: golden files, repeatability, problems, and a thousand runs.

After an intended change of the report: ``REPORT_GOLDEN=write python -m pytest tests/reports/test_report.py``, and look at the
difference before committing it.
"""

import csv
import json
import os
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.errors import UsageError, UserError
from reports import build_report
from tests.reports.factory import write_run
from tests.reports.test_tables import compile_latex

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Runs of a small comparison, with a damaged one beside them, and their report."""
    folder = tmp_path_factory.mktemp("small")
    runs = folder / "runs"
    for method in ("dino", "barlow_twins", "weak_dino", "random"):
        for seed in (0, 1, 2):
            write_run(runs / f"{method}-{seed}", method, seed=seed, images=300, segmentation=method != "random")
    write_run(runs / "unfinished", "dino", seed=7, images=20, ended=False)
    (runs / "damaged").mkdir()
    (runs / "damaged" / "config.yaml").write_text("a: [")
    before = Path.cwd()
    os.chdir(folder)  # the page says which directories it was made from
    try:
        build_report([Path("runs")], Path("out"), title="Three methods & a reference")
    finally:
        os.chdir(before)
    return folder


class Outline(HTMLParser):
    """Elements and text of a page, a line each, without drawings, styles, scripts and full-precision numbers."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []
        self._skip = 0

    def handle_starttag(self, tag, attributes):
        if tag in ("svg", "style", "script"):
            self._skip += 1
        if not self._skip:
            kept = [(k, v) for k, v in attributes if k not in ("data-value", "content", "tabindex")]
            self.lines.append(f"<{tag}{''.join(f' {k}={v}' for k, v in kept)}>")

    def handle_endtag(self, tag):
        if tag in ("svg", "style", "script"):
            self._skip -= 1

    def handle_data(self, data):
        if not self._skip and data.strip():
            self.lines.append(re.sub(r"\s+", " ", data.strip()))


def golden(name: str, found: str) -> str:
    """The golden file's text; with REPORT_GOLDEN=write it is written first."""
    if os.environ.get("REPORT_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_text(found)
    return (GOLDEN / name).read_text()


def test_page_is_as_before(small):
    outline = Outline()
    outline.feed((small / "out" / "index.html").read_text())
    found = "\n".join(outline.lines) + "\n"
    assert found == golden("page.txt", found)


@pytest.mark.parametrize("name", ["results", "differences", "cost"])
def test_latex_is_as_before(small, name):
    found = (small / "out" / "tables" / f"{name}.tex").read_text()
    assert found == golden(f"{name}.tex", found)


@pytest.mark.parametrize("name", ["results", "differences", "measurements"])
def test_csv_is_as_before(small, name):
    """Numbers to 5 digits: sums differ in the last ones between machines."""
    found = (small / "out" / "tables" / f"{name}.csv").read_text()
    expected = golden(f"{name}.csv", found)
    for mine, other in zip(csv.reader(found.splitlines()), csv.reader(expected.splitlines()), strict=True):
        for a, b in zip(mine, other, strict=True):
            try:
                assert float(a) == pytest.approx(float(b), rel=1e-5, abs=1e-12)
            except ValueError:
                assert a == b


def test_same_runs_give_the_same_bytes(small, tmp_path, monkeypatch, pdfs):
    monkeypatch.chdir(small)
    build_report([Path("runs")], tmp_path / "again", title="Three methods & a reference")
    files = sorted(path.relative_to(small / "out") for path in (small / "out").rglob("*") if path.is_file())
    assert len(files) == 1 + 3 * 11 + 3 + 2 * 6
    assert files == sorted(
        path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()
    )
    for file in files:
        assert (small / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file


def test_every_latex_table_compiles(small, tmp_path):
    tables = sorted((small / "out" / "tables").glob("*.tex"))
    compile_latex(tmp_path, *(table.read_text() for table in tables))


def test_page_says_what_is_wrong_and_what_cannot_be_concluded(small, tmp_path):
    page = (small / "out" / "index.html").read_text()
    assert "config.yaml cannot be read" in page
    assert "training has not ended" in page
    one = build_report([small / "runs" / "dino-0", small / "runs" / "barlow_twins-0"], tmp_path / "one")
    assert "whether another seed would give the same order cannot be concluded" in one.read_text()
    assert "McNemar" in one.read_text()


def test_only_unevaluated_and_old_files(tmp_path):
    run = write_run(tmp_path / "run", images=20)
    out = tmp_path / "out"
    build_report([run], out)
    (out / "tables" / "mine.csv").write_text("x")
    assert (out / "figures" / "cross-correlation.png").exists()
    for folder in ("results", "figures", "predictions"):
        for file in (run / folder).iterdir():
            file.unlink()
    page = build_report([run], out).read_text()
    assert "No finished run has a measurement yet." in page
    assert not (out / "figures" / "cross-correlation.png").exists()
    assert not (out / "tables" / "results.csv").exists()
    assert (out / "tables" / "mine.csv").exists()


def test_damaged_matrices_are_listed(tmp_path):
    run = write_run(tmp_path / "run", images=20)
    (run / "figures" / "cross_correlation.npz").write_bytes(b"PK no archive")
    page = build_report([run], tmp_path / "out", palette="study").read_text()
    assert "not drawn" in page
    assert "figure-training-loss" in page


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no run directory was given"):
        build_report([], tmp_path / "out")
    with pytest.raises(UserError, match=r"none of the 1 directories given is a readable run .*no such directory"):
        build_report([tmp_path / "nothing"], tmp_path / "out")
    with pytest.raises(UsageError, match="unknown palette 'stud'; did you mean study"):
        build_report([write_run(tmp_path / "run", "random", images=20)], tmp_path / "out", palette="stud")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*cannot be written"):
        build_report([tmp_path / "run"], tmp_path / "file")


@pytest.mark.slow
def test_a_thousand_runs_in_bounded_memory_and_without_torch(tmp_path):
    """Also says its time: DESIGN wants less than 15 s on two idle cores."""
    for number in range(1000):
        method = ("dino", "barlow_twins", "weak_dino", "supervised")[number // 5 % 4]
        write_run(
            tmp_path / "runs" / f"{number:04}",
            method,
            ("vit_s8", "resnet50")[number // 20 % 2],
            seed=number % 5,
            images=200,
            options={"lr": 1e-4 * (1 + number // 40)},
            matrices=number % 100 == 0,
            epochs=10,
        )
    (tmp_path / "runs" / "0007" / "results" / "knn.json").write_text("[")
    script = """
        import json, pathlib, re, resource, sys, time
        start = time.perf_counter()
        from common.environment import OF_REPORTS, PACKAGES
        from reports import build_report
        page = build_report([sys.argv[1]], sys.argv[2])
        seconds = time.perf_counter() - start
        if sys.platform == "linux":  # ru_maxrss there keeps what the forking process had
            status = pathlib.Path("/proc/self/status").read_text()
            memory = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 2**20
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
        more = sorted({*PACKAGES} & {*sys.modules} - {*OF_REPORTS})
        print(json.dumps({"seconds": seconds, "gib": memory, "more": more}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "runs"), str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    print(f"1,000 runs: {found['seconds']:.1f} s, {found['gib']:.2f} GiB")
    assert found["gib"] < 1
    assert not found["more"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "0007/results/knn.json" in page
    rows = (tmp_path / "out" / "tables" / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + 200
