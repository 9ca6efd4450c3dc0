"""Names cut to little room stay different, and keep what varies."""

import itertools

import pytest

from common.names import short, short_names


def test_a_name_is_cut_in_its_middle():
    assert short("abcdefghij", 10) == "abcdefghij"
    assert short("abcdefghijklmnop", 9) == "abc…lmnop"


def test_what_varies_stays():
    names = [
        f"dino-vit_small_patch16-global_scale=0.4+1.0-lr={lr}-seed{s}" for lr in ("1e-04", "0.001") for s in (0, 1)
    ]
    assert short_names(names, 26) == [f"dino-…{lr}-seed{s}" for lr in ("lr=1e-04", "lr=0.001") for s in (0, 1)]
    assert short_names(names, 99) == names
    tiny = [f"dino-vit-lr={lr}-seed0" + "-long" * 9 for lr in ("1e-05", "2e-05")]
    assert short_names(tiny, 20) == ["dino-…lr=1e-05-…", "dino-…lr=2e-05-…"]
    two = [f"dino-vit_nano-momentum_teacher={m}-weight_decay={w}-seed0" for m in (0.9, 0.996) for w in (0.04, 0.4)]
    assert all(
        f"={m}-" in name and f"={w}-" in name
        for name, (m, w) in zip(short_names(two, 30), [(m, w) for m in (0.9, 0.996) for w in (0.04, 0.4)], strict=True)
    )
    labels = ["DINO, vit_small_patch16, lr 0.1", "DINO, vit_small_patch16, lr 0.2"]
    assert short_names(labels, 20) == ["DINO, …lr 0.1", "DINO, …lr 0.2"]


@pytest.mark.parametrize("most", [12, 20, 33])
def test_different_names_stay_different(most):
    letters = ["x" * 40 + middle + "y" * 40 for middle in ("a", "bb", "ccc")]
    grid = [
        "-".join(parts)
        for parts in itertools.product(("dino", "mae"), ("a" * 30, "b" * 30), ("lr=1", "lr=2"), ("s0", "s1"))
    ]
    for names in (letters, grid, ["same" * 20], ["same" * 20] * 2, ["a" * 50, "a" * 60]):
        made = short_names(names, most)
        assert all(len(name) <= most for name in made)
        assert len(set(made)) == len(set(names))
