"""Tables for papers."""

import csv
import io
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from common.errors import UsageError
from reports import build_report
from reports.analysis.comparison import compare
from reports.analysis.latex import latex, to_latex
from reports.analysis.published import Column, PublishedRow, PublishedTable
from reports.analysis.rows import rows_of
from reports.analysis.tables import to_csv
from reports.page import paper
from reports.page.classes import of_classes
from reports.page.comparison_tables import results_caption
from rundir.read import read_runs
from tests.reports.factory import NAMES_HASH, write_run
from tests.reports.test_tables import compile_latex


def comparison_of(folder):
    (comparison,) = compare(rows_of(read_runs([folder])[0]))
    return comparison


@pytest.fixture
def comparison(tmp_path):
    unlabelled = {"pairing": "same_image"}  # so that all are ranked together
    for method in ("dino", "barlow_twins", "weak_dino", "random"):
        for seed in (0, 1):
            directory = tmp_path / f"{method}-{seed}"
            write_run(directory, method, seed=seed, images=137, matrices=False, options=unlabelled)
    return comparison_of(tmp_path)


def first_column(table):
    return [row[0].text for row in table.rows]


def test_the_compact_table(comparison, tmp_path):
    """Names as papers write them, a label, the title as caption, notes below; references apart, second best underlined."""
    table = paper.results(comparison, "paper", paper.Choice(), [])
    assert first_column(table) == ["Barlow Twins", "DINO", "Weak DINO", "Untrained"] and table.breaks == {3}
    written = to_latex(table)
    assert (
        r"\caption{Results on demo}\label{tab:paper}" in written and "& ViT-S/8 &" in written and "vit" not in written
    )
    assert written.index(r"\end{tabular}") < written.index("Bold: best") < written.index(r"\end{table}")
    assert "[" not in re.sub(r"\\cmidrule\S*", "", written)  # no intervals
    for column in (2, 3):
        means = sorted((row[column].value, row[0].text) for row in table.rows[:3])
        underlined = [row[0].text for row in table.rows if row[column].second]
        assert underlined == [means[1][1]]
    assert written.count(r"\underline{") == 2
    compile_latex(tmp_path, written)


def test_rows_that_used_labels_take_no_second_place_and_no_rank_from_the_others(tmp_path):
    for method, pairing in itertools.product(("dino", "barlow_twins", "weak_dino"), ("same_image", "same_label")):
        if (method, pairing) != ("dino", "same_label"):
            run = tmp_path / f"{method}-{pairing}"
            write_run(run, method, images=2000, matrices=False, options={"pairing": pairing})
    comparison = comparison_of(tmp_path)
    with_labels = {place for place, row in enumerate(comparison.rows) if row.used_labels}
    assert len(with_labels) == 2 and len(comparison.rows) == 5
    table = paper.results(comparison, "paper", paper.Choice(), [])
    for column in range(len(table.headings) - 2, len(table.headings)):
        means = sorted((row[column].value, place) for place, row in enumerate(table.rows) if place not in with_labels)
        assert [place for place, row in enumerate(table.rows) if row[column].second] == [means[1][1]]
    assert table.caption.count("ranked among themselves") == 1
    ranks = [float(row[-1].text) for row in paper.effects(comparison, "effects").rows]
    assert sorted(ranks[place] for place in with_labels) == [1, 2]
    assert sorted(rank for place, rank in enumerate(ranks) if place not in with_labels) == [1, 2, 3]


def test_columns_and_rows_are_chosen_in_their_order(comparison):
    choice = paper.Choice(columns=["linear", "knn:top5"], rows=["random", "DINO", "vit_s8"])
    table = paper.results(comparison, "paper", choice, [])
    assert [heading.full for heading in table.headings[2:]] == ["Linear top-1", "k-NN top-5 (k 20)"]
    assert set(first_column(table)) == {"Barlow Twins", "DINO", "Weak DINO", "Untrained"}
    only = paper.results(comparison, "paper", paper.Choice(rows=["weak_dino", "DINO"]), [])
    assert first_column(only) == ["Weak DINO", "DINO"] and not any(entry.second for row in only.rows for entry in row)
    for wrong, words in (
        (paper.Choice(columns=["knm"]), "column of the report 'knm'"),
        (paper.Choice(rows=["x"]), "row of the"),
    ):
        with pytest.raises(UsageError, match=words):
            wrong.check([comparison])


def test_the_command_takes_them(comparison, tmp_path, capsys):
    import run as command_line

    words = ["report", str(tmp_path), "--out", str(tmp_path / "out"), "--columns", "linear", "--rows", "dino"]
    assert command_line.main(words) == 0
    rows = list(csv.reader((tmp_path / "out" / "tables" / "paper.csv").open()))
    assert rows[0][:3] == ["Method", "Backbone", "Linear top-1"] and [row[0] for row in rows[1:]] == ["DINO"]
    assert command_line.main([*words[:4], "--columns", "liner"]) == 2
    assert "unknown column of the report 'liner'" in capsys.readouterr().err


def test_published_numbers_stand_below_the_row_that_reproduces_them(tmp_path):
    run = write_run(tmp_path / "dino-0", "dino", images=100, matrices=False)
    write_run(tmp_path / "barlow-0", "barlow_twins", images=100, matrices=False)
    (run / "reproduces.json").write_text(json.dumps({"table": "x/t", "row": "DINO", "part": "", "changed": {}}))
    columns = {
        "knn": Column(title="k-NN", evaluation="knn", metric="top1", protocol={"k": 20}, scale=0.01),
        "other": Column(title="k-NN", evaluation="knn", metric="top1", protocol={"k": 5}),
    }
    row = PublishedRow(name="DINO", published={"knn": 0.745, "other": 1.0}, cell="c")
    table = PublishedTable(
        **dict.fromkeys(("paper", "source", "title", "where", "protocol", "cost"), "x"),
        name="x/t", grid="g", columns=columns, rows=[row],
    )  # fmt: skip
    made = paper.results(comparison_of(tmp_path), "paper", paper.Choice(), [table])
    place = first_column(made).index("DINO (published)")
    assert first_column(made)[place - 1] == "DINO" and [entry.text for entry in made.rows[place][2:]] == ["74.5", "–"]


def test_effects_against_the_untrained_and_mean_ranks(comparison):
    rows = {row["Method"]: row for row in csv.DictReader(io.StringIO(to_csv(paper.effects(comparison, "effects"))))}
    assert set(rows) == {"DINO", "Barlow Twins", "Weak DINO"}
    values = {
        (row.method_name, comparison.columns[column].name): comparison.cells[place, column].over_seeds.mean
        for place, row in enumerate(comparison.rows)
        for column in comparison.headline
    }
    names = [comparison.columns[column].name for column in comparison.headline]
    for name in names:
        for method, row in rows.items():
            assert float(row[name]) == pytest.approx(values[method, name] - values["Untrained", name], rel=1e-5)
            assert float(row[f"{name} low"]) < float(row[name]) < float(row[f"{name} high"])
    ranks = {
        method: np.mean(
            [
                0.5
                + sum(
                    (values[o, name] > values[method, name]) + (values[o, name] == values[method, name]) / 2
                    for o in rows
                )
                for name in names
            ]
        )
        for method in rows
    }
    assert {method: float(row["Mean rank"]) for method, row in rows.items()} == pytest.approx(ranks)


def test_every_seed_has_a_line(comparison):
    rows = list(csv.DictReader(io.StringIO(to_csv(paper.seeds([comparison])))))
    assert len(rows) == 4 * 2 * 6  # rows, seeds, columns: k-NN top-1 and top-5 with two k, linear top-1 and top-5
    dino = [float(row["Value"]) for row in rows if (row["Method"], row["Metric"]) == ("DINO", "top-1 (k 20)")]
    place = next(i for i, row in enumerate(comparison.rows) if row.method == "dino")
    assert np.mean(dino) == pytest.approx(comparison.cells[place, comparison.headline[0]].over_seeds.mean, rel=1e-6)
    assert {row["Seed"] for row in rows} == {"0", "1"}


def test_scores_of_classes_over_seeds(tmp_path):
    """Against scikit-learn's average precision, and the IoU by its definition."""
    classes, n, expected = ["ant", "bee"], 60, []
    for seed in (0, 1):
        run = write_run(tmp_path / f"dino-{seed}", "dino", seed=seed, images=n, segmentation=True, matrices=False)
        rng = np.random.default_rng(seed)
        scores, truth = rng.normal(size=(n, 2)).astype(np.float32), rng.random((n, 2)) < 0.4
        each = [100 * average_precision_score(truth[:, c], scores[:, c]) for c in range(2)]
        expected.append(each)
        known = {"names_hash": np.array(NAMES_HASH), "classes": np.array(classes)}
        np.savez(run / "predictions" / "labels.npz", scores=scores, label_sets=truth, **known)
        line = json.loads((run / "results" / "linear.json").read_text())[0]
        line |= {
            "evaluation": "several",
            "metric": "map",
            "value": float(np.mean(each)),
            "predictions": "predictions/labels.npz",
        }
        (run / "results" / "several.json").write_text(json.dumps([line]))
        arrays = dict(np.load(run / "predictions" / "segmentation.npz"))
        total = arrays["confusion"].sum(0).astype(float)
        iou = 100 * total[0, 0] / (total[0].sum() + total[:, 0].sum() - total[0, 0])
        expected[-1].append(iou)
    made = {table.name: table for table in of_classes(comparison_of(tmp_path), "", [])}
    assert set(made) == {"classes-several", "classes-segmentation"}
    for place, name in enumerate(classes):
        line = made["classes-several"].rows[place]
        values = [each[place] for each in expected]
        assert line[0].text == name and line[1].numbers["seeds"] == 2
        assert (line[1].value, line[1].numbers["std"]) == pytest.approx(
            (np.mean(values), np.std(values, ddof=1)), rel=1e-5
        )
    assert made["classes-segmentation"].rows[0][1].value == pytest.approx(np.mean([each[2] for each in expected]))
    assert r"\label{tab:classes-several}" in to_latex(made["classes-several"])


def test_test_images_that_were_left_out_are_told(tmp_path):
    run = write_run(tmp_path / "dino-0", "dino", images=90, matrices=False)
    write_run(tmp_path / "random-0", "random", images=90, matrices=False)
    for file in tmp_path.glob("*/results/*.json"):
        lines = json.loads(file.read_text())
        for line in lines:
            line["data"]["test"] |= {"images": 95, "labelled": 92, "skipped": 5}
        file.write_text(json.dumps(lines))
    told = "measured on 90 of 100 test images (5 could not be read, 3 without a label, 2 that it cannot measure)."
    comparison = comparison_of(tmp_path)
    assert told in results_caption(comparison)
    assert told in paper.results(comparison, "paper", paper.Choice(), []).caption
    build_report([tmp_path], tmp_path / "out")
    assert "of 100" in (tmp_path / "out" / "tables" / "measurements.md").read_text() and run.exists()


def test_signs_and_letters_of_other_scripts(tmp_path):
    words = "1/√2 ≤ α₂ ≈ Δ, σ² → ∞, Erdős Škoda Łódź naïve ½ 3° ±2−1 … “q” ﬁ µ ς ∈ ∥ †"
    assert latex("1/√2") == r"1/$\surd$2" and "U+" not in latex(words)
    compile_latex(tmp_path, latex(words))


def test_csv_has_no_tail_of_float32(comparison):
    comparison.cells[0, 0].over_seeds.__dict__["mean"] = float(np.float32(80.4))
    table = paper.results(comparison, "paper", paper.Choice(columns=[comparison.columns[0].name]), [])
    assert "80.4," in to_csv(table) and "80.40000" not in to_csv(table)


def test_the_paragraph_cites_what_was_run_and_nothing_else(comparison, tmp_path):
    build_report([tmp_path], tmp_path / "out")
    text, bib = (
        (tmp_path / "out" / "tables" / name).read_text() for name in ("evaluation-protocol.tex", "references.bib")
    )
    cited = {key for keys in re.findall(r"\\cite{([^}]*)}", text) for key in keys.split(",")}
    assert (
        cited == set(re.findall(r"@\w+{([^,]+),", bib))
        and {"caron2021dino", "zbontar2021barlow", "dosovitskiy2021vit"} <= cited
    )
    assert "grill2020byol" not in bib and "k 10, 20; temperature 0.07" in text and "137 test images of demo" in text
    for entry in bib.splitlines():
        assert entry.count("{") == entry.count("}")
    compile_latex(tmp_path, text)
    if shutil.which("bibtex"):
        (tmp_path / "document.aux").write_text(
            "".join(rf"\citation{{{key}}}" + "\n" for key in sorted(cited))
            + "\\bibstyle{plain}\n\\bibdata{out/tables/references}\n"
        )
        done = subprocess.run(["bibtex", "document"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and "error" not in done.stdout, done.stdout


def test_every_citation_of_a_fact_is_in_the_bibliography():
    from common.registry import plugins_of
    from reports.page.protocol import References

    for package in ("methods", "eval", "data.sets", "heads.segmentation"):
        for name in plugins_of(package).names():
            citation = plugins_of(package).facts(name).get("citation")
            if citation and "/" not in citation:
                assert "and others" in (entry := References()._entry(citation)) or "author = {" in entry
                assert not entry.startswith("@misc"), (package, name, citation)
