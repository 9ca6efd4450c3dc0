"""A step of a batch in parts (``--accumulate``) equals the step of the whole batch, but for what a method says of its batch."""

import pytest
import torch

from methods.core.base import METHODS
from tests.distributed import cases

CASES = [case for name in cases.TRAINED for case in cases.cases_of(name)]
CASES += [case for case in cases.FURTHER if case.backbone == "small_vit"]


def differs(ours, reference):
    """Whether numbers differ by more than rounding, relative to each or to the largest."""
    largest = max(float(value.abs().max()) for value in reference.values() if value.is_floating_point())
    return ours.keys() != reference.keys() or not all(
        torch.allclose(ours[name], value, rtol=1e-6, atol=1e-9 * largest) for name, value in reference.items()
    )


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_in_parts_equals_the_whole_step(case, parts):
    """Losses, the gradient and the state after three steps, with each switch of each method: equal exactly where the method names
    no statistic of the batch. Labels are in some parts only."""
    kind = METHODS.get(case.method)
    whole, in_parts = (cases.steps(case, accumulate) for accumulate in (1, parts))
    statistics = kind.statistics_of(vars(kind.Config(**case.options)))
    different = {
        "losses": differs({"": in_parts["losses"]}, {"": whole["losses"]}),
        "gradients": differs(in_parts["gradients"], whole["gradients"]),
        "state": differs(in_parts["same"], whole["same"]),
    }
    assert different == dict.fromkeys(different, bool(statistics)), statistics


def test_each_statistic_names_options_of_the_method():
    for name in cases.TRAINED:
        kind = METHODS.get(name)
        for statistic, asked in kind.batch_statistics.items():
            changed = {option: values[0] for option, values in asked.items()}
            assert statistic in kind.statistics_of({**vars(kind.Config()), **changed})
