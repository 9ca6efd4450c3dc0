import numpy as np
import pytest
import torch
from torch import nn

from data.views.dense import fitted_size
from eval.dense.predict import View, _starts, predict, predict_images
from eval.features.extract import FrozenBackbone

CPU = torch.device("cpu")


class Pixels(nn.Module):
    """A backbone whose map is the image."""

    has_tokens = False

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def maps(self, images, blocks):
        self.seen.append(tuple(images.shape))
        return [images for _ in blocks]


class Reds(nn.Module):
    """Class 1 where an image is red, else 0."""

    def forward(self, maps, size):
        red = maps[0][:, 0] - maps[0][:, 1]
        return torch.stack([-red, red, torch.full_like(red, -9.0), torch.full_like(red, -9.0)], 1) * 4


class Left(nn.Module):
    def forward(self, maps, size):
        left = torch.linspace(1, -1, size[1]).expand(len(maps[0]), *size)
        return torch.stack([torch.zeros_like(left), left], 1)


def frozen(backbone: nn.Module) -> FrozenBackbone:
    return FrozenBackbone(backbone=backbone, device=CPU, precision="fp32")


HEADS = {"reds": (Reds(), (0,))}


def image_with_red(height: int, width: int, box: tuple[int, int, int, int]):
    image, mask = torch.full((3, height, width), 60, dtype=torch.uint8), torch.zeros(height, width, dtype=torch.uint8)
    top, left, bottom, right = box
    image[0, top:bottom, left:right] = 220
    mask[top:bottom, left:right] = 1
    return image, mask


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.5)])
@pytest.mark.parametrize("flip", [False, True])
def test_predictions_lie_where_the_things_are(mode, scales, flip):
    backbone = Pixels()
    view = View(size=48, mode=mode, scales=scales, flip=flip, multiple=16)
    pairs = [image_with_red(40, 90, (8, 60, 32, 84)), image_with_red(90, 40, (60, 4, 84, 30))]
    found = list(predict_images(frozen(backbone), HEADS, [image for image, _ in pairs], view))
    for (_, mask), of_image in zip(pairs, found, strict=True):
        probabilities = of_image["reds"]
        assert probabilities.shape[1:] == mask.shape
        assert torch.allclose(probabilities.sum(0), torch.ones(mask.shape), atol=1e-5)
        wrong = probabilities.argmax(0) != mask
        assert wrong.float().mean() < 0.06  # blur at the borders only
        assert not wrong[:4, :4].any() and not wrong[-4:, -4:].any()
    assert all(shape[-1] == shape[-2] and shape[-1] % 16 == 0 for shape in backbone.seen)
    if mode == "slide":
        assert {shape[-1] for shape in backbone.seen} == {48}


def test_flipping_an_image_flips_its_prediction():
    image = torch.randint(0, 256, (3, 40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    heads = {"left": (Left(), (0,))}
    for flip, symmetric in ((True, True), (False, False)):
        view = View(size=60, flip=flip)
        plain, mirrored = (
            next(predict_images(frozen(Pixels()), heads, [pixels], view))["left"] for pixels in (image, image.flip(-1))
        )
        assert torch.allclose(plain, mirrored.flip(-1), atol=1e-6) == symmetric


def test_windows_cover_everything():
    for length in range(1, 200):
        starts = _starts(length, View(size=48))
        covered = np.zeros(length, bool)
        for start in starts:
            covered[start : start + 48] = True
        assert covered.all() and starts[0] == 0 and (length <= 48 or starts[-1] == length - 48)


def test_padding_is_cut_off():
    """A head that calls everything class 1 at the right half of its input: of a tall image the right half is padding."""

    class Right(nn.Module):
        def forward(self, maps, size):
            right = torch.linspace(-1, 1, size[1]).expand(len(maps[0]), *size)
            return torch.stack([torch.zeros_like(right), right], 1)

    image = torch.zeros(3, 80, 40, dtype=torch.uint8)
    found = next(predict_images(frozen(Pixels()), {"r": (Right(), (0,))}, [image], View(size=80)))["r"]
    assert (found.argmax(0) == 0).all()


def test_heads_share_a_pass_and_sizes_are_the_originals(stores):
    backbone = Pixels()
    heads = {"a": (Reds(), (0,)), "b": (Reds(), (0,))}
    found = dict(predict(frozen(backbone), heads, stores[1], View(size=32)))
    assert sum(shape[0] for shape in backbone.seen) == len(stores[1])
    for image, of_heads in found.items():
        assert of_heads["a"].dtype == torch.uint8 and tuple(of_heads["a"].shape) == stores[1].mask(image).shape
        assert torch.equal(of_heads["a"], of_heads["b"])


def test_fitted_sizes():
    assert fitted_size((375, 500), 512) == (384, 512)
    assert fitted_size((500, 375), 512) == (512, 384)
    assert fitted_size((1, 1000), 64) == (1, 64)
    assert fitted_size((30, 20), 60, factor=2) == (120, 80)
