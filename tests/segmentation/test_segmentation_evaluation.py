import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.images import voc_palette
from common.statistics.confusion import confusion_matrix, scores
from data.datasets import open_dataset
from data.sets.core.voc import AUG_MASKS
from data.views.dense import fit_image
from eval.core.changed import warnings_of_images
from eval.core.run import run_evaluations
from eval.segmentation import Segmentation, SegmentationConfig
from reports.analysis.columns import differing_conditions
from reports.analysis.outcomes import outcomes_of
from rundir.results import parse_measurement, read_results, write_results
from training.checkpoint import load_checkpoint


def config(**options) -> SegmentationConfig:
    return SegmentationConfig(**{"epochs": 2, "batch_size": 4, **options})


def measure(context, again=False, **options):
    return run_evaluations(["segmentation"], {"segmentation": config(**options)}, context, again)


def test_measures_what_the_heads_predict(make_context):
    context = make_context()
    found = measure(context, heads=["linear", "setr_mla"], lr=5e-3)
    assert [m.evaluation for m in found[::6]] == ["segmentation_linear", "segmentation_setr_mla"]
    assert [m.metric for m in found[:6]] == ["miou", "pixel_accuracy", "mean_accuracy", "precision", "recall", "f1"]
    # The same by hand, from the trained head in its own run directory.
    (run,) = (context.run_dir / "segmentation").glob("linear-*")
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]
    weight, bias = state["head.classifier.weight"], state["head.classifier.bias"]
    total = np.zeros((21, 21), np.int64)
    for image in range(len(context.test)):
        pixels = torch.tensor(context.test.original_image(image)).permute(2, 0, 1)
        fitted, (height, width) = fit_image(pixels, 32)
        with torch.no_grad():
            logits = torch.nn.functional.conv2d(context.backbone.maps(fitted[None])[0], weight, bias)
        logits = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")[:, :, :height, :width]
        logits = torch.nn.functional.interpolate(logits, pixels.shape[1:], mode="bilinear")
        total += confusion_matrix(logits[0].argmax(0).numpy(), context.test.mask(image), 21)
    for m in found[:6]:
        assert m.value == pytest.approx(float(scores(total)[m.metric]), abs=1e-4)
        assert m.low <= m.high and m.n == 5
    assert found[0].protocol["backbone"] == "frozen" and found[0].protocol["head"] == "linear"
    assert (
        "person" not in found[0].data["test"]["absent_from_masks"]
        and "boat" in found[0].data["test"]["absent_from_masks"]
    )
    stored = np.load(context.run_dir / found[0].predictions)
    assert (stored["confusion"].sum(0) == total).all()


def test_the_report_can_pair_the_outcomes(make_context):
    context = make_context()
    for m in measure(context):
        outcomes = outcomes_of(parse_measurement(dataclasses.asdict(m), context.run_dir))
        assert outcomes.matrices is not None and outcomes.n == 5


def test_nothing_is_trained_or_measured_twice(make_context, monkeypatch):
    context = make_context()
    first = measure(context)
    monkeypatch.setattr(Segmentation, "run", lambda *arguments: pytest.fail("measured again"))
    assert measure(context) == first
    monkeypatch.undo()
    monkeypatch.setattr("eval.core.nested.train_task", lambda *arguments, **about: pytest.fail("trained again"))
    assert measure(context, again=True) == first
    assert not list((context.run_dir / "features").glob("*map*"))


def test_a_full_disk_changes_results_by_rounding_alone(make_context, monkeypatch):
    """Maps that it has no room for are computed anew for each batch, and rounded as stored ones are."""
    stored = measure(make_context(), heads=["linear", "setr_naive"])
    assert stored[0].protocol["train_maps"] == "float16"
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    anew = measure(make_context(out="full"), heads=["linear", "setr_naive"])
    assert [m.protocol for m in anew] == [m.protocol for m in stored]
    assert [m.value for m in anew] == pytest.approx([m.value for m in stored], abs=0.5)


def test_other_training_images_train_anew(make_context):
    """Those that the heads are trained on, which may be others than the context's (train_aug)."""
    context, evaluation = make_context(), Segmentation(config())
    runs = {evaluation._plan(context, "linear", store).run for store in (context.train, context.test)}
    assert len(runs) == 2


def test_results_are_about_the_images_that_heads_were_trained_on(make_context, shapes, tmp_path):
    """VOC's augmented list is another than the context's training images: rows say so, and what changes there counts."""
    root = shutil.copytree(shapes, tmp_path / "shapes")
    folder = root / "VOCdevkit" / "VOC2012"
    lists, further = folder / "ImageSets" / "Segmentation", folder / AUG_MASKS / "further.png"
    (lists / "train_aug.txt").write_text("\n".join([*(lists / "train.txt").read_text().split()[:4], "further"]))
    shutil.copy(folder / "JPEGImages" / "s0.jpg", folder / "JPEGImages" / "further.jpg")
    further.parent.mkdir()

    def opened(split):
        return open_dataset("voc2012", split, root, None, progress=False)

    context = dataclasses.replace(make_context(), train=opened("train"), test=opened("test"))
    found = [measure(context)[0]]
    for value in (3, 8):
        Image.fromarray(np.full((32, 32), value, np.uint8)).save(further)
        found.append(measure(context, train_list="train_aug")[0])
        assert found[-1].data["train"]["fingerprint"] == opened("train_aug").fingerprint
    assert [m.data["train"]["images"] for m in found] == [8, 5, 5]
    assert {"train_list", "data train images", "data train source"} <= set(differing_conditions(found[:2]))
    assert differing_conditions(found[1:]) == ["data train source"]
    assert warnings_of_images(context) == []


def test_other_options_train_anew(make_context):
    context = make_context()
    measure(context)
    measure(context, loss=["cross_entropy", "dice=0.5"])
    measure(context, finetune=True, scale=[0.5, 2.0], distort=True, auxiliary=0.4, layer_decay=0.8)
    runs = list((context.run_dir / "segmentation").glob("linear-*"))
    assert len(runs) == 3 and all((run / "checkpoints" / "last.pt").is_file() for run in runs)


def test_heads_measured_one_after_another_stand_side_by_side(make_context):
    """In results and examples as if they had been measured together; with other weights only the new one's stay."""
    context = make_context()
    measure(context, heads=["linear"])
    measure(context, heads=["setr_naive"])
    together = make_context(out="together")
    measure(together, heads=["linear", "setr_naive"])

    def found(of):
        (file,) = of.run_dir.glob("figures/segmentation-*.npz")
        results = read_results(of.run_dir / "results" / "segmentation.json")
        return {(m.evaluation, m.metric): m.value for m in results}, dict(np.load(file))

    (values, examples), (expected, expected_examples) = found(context), found(together)
    assert values == pytest.approx(expected) and len(values) == 12
    assert examples.keys() == expected_examples.keys()
    for name in examples:
        np.testing.assert_array_equal(examples[name], expected_examples[name], name)
    other = make_context()
    with torch.no_grad():
        other.backbone.norm.bias += 1
    measure(other, heads=["setr_naive"])
    values, examples = found(other)
    assert len(values) == 6 and "iou_linear" not in examples


def test_frozen_and_fine_tuned_stand_side_by_side(make_context, capsys):
    """In results, predictions, examples and tables, in whatever order and as often as they are measured."""
    from reports.analysis.columns import columns_of, headline_of

    context = make_context()
    frozen, tuned = measure(context), measure(context, finetune=True)
    assert measure(context) == frozen  # it was kept
    results = read_results(context.run_dir / "results" / "segmentation.json")
    assert {(m.metric, m.protocol["backbone"]) for m in results} == {
        (m.metric, mode) for m in frozen for mode in ("frozen", "fine-tuned")
    }
    assert {m.predictions for m in results} == {
        "predictions/segmentation_linear-voc2012.npz",
        "predictions/segmentation_linear-voc2012-finetuned.npz",
    }
    for m in results:
        expected = next(o for o in (frozen if m.protocol["backbone"] == "frozen" else tuned) if o.metric == m.metric)
        assert m == expected
        assert outcomes_of(m).matrices is not None
    assert {file.stem for file in (context.run_dir / "figures").iterdir()} == {
        "segmentation-voc2012",
        "segmentation-voc2012-finetuned",
    }
    columns = list(columns_of([[results], [frozen]]))  # another row has been measured with a frozen backbone only
    names = [columns[place].name for place in headline_of(columns)]
    assert names == ["Segmentation linear mIoU", "Segmentation linear mIoU (backbone fine-tuned)"]
    assert len(columns) == 2 * len(frozen)
    alone = list(columns_of([[frozen], [tuned]]))  # rows that have one each do not share a column
    assert len(alone) == 2 * len(frozen)


def test_what_an_older_version_named_alike_is_not_kept(make_context):
    """It wrote the predictions of fine-tuned heads where those of frozen ones are now."""
    context = make_context()
    tuned = measure(context, finetune=True)
    file = context.run_dir / "results" / "segmentation.json"
    write_results(file, [dataclasses.replace(m, predictions=m.predictions.replace("-finetuned", "")) for m in tuned])
    measure(context)
    assert {m.protocol["backbone"] for m in read_results(file)} == {"frozen"}


def test_masks_are_written_as_palette_images(make_context, monkeypatch):
    context = make_context()
    measured = measure(context, heads=["linear", "linear_pixels"])
    assert not (context.run_dir / "masks").exists()
    assert measure(context, heads=["linear", "linear_pixels"], save_masks=True) == measured  # although measured before
    folder = context.run_dir / "masks" / "voc2012" / "linear"
    assert sorted(file.name for file in folder.iterdir()) == ["s10.png", "s11.png", "s12.png", "s8.png", "s9.png"]
    matrices = np.load(context.run_dir / measured[0].predictions)["confusion"]
    for place, name in enumerate(context.test.names):
        with Image.open(folder / f"{Path(name).stem}.png") as image:
            assert image.mode == "P"
            assert image.getpalette("RGB")[: 3 * 21] == voc_palette()[:21].ravel().tolist()
            assert image.getpalette("RGB")[3 * 255 :] == [224, 224, 192]
            classes = np.array(image)
        assert classes.shape == context.test.mask(place).shape
        assert (confusion_matrix(classes, context.test.mask(place), 21) == matrices[place]).all()
    with monkeypatch.context() as patch:  # the same command does nothing twice
        patch.setattr(Segmentation, "run", lambda *arguments: pytest.fail("measured again"))
        measure(context, heads=["linear", "linear_pixels"], save_masks=True)
    (folder / "s8.png").unlink()
    measure(context, heads=["linear", "linear_pixels"], save_masks=True)
    assert (folder / "s8.png").exists()
    measure(context, save_masks=True, finetune=True)
    assert {f.name for f in folder.parent.iterdir()} == {"linear", "linear_pixels", "linear-finetuned"}
    measure(context, again=True)  # masks of other predictions do not stay
    assert not folder.exists()


def test_a_frozen_head_keeps_the_head_alone(make_context):
    context = make_context()
    first = measure(context, heads=["linear", "setr_mla"], auxiliary=0.4)
    for run in (context.run_dir / "segmentation").iterdir():
        assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.pt"]
        state = load_checkpoint(run / "checkpoints" / "last.pt")
        assert state["method"] and not any(name.startswith("backbone.") for name in state["method"])
        # As older versions wrote it: with the backbone, and another checkpoint before it.
        state["method"] |= {f"backbone.{n}": v for n, v in context.backbone.state_dict().items()}
        torch.save(state, run / "checkpoints" / "last.pt")
    assert measure(context, again=True, heads=["linear", "setr_mla"], auxiliary=0.4) == first
    measure(context, finetune=True)
    (tuned,) = (
        run
        for run in (context.run_dir / "segmentation").glob("linear-*")
        if "finetune: true" in (run / "config.yaml").read_text()
    )
    assert any(name.startswith("backbone.") for name in load_checkpoint(tuned / "checkpoints" / "last.pt")["method"])


def test_the_context_backbone_is_never_changed(make_context):
    context = make_context("resnet18")
    before = {name: value.clone() for name, value in context.backbone.state_dict().items()}
    for finetune in (False, True):
        measure(context, finetune=finetune)
    assert all(torch.equal(value, before[name]) for name, value in context.backbone.state_dict().items())
    assert not context.backbone.training


def test_test_images_through_windows_at_several_scales_and_flipped(make_context):
    context = make_context()
    (miou, *_) = measure(context, test_mode="slide", test_scales=[0.75, 1.0], test_flip=True)
    assert miou.protocol["test_view"].startswith("windows of 32") and miou.protocol["test_scales"] == [0.75, 1.0]


def test_a_dilated_resnet_keeps_its_weights(make_context):
    context = make_context("resnet50")
    evaluation = Segmentation(config())
    backbone = evaluation._backbone(context)
    assert backbone.stride == 8 and context.backbone.stride == 32
    assert all(torch.equal(v, backbone.state_dict()[n]) for n, v in context.backbone.state_dict().items())


def test_examples_are_kept_for_the_report(make_context):
    context = make_context()
    measure(context)
    kept = np.load(context.run_dir / "figures" / "segmentation-voc2012.npz")
    assert len(kept["images"]) == len(kept["names"]) == 5 and kept["classes"][15] == "person"
    ious = kept["iou_linear"]
    assert kept["worst_linear"][0] == np.argmin(ious) and kept["best_linear"][0] == np.argmax(ious)
    sizes = dict(zip(kept["names"], kept["sizes"].tolist(), strict=True))
    assert sizes["JPEGImages/s10.jpg"] == [120, 192]  # 40 × 64
    place = list(kept["names"]).index("JPEGImages/s8.jpg")
    assert set(np.unique(kept["truth"][place])) == set(np.unique(context.test.mask(0)))


def test_a_head_s_run_says_how_it_was_trained(make_context):
    context = make_context()
    measure(context)
    (run,) = (context.run_dir / "segmentation").glob("linear-*")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert log[0]["images"] == 8 and log[-1]["kind"] == "end"
    rates = [record["lr"] for record in log if record["kind"] == "step"]
    assert rates[0] == pytest.approx(1e-3) and rates[-1] == pytest.approx(1e-3 * (1 / 4) ** 0.9)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"heads": ["setr_pop"]}, "did you mean setr_pup"),
        ({"heads": []}, "at least one"),
        ({"loss": ["dise"]}, "did you mean dice"),
        ({"loss": []}, "no loss is given"),
        ({"optimizer": "adam"}, "did you mean adamw"),
        ({"scale": [2.0, 0.5]}, "two ends of a range"),
        ({"test_scales": [0.0]}, "more than 0"),
        ({"crop_size": 200_000}, "--segmentation_crop_size 200000: give 8 to 4096 pixels"),
        ({"crop_size": 30}, "30×30 pixels do not divide into patches of 4"),
        ({"batch_size": 16}, r"fewer than one batch; give --batch_size \d+ or less \(.*--segmentation_batch_size\)"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"output_stride": 8}, "cannot be given 8"),
        ({"train_list": "train_aug"}, "--download makes it"),
    ],
)
def test_wrong_options_are_one_sentence(make_context, options, words):
    with pytest.raises(UserError, match=words) as error:
        measure(make_context(), **options)
    assert "\n" not in str(error.value)


def test_deeplab_refuses_batches_of_one(make_context):
    with pytest.raises(UserError, match="a BatchNorm of deeplabv3 would have a single value"):
        measure(make_context(), heads=["deeplabv3"], batch_size=1)


def test_data_without_masks(make_context, monkeypatch):
    context = make_context()
    monkeypatch.setattr(type(context.test), "has_masks", False)
    with pytest.raises(UserError, match="has no masks"):
        measure(context)
