import pytest
import torch

from eval.dense.attention_masks import keep_mass


def test_the_smallest_set_of_patches_that_holds_the_mass():
    attention = torch.rand(4, 3, 5, 7, generator=torch.Generator().manual_seed(0)) ** 4
    mask = keep_mass(attention, 0.6)
    assert mask.shape == attention.shape
    for values, kept in zip(attention.flatten(0, 1), mask.flatten(0, 1), strict=True):
        share = values[kept].sum() / values.sum()
        assert share >= 0.6 - 1e-6
        assert share - values[kept].min() / values.sum() < 0.6  # one fewer would not do
        assert values[kept].min() > values[~kept].max()


def test_all_of_the_mass_keeps_every_patch_that_has_some():
    attention = torch.tensor([[[0.5, 0.2], [0.3, 0.0]]])
    assert keep_mass(attention, 1.0).tolist() == [[[True, True], [True, False]]]


@pytest.mark.parametrize("mass", [0, -0.1, 1.1])
def test_wrong_masses(mass):
    with pytest.raises(ValueError, match="mass"):
        keep_mass(torch.ones(1, 2, 2), mass)
