"""Figures of accuracy against what varies between rows of one method and backbone."""

from reports import build_report
from reports.analysis.comparison import compare
from reports.analysis.rows import rows_of
from reports.figures import ablation
from reports.figures.look import Look
from rundir.read import read_runs
from tests.reports.factory import write_run


def figures(folder, cells, monkeypatch):
    """By the name of each figure of runs: lines, ticks and title of the horizontal axis, numbers of bars over images and seeds."""
    for number, (method, options) in enumerate(cells):
        for seed in (0, 1):
            write_run(folder / f"{number}-{seed}", method, "vit_nano", seed, images=60, options=options, matrices=False)
    rows = rows_of(read_runs([folder])[0])
    drawn = []
    picture = ablation.picture

    def kept(figure, *about):
        labels = [words.get_text() for words in figure.legends[0].get_texts()]
        ticks = [words.get_text() for words in figure.axes[0].get_xticklabels()]
        bars = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and len({*line.get_xdata()}) == 1]
        bars = sum(line.get_linewidth() == 5 for line in bars), sum(line.get_linewidth() < 2 for line in bars)
        drawn.append((about[0], labels, ticks, figure.axes[0].get_xlabel(), bars))
        return picture(figure, *about)

    monkeypatch.setattr(ablation, "picture", kept)
    made = ablation.ablations(compare(rows)[0], Look(rows), "")
    assert all(file.startswith(b"\x89PNG") for file in (one.png for one in made))
    return {name: rest for name, *rest in drawn}


def test_a_product_of_options_and_two_methods(tmp_path, monkeypatch):
    cells = [("dino", {"lr": lr, "hue": hue}) for lr in (1e-4, 1e-3, 1e-2) for hue in (0.1, 0.2)]
    cells += [("barlow_twins", {"lr": lr}) for lr in (1e-3, 1e-2)]
    cells += [("random", {}), ("random", {"method": "pixels", "backbone": "pixels"})]
    drawn = figures(tmp_path, cells, monkeypatch)
    assert {*drawn} == {"ablation-lr", "ablation-hue"}
    labels, ticks, axis, bars = drawn["ablation-lr"]
    assert sorted(labels) == ["Barlow Twins", "DINO, hue 0.1", "DINO, hue 0.2"]
    assert ticks == ["0.0001", "0.001", "0.01"] and axis == "lr (log scale)"
    assert bars[0] == 8 and 4 < bars[1] <= 8  # over images, and over seeds where these are not equal
    assert len(drawn["ablation-hue"][0]) == 3 and drawn["ablation-hue"][2] == "hue"


def test_one_option_at_a_time_with_zero_words_and_what_follows(tmp_path, monkeypatch):
    cells = [("dino", {"weight_decay": w, "weight_decay_end": w}) for w in (0.0, 1e-3, 0.1)]
    cells += [("dino", {"weight_decay": 0.0, "weight_decay_end": 0.0, "pairing": "same_label"})]
    drawn = figures(tmp_path, cells, monkeypatch)
    assert {name: about[1:3] for name, about in drawn.items()} == {
        "ablation-weight-decay": [["0", "0.001", "0.1"], "weight_decay (log scale)"],
        "ablation-pairing": [["same_image", "same_label"], "pairing"],
    }


def test_variants_that_differ_in_several_options(tmp_path, monkeypatch):
    cells = [("dino", {}), ("dino", {"hue": 0.3, "batch_size": 16, "saturation": 0.1})]
    labels, ticks, axis, bars = figures(tmp_path, cells, monkeypatch)["ablation-variant"]
    assert labels == ["DINO"] and ticks == ["variant A", "variant B"] and axis == "variant" and bars[0] == 2


def test_a_comparison_of_methods_has_no_such_figure(tmp_path, monkeypatch):
    assert not figures(tmp_path, [("dino", {}), ("barlow_twins", {})], monkeypatch)


def test_the_page_and_the_files_have_it(tmp_path):
    for lr in (1e-4, 1e-3):
        write_run(tmp_path / "runs" / f"{lr}", "dino", "vit_nano", options={"lr": lr}, images=40, matrices=False)
    page = build_report([tmp_path / "runs"], tmp_path / "report").read_text()
    assert "Accuracy against lr" in page
    assert (tmp_path / "report" / "figures" / "ablation-lr.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report" / "figures" / "ablation-lr.pdf").exists()


def test_many_lines_are_drawn_by_their_family_and_the_legend_fits(tmp_path, monkeypatch):
    rates, temperatures = (1e-4, 1e-3), (0.02, 0.04, 0.05, 0.06)
    cells = [
        (method, {"lr": lr, "teacher_temp": temperature, "momentum_teacher": 0.9, "hue": 0.1})
        for method in ("dino", "weak_dino")
        for lr in rates
        for temperature in temperatures
    ]
    widths = []
    picture = ablation.picture
    monkeypatch.setattr(
        ablation, "picture", lambda figure, *about: (widths.append(_legend_inside(figure)), picture(figure, *about))[1]
    )
    drawn = figures(tmp_path, cells, monkeypatch)
    labels, ticks, _, bars = drawn["ablation-lr"]
    assert sorted(labels) == ["DINO", "Weak DINO"] and len(ticks) == 2
    assert bars == (0, 0)  # no intervals
    assert len(drawn["ablation-teacher-temp"][0]) == 4  # few enough to be drawn one by one
    assert widths == [True, True]


def _legend_inside(figure):
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    return box.x0 >= 0 and box.x1 <= figure.bbox.width
