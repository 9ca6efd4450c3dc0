"""Label propagation on tiny videos in DAVIS 2017's layout, and on real ones."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from backbones import build_backbone
from commands.evaluate import EvaluateCommand, evaluate_weights
from common.errors import UsageError, UserError
from common.images import voc_palette
from common.statistics.bootstrap import mean_interval
from data.datasets import open_benchmark
from eval.core.context import EvalContext, make_context
from eval.core.options import WeightsOptions
from eval.core.run import run_evaluations
from eval.davis import DavisConfig, DavisPropagation, frame_size, hard_labels, object_outcomes
from rundir.results import read_results

COLOURS = np.array([[90, 90, 90], [220, 40, 40], [40, 40, 220]])
OPTIONS = {"size": 32, "n_last_frames": 2, "size_mask_neighborhood": 2}


def write_video(root: Path, name: str, objects: int = 2, frames: int = 6, one_object: bool = False) -> None:
    """Squares that move by two pixels a frame over noise, 34 × 70 pixels."""
    rng = np.random.default_rng(len(name))
    images, masks = root / "JPEGImages" / "480p" / name, root / "Annotations" / "480p" / name
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for frame in range(frames):
        mask = np.zeros((34, 70), np.uint8)
        for number in range(objects):
            left = 6 + 30 * number + 2 * frame
            mask[8:22, left : left + 14] = number + 1
        pixels = COLOURS[mask] + rng.normal(0, 10, (34, 70, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(images / f"{frame:05d}.jpg", quality=95)
        if one_object:
            Image.fromarray(mask * 255).save(masks / f"{frame:05d}.png")
        else:
            image = Image.fromarray(mask)
            image.putpalette(voc_palette().tobytes())
            image.save(masks / f"{frame:05d}.png")


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    root = tmp_path / "DAVIS"
    write_video(root, "two")
    write_video(root, "single", objects=1, frames=5, one_object=True)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("two\nsingle\n")
    return root


@pytest.fixture
def context(davis: Path, tmp_path: Path) -> EvalContext:
    return make_context(
        WeightsOptions(
            backbone="vit_nano",
            data="davis",
            data_root=str(davis),
            image_size=32,
            device="cpu",
            precision="fp32",
            out=tmp_path / "run",
        )
    )


def follow_by_hand(backbone, frames, first, size, last, radius, topk=5, temperature=0.1):
    """The reference's program, patch by patch: every patch of every source is looked at."""

    def features(frame):
        levels = F.interpolate(torch.tensor(frame).permute(2, 0, 1)[None].float(), size, mode="bilinear").round() / 255
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.inference_mode():
            tokens = backbone.tokens((levels - mean) / std)[0][0, 1:]
        return F.normalize(tokens, dim=1).double()

    rows, columns = size[0] // 4, size[1] // 4
    small = np.array(Image.fromarray(first).resize((columns, rows), Image.Resampling.NEAREST)).ravel()
    labels = [np.eye(int(first.max()) + 1)[small]]
    seen, result = [features(frames[0])], [first]
    for number in range(1, len(frames)):
        target = features(frames[number])
        sources = [0, *range(max(1, number - last), number)]
        soft = np.zeros_like(labels[0])
        for place in range(rows * columns):
            candidates = []
            for source in sources:
                for other in range(rows * columns):
                    apart = abs(place // columns - other // columns), abs(place % columns - other % columns)
                    if max(apart) <= radius:
                        similarity = float(target[place] @ seen[source][other])
                        candidates.append((np.exp(similarity / temperature), source, other))
            best = sorted(candidates, reverse=True)[:topk]
            total = sum(weight for weight, _, _ in best)
            soft[place] = sum(weight / total * labels[source][other] for weight, source, other in best)
        seen.append(target)
        labels.append(soft)
        result.append(hard_labels(torch.tensor(soft).float().view(rows, columns, -1), size, first.shape).numpy())
    return np.stack(result)


def test_follows_as_the_definition_does(context):
    video = context.test.videos[0]
    truth = video.read_masks()
    frames = [np.array(Image.open(file)) for file in video.frames]
    found = DavisPropagation(DavisConfig(**OPTIONS)).follow(context, video, truth[0])
    expected = follow_by_hand(context.backbone, frames, truth[0], (32, 64), last=2, radius=2)
    assert (found != expected).mean() < 0.002  # sums in another order decide between equal labels


def test_measurements_masks_and_predictions(context):
    (jf, j, *others) = run_evaluations(["davis"], {"davis": DavisConfig(**OPTIONS)}, context)
    assert (jf.metric, j.metric, jf.n) == ("jf_mean", "j_mean", 3)
    assert [m.metric for m in others] == ["j_recall", "j_decay", "f_mean", "f_recall", "f_decay", "seconds_per_frame"]
    assert j.value > 60  # colours that even an untrained network tells apart
    assert jf.low <= jf.value <= jf.high
    assert jf.value == pytest.approx((j.value + others[2].value) / 2)
    assert others[-1].value > 0 and others[-1].n == 9
    with np.load(context.run_dir / j.predictions) as arrays:
        assert 100 * arrays["j_mean"].mean() == pytest.approx(j.value)
        assert arrays["groups"].tolist() == [0, 0, 1]
    assert read_results(context.run_dir / "results" / "davis.json")[0] == jf

    # From the files alone, by the definition: they are what the benchmark's program would read.
    means = []
    for video in context.test.videos:
        written = []
        for frame in video.frames:
            with Image.open(context.run_dir / "davis" / video.name / f"{frame.stem}.png") as image:
                assert image.mode == "P"
                assert image.getpalette()[3:6] == [128, 0, 0]
                written.append(np.array(image))
        truth = video.read_masks()
        assert (written[0] == truth[0]).all()
        for number in range(1, truth[0].max() + 1):
            pairs = [(w == number, t == number) for w, t in zip(written[1:-1], truth[1:-1], strict=True)]
            means.append(np.mean([(w & t).sum() / (w | t).sum() for w, t in pairs]))
    assert 100 * np.mean(means) == pytest.approx(j.value)


def test_perfect_masks_score_100(context, monkeypatch):
    monkeypatch.setattr(DavisPropagation, "follow", lambda self, context, video, first: video.read_masks())
    *scored, _ = DavisPropagation(DavisConfig(**OPTIONS)).run(context)
    assert {m.metric: m.value for m in scored} == {
        **dict.fromkeys(["jf_mean", "j_mean", "j_recall", "f_mean", "f_recall"], 100),
        **dict.fromkeys(["j_decay", "f_decay"], 0),
    }


def test_one_object_masks_and_void(davis):
    two, single = open_benchmark("davis", davis).videos
    assert np.unique(single.read_masks()).tolist() == [0, 1]
    mask = np.array(Image.open(two.masks[3]))
    mask[:3], mask[-3:] = 255, 9  # void, and an object that the first frame lacks
    Image.fromarray(mask).save(two.masks[3])
    ids = two.read_masks()
    assert np.unique(ids).tolist() == [0, 1, 2]
    assert (ids[3, :3] == 0).all() and (ids[3, -3:] == 0).all()


def test_intervals_draw_videos():
    values, of_video = np.array([0.1, 0.1, 0.9]), np.array([0, 0, 1])
    assert mean_interval(values, groups=of_video) == (pytest.approx(0.1), pytest.approx(0.9))
    measure = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert object_outcomes([measure])["jf_mean"] == [0.5]


def test_frame_sizes_are_the_reference_s():
    assert frame_size((480, 854), 480, 64) == (480, 832)
    assert frame_size((854, 480), 480, 64) == (832, 480)
    assert frame_size((480, 480), 480, 64) == (480, 448)


def damaged_mask(root):
    (root / "Annotations/480p/two/00002.png").write_bytes(b"no image")


def other_size(root):
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / "Annotations/480p/two/00002.png")


def all_other_size(root):
    for file in (root / "Annotations/480p/two").iterdir():
        Image.fromarray(np.eye(20, dtype=np.uint8)).save(file)


def colour_mask(root):
    Image.fromarray(np.zeros((34, 70, 3), np.uint8)).save(root / "Annotations/480p/two/00000.png")


def no_object(root):
    Image.fromarray(np.zeros((34, 70), np.uint8)).save(root / "Annotations/480p/two/00000.png")


def gap(root):
    mask = np.zeros((34, 70), np.uint8)
    mask[:5], mask[5:9] = 1, 3
    Image.fromarray(mask).save(root / "Annotations/480p/two/00000.png")


def foreign(root):
    Image.fromarray(np.full((34, 70), 7, np.uint8)).save(root / "Annotations/480p/single/00002.png")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda root: (root / "ImageSets/2017/val.txt").unlink(), r"val\.txt: the list of videos is missing"),
        (lambda root: (root / "ImageSets/2017/val.txt").write_text(""), "names no video"),
        (lambda root: (root / "ImageSets/2017/val.txt").write_text("three"), "three: 0 frames"),
        (lambda root: (root / "ImageSets/2017/val.txt").write_text("two\na/b"), r"line 2: 'a/b' is no name"),
        (lambda root: (root / "Annotations/480p/two/00000.png").unlink(), r"00000\.png: the mask is missing"),
        (
            lambda root: (root / "JPEGImages/480p/two/00003.jpg").write_bytes(b"x"),
            r"00003\.jpg: no usable image",
        ),
        (damaged_mask, r"00002\.png: the mask cannot be read"),
        (other_size, r"00002\.png: the mask is 10×10 pixels and the video's first 34×70"),
        (all_other_size, r"00000\.jpg: the frame is 34×70 pixels and the video's masks 20×20"),
        (colour_mask, "the mask is a RGB image, not one of ids"),
        (no_object, r"numbered 1, 2, … \(here: none\)"),
        (gap, r"\(here: 1, 3\)"),
        (foreign, r"single/00002\.png: holds other values than 0 and 255"),
    ],
)
def test_wrong_data_is_named(davis, tmp_path, change, message):
    change(davis)
    with pytest.raises(UserError, match=message):
        context = make_context(
            WeightsOptions(
                backbone="vit_nano",
                data="davis",
                data_root=str(davis),
                image_size=32,
                device="cpu",
                precision="fp32",
                out=tmp_path / "run",
            )
        )
        DavisPropagation(DavisConfig(**OPTIONS)).run(context)


def test_wrong_options_and_data_sets(davis, tmp_path, context):
    with pytest.raises(UsageError, match="davis_topk 0: give at least 1"):
        run_evaluations(["davis"], {"davis": DavisConfig(topk=0)}, context)
    with pytest.raises(UsageError, match="davis_temperature"):
        run_evaluations(["davis"], {"davis": DavisConfig(temperature=0)}, context)
    with pytest.raises(UserError, match=r"--davis_size 30 is no multiple of the 4 pixels"):
        DavisPropagation(DavisConfig(size=30)).run(context)
    command = EvaluateCommand(backbone="vit_nano", data="davis", data_root=str(davis), out=str(tmp_path / "out"))
    with pytest.raises(UsageError, match="--evals knn cannot measure on davis; give --evals davis"):
        evaluate_weights(command, {"knn": None})
    assert not (tmp_path / "out").exists()


def test_other_data_sets_are_refused(make_test_context):
    with pytest.raises(UsageError, match="--evals davis measures on davis, not on imagefolder"):
        run_evaluations(["davis"], {}, make_test_context())


@pytest.mark.skipif("SSL_COMPARE_DATA" not in os.environ, reason="SSL_COMPARE_DATA does not name a folder of real data")
def test_real_videos(tmp_path):
    data = open_benchmark("davis", Path(os.environ["SSL_COMPARE_DATA"]) / "DAVIS")
    assert [len(video.frames) for video in data.videos] == [40, 50, 49]
    video = data.videos[0]
    short = type(video)(video.name, video.frames[:4], video.masks[:4])
    truth = short.read_masks()
    assert truth.shape == (4, 480, 854) and np.unique(truth).tolist() == [0, 1]
    torch.manual_seed(0)
    network = build_backbone("resnet18", 224)
    context = EvalContext(
        backbone=network,
        backbone_name="resnet18",
        weights="untrained",
        train=data,
        test=data,
        image_size=224,
        device=torch.device("cpu"),
        precision="fp32",
        run_dir=tmp_path,
    )
    found = DavisPropagation(DavisConfig()).follow(context, short, truth[0])
    assert (found[1] & truth[1]).sum() > 0.5 * truth[1].sum()
