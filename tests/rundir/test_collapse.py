"""Which trainings have ended in a collapse, by their logs."""

import math

import pytest

from rundir.collapse import PATIENCE, collapse_at_end

FINE = {"loss": 3.0, "effective_rank": 20.0, "rank_limit": 63, "teacher_information": 1.0}


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ({"effective_rank": 1.2}, "effective rank is 1.2 of at most 63"),
        ({"effective_rank": 3.0}, "effective rank is 3.0"),  # below a twentieth of the most
        ({"teacher_information": 0.001}, "0.001 nats"),
        ({"loss": math.log(4096) * 1.001}, "every image gets the same outputs"),
    ],
)
def test_a_sign_in_the_last_records_is_a_collapse(sign, words):
    steps = [FINE] * 20 + [{**FINE, **sign}] * PATIENCE
    assert words in collapse_at_end(steps, [], 4096)
    assert not collapse_at_end(steps[:-1], [], 4096) and not collapse_at_end([*steps, FINE], [], 4096)
    assert not collapse_at_end([FINE] * 20, [], 4096)


def test_the_loss_of_a_method_without_classes_says_nothing():
    steps = [{**FINE, "loss": math.log(4096)}] * PATIENCE
    assert collapse_at_end(steps, [], 4096) and not collapse_at_end(steps, [])


def test_changing_signs_and_damaged_records_are_no_collapse():
    signs = [{"effective_rank": 1.0}, {"teacher_information": 0.0}]
    assert not collapse_at_end([{**FINE, **signs[i % 2]} for i in range(2 * PATIENCE)], [])
    assert not collapse_at_end([FINE] * 9, [], -1.0)
    assert not collapse_at_end([{"loss": "nan", "effective_rank": None}, {}] * PATIENCE, [{}], 4096)


def test_features_collapse_too():
    features = [{"effective_rank": 30.0}, {"effective_rank": 1.01}, {"feature_std": 0.5}]
    assert "backbone's features collapse" in collapse_at_end([FINE] * 9, features)
    assert not collapse_at_end([FINE] * 9, features[:1])
