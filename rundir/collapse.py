"""Signs of collapse in the step records of a log, for warnings while a run trains, and for reports later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rundir.options import as_number

#: Step records in a row that must show a sign.
PATIENCE = 5
#: A loss within this part of ln(out_dim) means equal outputs for every image.
FLAT = 0.005
#: Projections collapse where their effective rank is below this part of its maximum; features and projections below ``FEWEST``.
COLLAPSED_RANK, FEWEST = 0.05, 1.5
#: Nats about the image in a teacher's outputs, below which they collapse. (Tiny runs have 0.2 to 1 with centring, and below 0.001
#: within tens of steps without it.)
COLLAPSED_INFORMATION = 0.01


def signs_in(record: Mapping[str, Any], out_dim: float | None = None) -> dict[str, str]:
    """The signs of collapse in a step record: ``flat_loss``, ``rank``, ``information``, with words on each. ``out_dim``: number of
    the method's output classes, at whose logarithm the loss says nothing; None without any, and during the warm-up."""
    loss, rank, limit, information = (
        as_number(record.get(name)) for name in ("loss", "effective_rank", "rank_limit", "teacher_information")
    )
    signs = {}
    if (
        out_dim is not None
        and out_dim > 1
        and loss is not None
        and abs(loss - math.log(out_dim)) < FLAT * math.log(out_dim)
    ):
        signs["flat_loss"] = (
            f"the loss stays at ln(out_dim) = {math.log(out_dim):.2f}: every image gets the same outputs"
        )
    if rank is not None and rank < max(COLLAPSED_RANK * (limit or 0.0), FEWEST):
        of_most = "" if limit is None else f" of at most {limit:g}"
        signs["rank"] = f"features collapse: their effective rank is {rank:.1f}{of_most}"
    if information is not None and information < COLLAPSED_INFORMATION:
        signs["information"] = (
            f"the outputs collapse: they tell {max(information, 0):.3f} nats of which image they are of"
        )
    return signs


def collapse_at_end(
    steps: Sequence[Mapping[str, Any]], features: Sequence[Mapping[str, Any]], out_dim: float | None = None
) -> str:
    """Words on the collapse in which a training has ended; "" for none: the last ``PATIENCE`` of its ``steps`` have a sign in
    common, or the last diagnostics of the backbone's ``features`` an effective rank below ``FEWEST``. A collapse that the training
    has left again does not count."""
    last = [signs_in(record, out_dim) for record in steps[-PATIENCE:]]
    if len(last) == PATIENCE:
        for sign, words in last[-1].items():
            if all(sign in signs for signs in last):
                return words
    ranks = [rank for record in features if (rank := as_number(record.get("effective_rank"))) is not None]
    if ranks and ranks[-1] < FEWEST:
        return f"the backbone's features collapse: their effective rank is {ranks[-1]:.1f}"
    return ""
