"""The files of published numbers, and what is set beside them."""

import json
import math
import re
from pathlib import Path

import pytest

from common.errors import UsageError
from reports import build_report
from reports.analysis.published import Column, PublishedRow, PublishedTable, read_published
from reports.analysis.reproduction import measured, side_by_side
from rundir.read import read_runs

TABLES = read_published()

#: As the papers' tables read, row by row.
PRINTED = {
    "dino/table2": "79.3/79.3 73.2/66.0 74.4/64.8 75.3/65.7 75.3/67.5 79.8/79.8 71.4/66.6 72.7/64.4 73.5/66.3 77.0/74.5",
    "dino/released": "74.5 77.0 78.3 79.7 76.1 78.2 77.4 80.1 67.5 75.3 76.0 77.8 77.1 79.2 76.4 78.8 77.9 80.3",
    "dino/table3": "33.5/8.9, 63.0/37.2 35.4/11.1, 55.9/27.5 41.8/13.7, 63.1/34.4 51.5/24.3, 75.3/51.6",
    "dino/table4": "76.4 81.7 85.5 75.1 82.5",
    "dino/table5": "66.0/63.9/68.1 61.8/60.2/63.4 62.3/60.7/63.9 69.9/66.6/73.1 71.4/67.9/74.9",
    "dino/figure4": "22.0/27.3/45.9 21.8/23.7/44.7 45.1 46.3 47.8 46.8",
    "dino/table6": "99.0 89.5 70.7 76.6 98.2 92.1 79.9 99.0 90.5 72.0 78.2 98.5 93.0 81.5 "
    "99.0 90.8 73.2 77.7 98.4 92.1 81.8 99.1 91.7 72.6 78.6 98.8 93.0 82.8",
    "dino/table7": "72.8/76.1 0.1/0.1 72.2/76.0 67.9/72.5 52.6/62.4 71.8/75.6 66.6/71.4 62.0/71.6 64.7/71.8",
    "dino/table8": "67.8 15.3h 72.5 45.9h 9.3G 71.5 17.0h 74.5 51.0h 10.5G 73.8 20.3h 75.9 60.9h 12.9G 74.6 24.2h 76.1 72.6h 15.4G",
    "dino/table9": "57.9/59.1/59.6/59.9",
    "dino/table10": "67.5 59.3 47.2 84.9 74.5 69.1 61.3 88.0",
    "dino/appendix": "69.7 67.8 69.3 69.2 69.1 69.1 69.4 0.1 68.6",
    "dino/appendix_teacher_temperature": "43.9/66.7/69.6/68.7/0.1/69.7",
    "dino/appendix_epochs": "70.9/72.8/74.5",
    "dino/appendix_crop_scale": "65.6/68.0/69.7/69.8/69.5",
    "dino/appendix_blocks": "76.1/76.6/77.0/77.0",
    "barlow_twins/table1": "73.2 91.0 73.5",
    "barlow_twins/table2": "55.0/79.2 69.7/89.3",
    "barlow_twins/table3": "54.1 86.2 46.5",
    "barlow_twins/table5": "71.4 57.3 0.1 69.8 71.2 53.4 63.3",
    "barlow_twins/table6": "71.4 70.5 70.2 61.3",
    "barlow_twins/batch_size": "69.7 70.7 71.4 71.7 71.4 70.7",
    "studies/imagenet_mini": "61.66 78.21 62.45 82.16 62.71 84.20 62.55 85.01",
    "small/lightly_cifar10": "0.842 375.9 0.840 120.3 0.819 153.3 0.813 108.6 0.859 517.5 0.848 405.2",
    "small/lightly_imagenette": "0.852 298.5 0.888 312.3 0.651 85.0 0.873 75.4",
    "small/stable_pretraining_imagenette": "83.8/86.1 81.2/83.0 73.3/74.9 56.0/63.9",
    "studies/voc_resnet50": "",
    "studies/voc_vit_s8": "",
}


@pytest.mark.parametrize("name", TABLES)
def test_numbers_are_as_printed(name):
    held = [value for row in TABLES[name].rows for value in row.published.values()]
    assert held == [float(number) for number in re.findall(r"\d+\.\d+", PRINTED[name])]


def test_every_table_says_what_it_takes_to_read_it():
    for table in TABLES.values():
        assert all((table.paper, table.source, table.title, table.where, table.protocol, table.cost)), table.name
        assert any(not row.not_run for row in table.rows), table.name


#: What is done otherwise than by the authors, by paper and evaluation: words that stand with every table of both. Evaluations that
#: follow the authors in everything have none.
TOLD = {
    "dino": {
        "knn": (),
        "knn_low_shot": ("is not said",),
        "linear_authors": ("the last of 100 epochs", "training crops are resized bicubically, the authors' bilinearly"),
        "revisited": (),
        "copydays": ("YFCC100M",),
        "davis": ("0.229, not by the reference's 0.228", "by PyTorch, not OpenCV"),
        "attention_jaccard": ("what the authors did is not known",),
        "finetune": ("epochs and learning rates are ours", "RandAugment, mixup and label smoothing"),
    },
    "barlow_twins": {
        "linear_authors": ("the last of 100 epochs", "resized bicubically, by the authors bilinearly"),
        "finetune": (
            "SimCLR's lists",
            "with each step, the authors' with each epoch",
            "bicubically, by the authors bilinearly",
        ),
        "svm": ("folds and solver", "bicubically, by the authors bilinearly"),
    },
    "small": {"knn": ("the last epoch, not the best",), "linear": ("trained on frozen features after training",)},
    "studies": {
        "knn": ("short side resized to 256",),
        **{f"segmentation_{head}": ("void counts nowhere",) for head in ("deeplabv3", "linear_pixels")},
        **{
            f"segmentation_setr_{kind}": ("void counts nowhere", "SETR's heads are") for kind in ("naive", "pup", "mla")
        },
    },
}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_tells_what_is_otherwise_than_published(name):
    table, paper = TABLES[name], name.partition("/")[0]
    told = " ".join(table.differs)
    for column in table.columns.values():
        for words in TOLD[paper][column.evaluation] if column.evaluation else ():
            assert words in told, column.evaluation
        if column.evaluation == "knn" and "voc07" in column.part:
            assert "all difficult" in told
        if column.evaluation == "attention_jaccard":
            assert column.expected == {"objects": "instances"}


def test_k_nn_and_linear_columns_of_table_2():
    row = TABLES["dino/table2"].row("DINO ViT-S")
    assert row.published == {"linear": 77.0, "knn": 74.5}
    assert row.run == {"weights": "dino:vit_s16"}
    resnet = TABLES["dino/table2"].row("DINO ResNet-50")
    assert resnet.run == {"weights": "dino:resnet50", "linear_authors_weight_decay": 0.0}  # as eval_linear.py
    assert TABLES["dino/table2"].columns["knn"].protocol == {"k": 20}


GOOD = {
    "title": "t",
    "where": "table 1",
    "protocol": "p",
    "cost": "c",
    "parts": {"a": {"data": "demo", "evals": ["knn"]}},
    "columns": {"knn": {"title": "k-NN", "evaluation": "knn", "metric": "top1"}},
    "rows": [{"name": "r", "published": {"knn": 1.5}, "run": {"backbone": "vit_nano"}}],
}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, None),
        ({"title": None, "tilte": "t"}, "tilte"),
        ({"grid": "experiments/demo.yaml"}, "either a grid or parts"),
        ({"parts": {"a": {"data": "demo"}}}, "no evals"),
        ({"columns": {"knn": {"title": "k-NN", "evaluation": "knn"}}}, "both an evaluation and a metric"),
        ({"columns": {"knn": {"title": "x", "evaluation": "knn", "metric": "top1", "part": "b"}}}, "part 'b'"),
        ({"rows": [{"name": "r", "published": {"linear": 1.5}, "run": {}}]}, "publishes linear"),
        ({"rows": [{"name": "r", "published": {"knn": "1.5"}, "run": {}}]}, "'1.5' is no number"),
        ({"rows": [{"name": "r", "published": {"knn": 1.5}}]}, "one of run, cell and not_run"),
        ({"rows": [{"name": "r", "published": {"knn": 1.5}, "cell": "dino"}]}, "has a cell"),
        ({"rows": GOOD["rows"] * 2}, "same name"),
    ],
)
def test_a_wrong_form_is_named(changes, message, tmp_path):
    content = {"paper": "p", "source": "s", "tables": {"t": {**GOOD, **changes}}}
    (tmp_path / "made.yaml").write_text(json.dumps(content))
    if message is None:
        assert list(read_published(tmp_path)) == ["made/t"]
        return
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read_published(tmp_path)
    assert "made.yaml" in str(caught.value)


ABOUT = dict.fromkeys(("paper", "source", "title", "where", "protocol", "cost"), "words")


def table() -> PublishedTable:
    columns = {
        "knn": Column(title="k-NN", evaluation="knn", metric="top1", protocol={"k": 20, "labels": "10% of"}, part="a"),
        "hours": Column(title="hours"),
    }
    rows = [
        PublishedRow(name="first", published={"knn": 70.5, "hours": 3.0}, run={}, differs="other weights"),
        PublishedRow(name="second", published={"knn": 60.0}, not_run="nobody has it"),
        PublishedRow(name="third", published={"knn": 50.0}, run={}),
    ]
    return PublishedTable(name="made/t", parts={"a": {}}, columns=columns, rows=rows, test_images=400, **ABOUT)


def write(
    folder: Path, seed: int, value: float, n: int = 400, row: str = "first", name: str = "made/t", **mark
) -> Path:
    """A run directory that says that it reproduces a row."""
    run = folder / f"{row}-{seed}"
    (run / "results").mkdir(parents=True)
    (run / "config.yaml").write_text(f"method: random\nbackbone: vit_nano\nseed: {seed}\n")
    (run / "reproduces.json").write_text(json.dumps({"table": name, "row": row, "part": "a", **mark}))
    protocols = [
        {"k": 10, "labels": "10% of each"},
        {"k": 20, "labels": "1% of each"},
        {"k": 20, "labels": "10% of each"},
    ]
    results = [
        {"evaluation": "knn", "metric": "top1", "value": v, "low": v - 1, "high": v + 1, "n": n, "protocol": protocol}
        | {"data": {"name": "demo"}, "predictions": None}
        for v, protocol in zip((1.0, 2.0, value), protocols, strict=True)
    ]
    (run / "results" / "knn.json").write_text(json.dumps(results))
    return run


def lines(both):
    return {(row[0].text, row[1].text): row for row in both.rows}


def test_measured_less_published_with_the_interval_over_images(tmp_path):
    runs, _ = read_runs([write(tmp_path, 0, 71.25)])
    found = lines(side_by_side(table(), runs, {("third", "a"): "no such folder"}))
    _, _, published, value, difference, remark = found["first", "k-NN"]
    assert (published.value, value.value, difference.value) == (70.5, 71.25, 0.75)
    assert (difference.text, value.note, remark.text) == ("+0.75", "[70.25, 72.25]", "other weights")
    assert found["first", "hours"][-1].text == "published only"
    assert found["second", "k-NN"][-1].text == "not run: nobody has it"
    assert found["third", "k-NN"][-1].text == "not run: no such folder"
    assert found["third", "k-NN"][3].value is None


def test_seeds_are_averaged_and_copies_count_once(tmp_path):
    directories = [write(tmp_path / "a", 0, 70.0), write(tmp_path / "b", 0, 70.0), write(tmp_path / "a", 1, 72.0)]
    runs, _ = read_runs(directories)
    made = table()
    found = measured(made, made.rows[0], made.columns["knn"], runs)
    assert (found.value, found.seeds) == (71.0, 2)
    # Student's t of 1 degree of freedom, 12.706 · √2 / √2, on the logit scale
    logit = math.log(0.71 / 0.29) + 0.12706 / (0.71 * 0.29)
    assert found.high == pytest.approx(100 / (1 + math.exp(-logit)), abs=1e-3)


def test_other_images_and_options_are_told(tmp_path):
    runs, _ = read_runs([write(tmp_path, 0, 71.0, n=399, changed={"epochs": 2})])
    remark = lines(side_by_side(table(), runs))["first", "k-NN"][-1].text
    assert "other options than the table's: epochs=2" in remark
    assert "on 399 test images or objects, published on 400" in remark


def test_another_protocol_and_images_held_out_are_told(tmp_path):
    made = table()
    made.columns["knn"].expected.update(temperature=0.07, labels="10% of each")
    run = write(tmp_path, 0, 71.0)
    (run / "log.jsonl").write_text('{"kind": "start", "images": 8523, "held_out": 946}\n{"kind": "end"}\n')
    runs, _ = read_runs([run])
    remark = lines(side_by_side(made, runs))["first", "k-NN"][-1].text
    assert "temperature: not told; published: 0.07; trained on 8,523 of 9,469 images, the others held out" in remark
    assert "labels" not in remark


def test_a_number_that_other_options_leave_out_is_told(tmp_path):
    made = table()
    made.columns["knn"].protocol["k"] = 5  # of which no run here has measured anything
    runs, _ = read_runs([write(tmp_path, 0, 71.0, changed={"knn_ks": [10, 20]})])
    _, _, _, value, _, remark = lines(side_by_side(made, runs))["first", "k-NN"]
    assert value.value is None
    assert remark.text == "not among what was measured with other options than the table's: knn_ks=[10, 20]"
    assert lines(side_by_side(made, []))["first", "k-NN"][-1].text == ""


def test_fractions_are_compared_with_fractions(tmp_path):
    runs, _ = read_runs([write(tmp_path, 0, 84.0)])
    column = Column(
        title="accuracy", evaluation="knn", metric="top1", protocol={"k": 20, "labels": "10%"}, part="a", scale=0.01
    )
    rows = [PublishedRow(name="first", published={"knn": 0.842}, run={})]
    made = PublishedTable(name="made/t", parts={"a": {}}, columns={"knn": column}, rows=rows, **ABOUT)
    row = side_by_side(made, runs).rows[0]
    assert row[3].text == "0.840" and row[4].text == "−0.002"


def test_the_report_has_the_table_and_names_a_mark_that_it_does_not_know(tmp_path):
    known = write(tmp_path, 0, 70.0, row="DINO ViT-S", name="dino/table2", part="imagenet")
    unknown = write(tmp_path, 1, 70.0, row="nobody", name="dino/table2")
    page = build_report([known, unknown], tmp_path / "report").read_text()
    assert "Published numbers beside measured" in page and "dino/table2" in page
    assert "reproduces a row of dino/table2 that is not known here" in page
    csv = (tmp_path / "report" / "tables" / "published-dino-table2.csv").read_text()
    assert 'DINO ViT-S,"k-NN top-1, %",74.5,70,69,71,1,-4.5' in csv
